"""The benchmarks run, and both sides of each comparison are what they are said to be."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import answer, evaluation, feature_cache, train_step
from benchmarks.common import PRESETS, batch_of, build_llava, build_ours, rows_of_one_image, step_flops, visual_tokens
from model.fused_lora import unfuse_lora


@pytest.mark.parametrize("module", [train_step, answer, evaluation, feature_cache])
def test_each_prints_a_table_and_writes_its_numbers(module, monkeypatch, tmp_path, capsys):
    output = tmp_path / "numbers.json"
    arguments = [module.__name__, "--preset", "tiny", "--repeats", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    module.main()
    written = json.loads(output.read_text(encoding="utf-8"))
    assert written["torch"] == torch.__version__ and len(written["rows"]) >= 4
    printed = capsys.readouterr().out
    assert all(row[""] in printed for row in written["rows"])


def test_a_tree_of_five_holds_the_tokens_of_five_rows_less_four_prefixes():
    shape = PRESETS["tiny"]
    generator = torch.Generator().manual_seed(0)
    assert visual_tokens(PRESETS["cpu"]) == 728 and len(rows_of_one_image(shape, 1, generator)[0][0]) == 12 + 63 + 28
    batch = batch_of(shape, 5, 2, generator)
    assert batch["input_ids"].shape == (2, 12 + 63 + 5 * 28) and batch["pixel_values"].shape[0] == 2
    assert (batch["labels"] != -100).sum() == 2 * 5 * 10


def test_both_models_train_the_same_number_of_adapters():
    def adapters(model) -> int:
        return sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "lora_" in n)

    options = (PRESETS["tiny"], torch.float32, torch.device("cpu"))
    assert adapters(build_ours(*options)) == adapters(build_llava(*options)) > 0


def test_operations_of_a_step_are_those_that_torch_counts():
    shape = PRESETS["tiny"]
    model = build_ours(shape, torch.float32, torch.device("cpu"), checkpointing=False)
    unfuse_lora(model.language)  # torch does not look into our operators
    for part in (model.vision, model.language.get_base_model()):
        part.set_attn_implementation("eager")  # two matrix products that torch counts; SDPA on a CPU is not counted
    batch = batch_of(shape, 3, 2, torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    length, labels = batch["input_ids"].shape[1], int((batch["labels"] != -100).sum())
    assert step_flops(shape, length, 2, labels) == pytest.approx(counter.get_total_flops(), rel=0.03)

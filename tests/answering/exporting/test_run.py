"""An export that is not the same model, or has no room, is refused and leaves nothing."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file

from answering.assistant import Assistant
from answering.checkpoints import open_config
from answering.exporting import hf
from answering.exporting import run as run_module
from answering.exporting.compare import sample_requests
from answering.exporting.formats import Options
from answering.exporting.tower import tower_part
from common.errors import UserError
from tests.conftest import write_config
from tests.helpers.exports import exported, trained_checkpoint
from tests.helpers.tiny import save_qwen

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def simple(tmp_path_factory, siglip_folder, qwen_folder):
    folder = tmp_path_factory.mktemp("simple")
    return trained_checkpoint(write_config(folder, siglip_folder, qwen_folder), folder / "checkpoint")


@pytest.mark.parametrize("wrong", ["norm", "weight", "template", "pixels"])
def test_an_export_that_differs_is_refused_and_removed(simple, tmp_path, monkeypatch, wrong):
    if wrong == "norm":  # the tower as it is, which is what a naive export writes
        monkeypatch.setattr(hf, "tower_part", _naive)
        message = "logits differ from ours by"
    elif wrong == "weight":
        write = hf.write_shards
        monkeypatch.setattr(hf, "write_shards", lambda state, *rest: write(_nudged(state), *rest))
        message = "logits differ from ours by"
    elif wrong == "template":
        right = hf.chat_template
        monkeypatch.setattr(hf, "chat_template", lambda *given: right(*given).replace("<|im_end|>\\n", "<|im_end|>"))
        message = "the export's prompt of .* differs from ours at token"
    else:
        monkeypatch.setattr(hf.StockLlava, "pixels", lambda self, images: torch.zeros(1, 3, 42, 42))
        message = "pixel_values differ"
    with pytest.raises(UserError, match=message):
        exported(simple, tmp_path / "export")
    assert not (tmp_path / "export").exists() and not list(tmp_path.glob(".export*"))


def _naive(tower, norm):
    part = tower_part(tower, "tie")
    del part.config.tie_last_hidden_states
    return part


def _nudged(state):
    return {name: tensor * 1.01 if name.endswith("linear_2.weight") else tensor for name, tensor in state.items()}


def test_a_full_disk_is_noticed_before_the_weights_are_read(simple, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 10**6))
    monkeypatch.setattr(run_module, "load_undamaged", lambda *given: pytest.fail("weights were read"))
    with pytest.raises(UserError, match=r"--output = .*: needs .* MiB, and .* has .* MiB free"):
        config = open_config(simple)
        run_module.export(simple, tmp_path / "new" / "export", Options("hf", "fp32"), config, run_module.HeldOut())


def test_what_a_crash_left_is_replaced(simple, tmp_path):
    half = tmp_path / ".export.tmp"
    half.mkdir()
    (half / "model-00001-of-00009.safetensors").write_text("half")
    folder, _ = exported(simple, tmp_path / "export")
    assert not half.exists() and not list(folder.glob("model-*"))


def test_the_samples_cover_pictures_and_turns():
    shown = [(len(request.turns), len(request.images)) for request in sample_requests()]
    assert shown == [(1, 1), (2, 2), (1, 2), (2, 0)]


def test_an_adapter_with_a_bias_is_refused_by_name(make_config, tmp_path):
    config = make_config("lora.lora_bias=true")
    with pytest.raises(UserError, match=r"lora\.lora_bias gives layers a bias"):
        exported(trained_checkpoint(config, tmp_path / "checkpoint"), tmp_path / "export")


def test_a_model_trained_on_four_bits_is_exported_with_the_weights_that_it_saw(make_config, tmp_path):
    qwen = save_qwen(tmp_path / "qwen", hidden_size=64, intermediate_size=128)  # rows are whole blocks of 64 weights
    config = make_config(f"language.path={qwen}", "language.load_in_4bit=true")
    checkpoint = trained_checkpoint(config, tmp_path / "checkpoint")
    folder, source = exported(checkpoint, tmp_path / "export")
    (request, *_) = sample_requests()
    (found,) = Assistant.load(checkpoint, "cpu").answer([request])
    assert "quantization_config" not in (folder / "config.json").read_text()
    assert [found] == source.answer([request])
    plain = load_file(qwen / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    merged = load_file(folder / "model.safetensors")["language_model.model.layers.0.mlp.up_proj.weight"]
    assert (merged - plain).abs().max() > 0.01  # 4 bits, and the adapter

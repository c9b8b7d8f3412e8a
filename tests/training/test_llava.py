"""A run that begins with a LLaVA trains, resumes, is evaluated and opened like any other."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import evaluate
from answering.assistant import Assistant
from answering.worker import Worker
from common.llava import read_part
from dataset.prompt import Request, Turn, question_with_images
from settings import load_config
from tests.helpers import llava
from tests.helpers.llava import save_llava, start_from
from tests.helpers.runs import conversations
from tests.helpers.tiny import picture
from training import setup
from training.dry_run import dry_run
from training.setup import build_loop


@pytest.fixture
def config(make_config, tmp_path):
    make_config(pictures=9, conversations=conversations(9))
    return start_from(tmp_path / "run.yaml", save_llava(tmp_path / "llava", layer=[-1, -2]))


def trained(config, folder, resume=None):
    """Train the run to its end, and give its last checkpoint."""
    folder.mkdir(exist_ok=True)
    loop = build_loop(config, folder)
    loop.train(resume, before_first_step=lambda: None)
    return folder / f"checkpoint-{loop.progress.step}"


def test_it_learns_in_trees_resumes_and_answers(config, tmp_path):
    whole = trained(config, tmp_path / "whole")
    resumed = trained(config, tmp_path / "resumed", resume=whole.parent / "checkpoint-2")
    for name in ("projector.safetensors", "language/adapter_model.safetensors"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()
    adapters = load_file(whole / "language" / "adapter_model.safetensors")
    assert all(tensor.abs().max() > 0 for name, tensor in adapters.items() if "lora_B" in name)  # they start as 0
    own, projector = read_part(config.model, "projector"), load_file(whole / "projector.safetensors")
    assert 0 < (projector["0.weight"] - own["linear_1.weight"]).abs().max() < 0.2  # 4 steps from where it began
    assert list(json.loads((whole / "manifest.json").read_text())["base_models"]) == ["model"]
    assert load_config(whole / "config.yaml", check_models=False) == config
    assistant = Assistant.load(whole, "cpu")
    request = Request([Turn(question_with_images("What is 1 of 2?", 1))], [picture("red")])
    (answer,) = assistant.answer([request])
    assert "".join(assistant.stream(request)).strip() == answer


def test_the_projector_begins_as_the_models_own(config, tmp_path):
    loop = build_loop(config, tmp_path)
    own = read_part(config.model, "projector")
    weights = [p for p in loop.model.projector.parameters() if p.ndim == 2]
    assert torch.equal(weights[0], own["linear_1.weight"]) and weights[0].requires_grad


def test_the_dry_run_measures_it(config, capsys):
    dry_run(config)
    assert "estimate" in capsys.readouterr().out


def test_it_is_evaluated_and_opened_by_the_window(config, tmp_path):
    checkpoint = trained(config, tmp_path / "run")
    result = tmp_path / "result.json"
    assert evaluate.main(["--checkpoint", str(checkpoint), "--split", "train", "--output", str(result)]) == 0
    assert json.loads(result.read_text(encoding="utf-8"))["scores"]["overall"]["n"] > 0
    worker = Worker()
    job = worker.load(checkpoint, "cpu")
    while (event := worker.events.get(timeout=60))[1] == "stage":
        pass
    assert event[:2] == (job, "ready")


def test_it_learns_in_four_bits(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "require_bitsandbytes", lambda *arguments: None)  # it is refused on a CPU otherwise
    monkeypatch.setattr(llava, "TEXT", {**llava.TEXT, "hidden_size": 64, "intermediate_size": 128})  # whole blocks
    make_config(pictures=9, conversations=conversations(9))
    config = start_from(tmp_path / "run.yaml", save_llava(tmp_path / "llava"), "language.load_in_4bit=true")
    checkpoint = trained(config, tmp_path / "run")
    assistant = Assistant.load(checkpoint, "cpu")
    assert any(type(module).__name__ == "Linear4bit" for module in assistant.model.language.modules())
    adapters = load_file(checkpoint / "language" / "adapter_model.safetensors")
    assert all(tensor.abs().max() > 0 for name, tensor in adapters.items() if "lora_B" in name)  # they start as 0

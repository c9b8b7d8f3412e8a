"""Qwen-1: equal to its original implementation, without its code, from its own files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from answering.assistant import Assistant
from common.errors import UserError
from common.hub import load_strictly, read_config
from dataset.prompt import Request, Turn, question_with_images
from model.model import build_model
from model.run_checkpoints import checkpoints
from qwen.load import load_language
from qwen.qwen1 import MQwenForCausalLM, as_qwen2_config
from qwen.tokenizer import load_tokenizer
from tests.helpers.qwen1 import save_as_qwen1, save_pair, write_shards
from tests.helpers.tiny import REPO, picture, save_qwen
from training.setup import build_loop

BACKBONES = REPO / "demo" / "backbones"
QUESTIONS = ["What color is it?", "图中有几个图形？"]


@pytest.fixture(scope="module")
def reference_folder(shared_data):
    return shared_data / "qwen1" / "tiny_reference"


@pytest.fixture(scope="module")
def reference(reference_folder):
    """``input_ids`` [2, 96] and ``logits`` [2, 96, 320] of the original implementation, in float32."""
    return load_file(reference_folder / "reference.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Qwen-1 with the demo's words."""
    base = tmp_path_factory.mktemp("qwen1")
    return save_as_qwen1(save_qwen(base / "qwen2", num_key_value_heads=4), base / "qwen1", seq_length=256)


def load(folder, dtype=torch.float32):
    config = as_qwen2_config(read_config(folder, "language.path"))
    return load_strictly(MQwenForCausalLM, str(folder), dtype, "language.path", config=config).eval()


@torch.no_grad()
def test_logits_are_those_of_the_original_implementation(reference_folder, reference):
    found = load(reference_folder)(reference["input_ids"]).logits
    assert (found - reference["logits"]).abs().max() <= 1e-5  # 3e-6 seen, of logits up to 3.7


@torch.no_grad()
def test_bf16_runs_and_mostly_agrees(reference_folder, reference):
    model = load(reference_folder, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    found = model(reference["input_ids"]).logits.float()
    assert (found - reference["logits"]).abs().max() < 0.2  # 0.08 seen
    assert (found.argmax(-1) == reference["logits"].argmax(-1)).float().mean() > 0.95


@torch.no_grad()
def test_shards_give_the_same_model(reference_folder, reference, tmp_path):
    shutil.copy(reference_folder / "config.json", tmp_path)
    write_shards(load_file(reference_folder / "model.safetensors"), tmp_path, shards=3)
    found = load(tmp_path)(reference["input_ids"]).logits
    assert (found - reference["logits"]).abs().max() <= 1e-5


def test_each_weight_is_in_memory_once(reference_folder):
    """The parameters' storages together are no larger than the file's data."""
    model = load(reference_folder)
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    data = sum(t.nbytes for t in load_file(reference_folder / "model.safetensors").values())
    assert sum(storages.values()) <= data


def test_nothing_that_came_with_the_model_is_run_or_unpickled(folder, tmp_path):
    trapped = tmp_path / "model"
    shutil.copytree(folder, trapped)
    marker = tmp_path / "executed"
    for name in ("configuration_qwen.py", "modeling_qwen.py", "tokenization_qwen.py"):
        (trapped / name).write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    automatic = {"tokenizer_class": "QWenTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer"]}}
    (trapped / "tokenizer_config.json").write_text(json.dumps(automatic), encoding="utf-8")
    (trapped / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    load_language(str(trapped), load_tokenizer(str(trapped)), torch.float32)
    assert not marker.exists()


def test_a_longer_sequence_than_the_model_was_made_for_is_refused(folder, make_config):
    tokenizer = load_tokenizer(str(folder))
    model = load_language(str(folder), tokenizer, torch.float32).eval()
    ids = torch.ones(1, 257, dtype=torch.long)
    assert model(ids[:, :256]).logits.shape == (1, 256, 768)
    with pytest.raises(ValueError, match="257 tokens, .* seq_length of 256"):
        model(ids)
    with pytest.raises(ValueError, match="seq_length of 256"):
        model.generate(ids[:, :250], attention_mask=ids[:, :250], max_new_tokens=10, eos_token_id=None)
    padded = torch.ones_like(ids)
    padded[:, :5] = 0  # padding is not counted
    assert model(ids, attention_mask=padded, position_ids=(padded.cumsum(1) - 1).clamp(min=0)).logits.shape[1] == 257
    with pytest.raises(UserError, match="set language.max_length=256"):
        build_model(make_config(f"language.path={folder}", "language.max_length=257"), tokenizer)


@pytest.mark.parametrize("change", [{"no_bias": False}, {"kv_channels": 16}, {"layer_norm_epsilon": None}])
def test_a_config_that_the_mapping_does_not_cover_is_refused(folder, tmp_path, change):
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    content = {key: value for key, value in {**content, **change}.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="language.path = .*(no_bias|layer_norm_epsilon)"):
        load_language(str(tmp_path), load_tokenizer(str(folder)), torch.float32)


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    """The demo's language model in Qwen-1's format and in Qwen2's: the same weights, words and ids."""
    base = tmp_path_factory.mktemp("formats")
    return dict(zip(("qwen1", "qwen2"), save_pair(BACKBONES / "qwen", base / "qwen1", base / "qwen2"), strict=True))


def test_trained_in_qwen1s_format_and_in_qwen2s_the_demos_models_are_the_same_to_the_bit(make_config, formats):
    """Weights as loaded, every loss on the way, and what is said afterwards."""
    requests = [Request([Turn(question_with_images(q, 1))], [picture(c)]) for q in QUESTIONS for c in ("red", "blue")]
    loaded, losses, answers = {}, {}, {}
    for name, folder in formats.items():
        paths = [f"vision.path={BACKBONES / 'siglip'}", f"language.path={folder}", "vision.image_context_length=63"]
        config = make_config(*paths, f"train.run={name}", "train.max_steps=12", "train.learning_rate=2e-3")
        loop = build_loop(config, config.train.output / name)
        loaded[name] = {key: tensor.clone() for key, tensor in loop.model.state_dict().items()}
        loop.train()
        losses[name] = [entry["loss"] for entry in loop.progress.log_history if "loss" in entry]
        answers[name] = Assistant.load(config.train.output / name).answer(requests)
    assert loaded["qwen1"].keys() == loaded["qwen2"].keys()
    for key, tensor in loaded["qwen1"].items():
        assert torch.equal(tensor, loaded["qwen2"][key]), key
    assert losses["qwen1"] == losses["qwen2"] and losses["qwen1"][-1] < losses["qwen1"][0]
    assert answers["qwen1"] == answers["qwen2"] and len(set(answers["qwen1"])) > 1


def run_script(*arguments: str | Path) -> None:
    """One thread: with more, sums are split by what else the machine does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not os.environ.get("VLM_SOAK"), reason="two demos take long; `make soak` does")
def test_the_whole_demo_gives_the_same_answers_in_qwen1s_format_and_in_qwen2s(formats, tmp_path):
    """``make demo`` twice: the same adapters and projector to the bit, the same answer to every question."""
    data = tmp_path / "data"
    overrides = [f"data.{key}={data / key}.json" for key in ("image_map", "annotations", "skipped")]
    for number, kind in enumerate(("ali", "coco")):
        file = {"ali": "ali_annotations", "coco": "coco_conversations"}[kind]
        overrides += [f"data.sources.{number}.annotations={data / 'raw' / file}.json"]
        overrides += [f"data.sources.{number}.images={data / 'raw' / kind}_images"]
    overrides += [f"data.{split}={data / 'raw' / split}.txt" for split in ("validation", "test")]
    overrides += [f"train.output={tmp_path}"]
    run_script("-m", "demo.scenes", "--output", data / "raw")
    run_script("process_image.py", "--config", "demo.yaml", *overrides)

    def demo(name: str) -> dict:
        result = tmp_path / f"{name}.json"
        own = [f"language.path={formats[name]}", f"train.run={name}"]
        run_script("train.py", "--config", "demo.yaml", *overrides, *own)
        run_script("evaluate.py", "--checkpoint", tmp_path / name, "--output", result)
        return json.loads(result.read_text(encoding="utf-8"))

    with ThreadPoolExecutor(2) as both:
        found = dict(zip(formats, both.map(demo, formats), strict=True))
    for file in ("projector.safetensors", "language/adapter_model.safetensors"):
        saved = [load_file(checkpoints(tmp_path / name)[-1] / file) for name in formats]
        assert saved[0].keys() == saved[1].keys()
        assert all(torch.equal(tensor, saved[1][key]) for key, tensor in saved[0].items()), file
    assert len(found["qwen1"]["predictions"]) > 2000
    assert found["qwen1"]["predictions"] == found["qwen2"]["predictions"]
    assert found["qwen1"]["scores"] == found["qwen2"]["scores"]
    print(f"exact match {found['qwen1']['scores']['overall']['score']:.4f} in both formats")

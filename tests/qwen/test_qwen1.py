"""Qwen-1: equal to its original implementation, without its code, from its own files."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiktoken
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from answering.assistant import Assistant
from common.errors import UserError
from common.hub import load_strictly, read_config
from dataset.prompt import Request, Turn, encode_text, question_with_images
from model.model import build_model
from qwen.load import load_language
from qwen.qwen1 import MQwenForCausalLM, as_qwen2_config
from qwen.qwen1_tokenizer import PATTERN, SPECIAL_TOKENS, load_qwen1_tokenizer, read_ranks
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
        config = make_config(*paths, f"train.run={name}", "train.max_steps=12")
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
    overrides += [f"data.held_out={data / 'raw' / 'held_out.txt'}", f"train.output={tmp_path}"]
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
        saved = [load_file(tmp_path / name / "checkpoint-1600" / file) for name in formats]
        assert saved[0].keys() == saved[1].keys()
        assert all(torch.equal(tensor, saved[1][key]) for key, tensor in saved[0].items()), file
    assert len(found["qwen1"]["predictions"]) > 2000
    assert found["qwen1"]["predictions"] == found["qwen2"]["predictions"]
    assert found["qwen1"]["scores"] == found["qwen2"]["scores"]
    print(f"exact match {found['qwen1']['scores']['overall']['exact_match']:.4f} in both formats")


# ---------------------------------------------------------------------------------------------- tokenizer


@pytest.fixture(scope="module")
def tokenizer(shared_data):
    return load_qwen1_tokenizer(shared_data / "qwen1")


def encode(tokenizer, text: str, allowed) -> list[int]:
    """Ids where only the special tokens in ``allowed`` ("all" or a list) are taken for what they are."""
    allowed = SPECIAL_TOKENS if allowed == "all" else allowed
    pieces = re.split("(" + "|".join(map(re.escape, allowed)) + ")", text) if allowed else [text]
    ids = []
    for piece in pieces:
        ids += [tokenizer.convert_tokens_to_ids(piece)] if piece in allowed else encode_text(tokenizer, piece)
    return ids


def test_ids_are_those_of_the_published_cases(tokenizer, shared_data):
    cases = json.loads((shared_data / "qwen1" / "tokenizer_vectors.json").read_text(encoding="utf-8"))
    assert len(cases) == 6
    for case in cases:
        assert encode(tokenizer, case["text"], case["allowed_special"]) == case["ids"], case["text"]
        if case["allowed_special"] == "all":
            assert tokenizer(case["text"]).input_ids == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["text"]


def test_all_special_tokens_have_their_ids(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS)
    assert ids == list(range(151643, 151851)) and len(tokenizer) == 151851
    assert tokenizer.convert_tokens_to_ids("<|extra_0|>") == 151646 and SPECIAL_TOKENS[-1] == "<|extra_204|>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""
    assert [tokenizer(token).input_ids for token in SPECIAL_TOKENS] == [[i] for i in ids]


def random_text(rng: random.Random) -> str:
    """Scripts, signs, digits, blanks, combining marks and emoji in a jumble."""
    blocks = [(32, 126), (160, 591), (768, 879), (880, 1279), (1424, 1791), (2304, 2431), (3585, 3675), (4352, 4607)]
    blocks += [(8192, 8303), (12288, 12543), (19968, 40869), (44032, 55203), (65281, 65519), (127744, 128591)]
    words = [
        "don't",
        "I'LL",
        "  ",
        "\r\n",
        "\n\n",
        " \t",
        "１２３",
        "3.14",
        "的",
        "。",
        "你好",
        "'ſ",
        "\u200b",
        "e\u0301",
    ]
    pieces = []
    for _ in range(rng.randint(1, 25)):
        if rng.random() < 0.3:
            pieces.append(rng.choice(words))
        else:
            first, last = rng.choice(blocks)
            pieces += [chr(rng.randint(first, last)) for _ in range(rng.randint(1, 4))]
    return "".join(pieces)


def test_ten_thousand_random_strings_have_tiktokens_ids(tokenizer, shared_data):
    ranks = read_ranks(shared_data / "qwen1" / "qwen.tiktoken")
    original = tiktoken.Encoding("qwen", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    rng = random.Random(0)
    texts = [random_text(rng) for _ in range(10_000)]
    found = tokenizer(texts, add_special_tokens=False).input_ids
    for text, ids in zip(texts, found, strict=True):
        # Qwen's tokenizer composes characters first (NFC).
        assert ids == original.encode_ordinary(unicodedata.normalize("NFC", text)), repr(text)


def test_saved_and_read_again_it_gives_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab() and again.model_max_length == tokenizer.model_max_length
    rng = random.Random(1)
    texts = [random_text(rng) for _ in range(500)] + SPECIAL_TOKENS
    assert again(texts).input_ids == tokenizer(texts).input_ids
    assert again(texts, split_special_tokens=True).input_ids == tokenizer(texts, split_special_tokens=True).input_ids
    assert again.pad_token == "<|endoftext|>" and again.all_special_ids == tokenizer.all_special_ids


@pytest.mark.parametrize("damage", ["cut", "gap", "binary"])
def test_a_damaged_vocabulary_is_refused(folder, tmp_path, damage):
    content = (folder / "qwen.tiktoken").read_bytes()
    lines = content.splitlines(keepends=True)
    wrong = {"cut": content[:-3], "gap": b"".join(lines[:300] + lines[301:]), "binary": b"\x00\x01\x02 x\n"}[damage]
    (tmp_path / "qwen.tiktoken").write_bytes(wrong)
    with pytest.raises(UserError, match="qwen.tiktoken .*download it again"):
        load_qwen1_tokenizer(tmp_path)

"""``python -m qwen.load``: what a folder holds, and mistakes in one line before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys

import torch

from qwen.load import load_language
from qwen.tokenizer import load_tokenizer
from tests.helpers.qwen1 import save_as_qwen1
from tests.helpers.tiny import REPO, save_qwen


def test_a_folder_is_described_without_loading_it(tmp_path):
    folder = save_as_qwen1(save_qwen(tmp_path / "source", num_key_value_heads=4), tmp_path / "qwen1")
    done = subprocess.run([sys.executable, "-m", "qwen.load", str(folder)], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(None, 1) for line in done.stdout.strip().splitlines())
    assert lines["family"] == "Qwen-1, QWenLMHeadModel"
    model = load_language(str(folder), load_tokenizer(str(folder)), torch.float32)
    assert lines["size"] == f"{sum(p.numel() for p in model.parameters()):,} parameters stored as F32"
    assert "757 tokens" in lines["tokenizer"] and "<|im_end|> 551" in lines["tokenizer"]
    assert lines["image"] == "<|extra_0|> is 552, within the matrix of 768 rows"
    assert "in bf16" in lines["memory"] and "in 4 bits" in lines["memory"]


def test_what_cannot_be_described_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "qwen.load", "no/such/folder"], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr == (
        "error: no/such/folder: no such folder, and no hub name such as Qwen/Qwen3-1.7B\n"
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    done = subprocess.run([sys.executable, "-m", "qwen.load", str(tmp_path)], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == (
        f"error: {tmp_path} holds no safetensors; is the download complete?\n"
    )


def test_a_mistake_in_the_arguments_is_answered_without_torch():
    code = (
        "import sys; sys.argv = ['load', './none']; from qwen.command import main; status = main();"
        "sys.exit(0 if status == 2 and 'torch' not in sys.modules and 'transformers' not in sys.modules else 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == "error: ./none: no such folder, and no hub name such as Qwen/Qwen3-1.7B\n"

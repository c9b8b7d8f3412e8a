"""Models in folders and on the hub: which is found, and one line that says what is wrong with it and what to do."""

from __future__ import annotations

import shutil
import socket
import time

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from common import hub
from common.errors import UserError
from common.hashing import hash_model
from dataset.image import load_image_processor
from qwen.load import load_language
from qwen.tokenizer import load_tokenizer
from tests.helpers.qwen1 import write_shards


@pytest.fixture(scope="module")
def tokenizer(qwen_folder):
    return load_tokenizer(str(qwen_folder))


# ---------------------------------------------------------------------------------------------- what a folder holds


def test_half_a_download_names_the_file(qwen_folder, tokenizer, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(qwen_folder, folder)
    write_shards(load_file(folder / "model.safetensors"), folder, shards=3)
    (folder / "model.safetensors").unlink()
    load_language(str(folder), tokenizer, torch.float32)
    shard = folder / "model-00002-of-00003.safetensors"
    content = shard.read_bytes()

    def error() -> str:
        with pytest.raises(UserError) as caught:
            load_language(str(folder), tokenizer, torch.float32)
        return str(caught.value)

    shard.write_bytes(content[:-1000])
    assert f"{shard} is {len(content) - 1000:,} bytes long where its header says {len(content):,}" in error()
    shard.write_bytes(content[:100])
    assert f"{shard} has a damaged header" in error()
    shard.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git-lfs pointer" in error()
    shard.unlink()
    assert "lacks 1 of 3 weight files, model-00002-of-00003.safetensors first" in error()


def test_weights_in_pickles_alone_are_refused_unread(qwen_folder, tokenizer, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(qwen_folder, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="only pytorch_model.bin, and no pickle is read"):
        load_language(str(folder), tokenizer, torch.float32)


# ---------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def empty_hub_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


def check_advice(message: str, key: str, name: str) -> None:
    folder = f"models/{name.split('/')[1]}"
    assert message.startswith(f"{key} = {name}: ") and "\n" not in message
    assert f"`hf download {name} --local-dir {folder}`" in message
    assert f"`modelscope download --model {name} --local_dir {folder}`" in message
    assert message.endswith(f"then set {key}={folder}")


@pytest.mark.parametrize("silence", ["refused", "never answers", "its name is never resolved"])
def test_a_model_that_cannot_be_fetched_is_one_line_within_seconds(empty_hub_cache, monkeypatch, silence):
    server = socket.create_server(("127.0.0.1", 0))  # takes connections and says nothing
    port = server.getsockname()[1]
    if silence == "refused":
        server.close()
    elif silence == "its name is never resolved":
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(5) or [])
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(hub, "PATIENCE", 1.0)
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        load_tokenizer("Qwen/Qwen2.5-0.5B-Instruct")
    server.close()
    assert time.monotonic() - start < 3.0
    check_advice(str(caught.value), "language.path", "Qwen/Qwen2.5-0.5B-Instruct")
    assert f"not in the hub's cache, and http://127.0.0.1:{port} cannot be reached" in str(caught.value)


def test_offline_the_hub_is_not_asked(empty_hub_cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        load_image_processor("google/siglip-so400m-patch14-384")
    check_advice(str(caught.value), "vision.path", "google/siglip-so400m-patch14-384")
    assert "HF_HUB_OFFLINE is set" in str(caught.value)


def test_for_the_base_of_a_checkpoint_the_advice_is_a_folder(empty_hub_cache, qwen_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        hash_model("Qwen/Tiny", "language.path", tmp_path / "checkpoint-1")
    advice = "run `hf download Qwen/Tiny --local-dir Qwen/Tiny` or `modelscope download --model Qwen/Tiny"
    assert advice in str(caught.value) and "set language.path" not in str(caught.value)
    monkeypatch.chdir(tmp_path)  # and then it is found there
    shutil.copytree(qwen_folder, tmp_path / "Qwen" / "Tiny")
    assert hash_model("Qwen/Tiny", "language.path") == hash_model(str(qwen_folder), "language.path")


def test_a_cached_model_is_used_offline_and_half_of_one_is_named(empty_hub_cache, qwen_folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = empty_hub_cache / "models--Qwen--Tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(qwen_folder, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    load_language("Qwen/Tiny", load_tokenizer("Qwen/Tiny"), torch.float32)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(UserError) as caught:
        load_tokenizer("Qwen/Tiny")
    assert "half a download in the hub's cache: " in str(caught.value)
    assert "holds no safetensors" in str(caught.value)

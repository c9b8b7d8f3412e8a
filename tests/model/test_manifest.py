"""A checkpoint's manifest: what it says, and that damage is found."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json

import pytest

from common.errors import UserError
from model.checkpoint import load_checkpoint
from model.manifest import MANIFEST, Damaged, check_files, read_manifest, write_manifest
from tests.helpers.models import build_with_batch, save


@pytest.fixture
def built(make_config):
    """(config, model, tokenizer, a batch of two rows) of a tiny LoRA run."""
    config = make_config()
    return (config, *build_with_batch(config))


def test_manifest_says_what_the_checkpoint_is(built, tmp_path):
    config, model, *_ = built
    folder = save(config, model, tmp_path / "checkpoint-1")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["versions"]["torch"] == importlib.metadata.version("torch")
    assert manifest["base_models"]["language.path"]["path"] == config.language.path
    assert len(manifest["base_models"]["vision.path"]["sha256"]) == 64 and len(manifest["data"]["sha256"]) == 64
    assert manifest["trainable_parameters"] == {p: n for p, (n, _) in model.trainable_counts().items()}
    assert manifest["trainable"]["projector.0.weight"] == [32, 16]
    assert {"projector.safetensors", "language/adapter_model.safetensors", "config.yaml"} <= manifest["files"].keys()


@pytest.mark.parametrize("damage", ["missing", "flipped", "cut"])
def test_a_damaged_checkpoint_names_the_file(built, tmp_path, damage):
    config, model, *_ = built
    folder = save(config, model, tmp_path / "checkpoint-1")
    file = folder / "projector.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        content[-1] ^= 1
        file.write_bytes(content if damage == "flipped" else content[:-10])
    with pytest.raises(UserError, match="projector.safetensors"):
        load_checkpoint(folder)


def written(folder) -> dict:
    """The manifest of a folder with one file."""
    (folder / "inner").mkdir()
    (folder / "inner" / "weights").write_text("abc")
    write_manifest(folder, {"base_models": {}, "seed": 3})
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def test_a_manifest_is_read_as_it_was_written_with_the_hash_of_each_file(tmp_path):
    written(tmp_path)
    digest = hashlib.sha256(b"abc").hexdigest()
    assert read_manifest(tmp_path) == {"base_models": {}, "seed": 3, "files": {"inner/weights": digest}}


@pytest.mark.parametrize(
    "change",
    [
        lambda content: {**content, "seed": 4},
        lambda content: {**content, "more": 1},
        lambda content: {**content, "files": {}},
        lambda content: {key: value for key, value in content.items() if key != "sha256"},
        lambda content: [content],
        lambda content: None,
    ],
)
def test_a_manifest_that_was_changed_is_damaged(tmp_path, change):
    (tmp_path / MANIFEST).write_text(json.dumps(change(written(tmp_path))))
    with pytest.raises(Damaged, match="manifest.json is not what was saved"):
        read_manifest(tmp_path)


def test_no_manifest_no_folder_and_no_json_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at .*none; train one with train.py"):
        read_manifest(tmp_path / "none")
    with pytest.raises(Damaged, match="has no manifest.json: not a checkpoint, or a save that was cut short"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(Damaged, match="manifest.json cannot be read"):
        read_manifest(tmp_path)


def test_a_file_that_is_missing_or_changed_is_named(tmp_path):
    written(tmp_path)
    manifest = read_manifest(tmp_path)
    check_files(tmp_path, manifest)
    (tmp_path / "inner" / "weights").write_text("abd")
    with pytest.raises(Damaged, match="weights is not what was saved"):
        check_files(tmp_path, manifest)
    (tmp_path / "inner" / "weights").unlink()
    with pytest.raises(Damaged, match="weights is missing"):
        check_files(tmp_path, manifest)

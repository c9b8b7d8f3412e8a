"""A model folder from a stranger runs no code: no pickle is opened, no module beside the weights is imported."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

from common.errors import UserError
from dataset.image import load_image_processor
from model.checkpoint import load_checkpoint
from model.manifest import write_manifest
from model.model import build_model
from qwen.tokenizer import load_tokenizer

PICKLES = ("pytorch_model.bin", "model.bin", "adapter_model.bin", "optimizer.pt", "training_args.bin", "tokenizer.pkl")


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "executed"


def poison(folder: Path, marker: Path) -> None:
    """Code and pickles under every name that some loader knows, and settings that point at them."""
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass Evil:\n    pass\n"
    for name in (
        "modeling_evil.py",
        "configuration_evil.py",
        "tokenization_evil.py",
        "processing_evil.py",
        "__init__.py",
    ):
        (folder / name).write_text(code, encoding="utf-8")
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(Trap(marker)))
    maps = {
        "config.json": {"AutoConfig": "configuration_evil.Evil", "AutoModel": "modeling_evil.Evil"}
        | {"AutoModelForCausalLM": "modeling_evil.Evil"},
        "tokenizer_config.json": {"AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"]},
        "preprocessor_config.json": {
            "AutoImageProcessor": "processing_evil.Evil",
            "AutoProcessor": "processing_evil.Evil",
        },
    }
    for name, auto_map in maps.items():
        if (folder / name).is_file():
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            (folder / name).write_text(json.dumps(content | {"auto_map": auto_map}), encoding="utf-8")


@pytest.fixture
def poisoned(make_config, tmp_path, marker, siglip_folder, qwen_folder):
    """A config whose two base models are copies with traps in them."""
    for folder, name in ((siglip_folder, "vision"), (qwen_folder, "language")):
        shutil.copytree(folder, tmp_path / name)
        poison(tmp_path / name, marker)
    return make_config(f"vision.path={tmp_path / 'vision'}", f"language.path={tmp_path / 'language'}")


def test_the_traps_work(tmp_path, marker):
    with pytest.raises(TypeError):  # Path.touch wants its path where pickle hands it over
        pickle.loads(pickle.dumps(Trap(None)))
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists()


def test_base_models_with_code_and_pickles_are_loaded_without_either(poisoned, marker):
    tokenizer = load_tokenizer(poisoned.language.path)
    load_image_processor(poisoned.vision.path)
    build_model(poisoned, tokenizer)
    assert not marker.exists()


def test_weights_that_are_only_a_pickle_are_refused(poisoned, marker):
    tokenizer = load_tokenizer(poisoned.language.path)
    for part in ("language", "vision"):  # the vision tower is read first
        (Path(getattr(poisoned, part).path) / "model.safetensors").unlink()
        with pytest.raises(UserError, match=f"{part}.path: .* holds no safetensors"):
            build_model(poisoned, tokenizer)
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["evil", "llama"])
def test_a_kind_of_model_that_only_its_own_code_knows_is_refused(poisoned, marker, kind, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("somebody was asked to trust it"))
    file = Path(poisoned.language.path) / "config.json"
    tokenizer = load_tokenizer(poisoned.language.path)
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | {"model_type": kind}), encoding="utf-8")
    with pytest.raises(UserError, match="language.path"):
        build_model(poisoned, tokenizer)
    assert not marker.exists()


def test_a_strangers_checkpoint_is_loaded_without_its_code_and_pickles(checkpoint, marker):
    for folder in (checkpoint, checkpoint / "language", checkpoint / "tokenizer", checkpoint / "image_processor"):
        poison(folder, marker)
    manifest = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
    write_manifest(checkpoint, {key: manifest[key] for key in manifest.keys() - {"files", "sha256"}})
    load_checkpoint(checkpoint)
    assert not marker.exists()

"""Shared fixtures. Real annotations and photos are read where they are found and never required."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from PIL import Image

from answering.assistant import Assistant
from dataset.image import load_image_processor
from model.checkpoint import save_weights
from model.manifest import write_manifest
from model.model import build_model
from qwen.tokenizer import load_tokenizer
from settings import Config, load_config
from tests.helpers.tiny import enlarge_projector, save_qwen, save_siglip
from training.setup import describe_run

REPO = Path(__file__).resolve().parent.parent
os.environ["LC_ALL"] = "C.UTF-8"  # ask.py and the window speak the locale's language


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real annotations, photos and reference numbers; the test is skipped where it is absent."""
    folder = Path(os.environ.get("VLM_TEST_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}; set VLM_TEST_DATA to the folder that holds annotations/ and photos/")
    return folder


@pytest.fixture(scope="session", autouse=True)
def empty_user_cache(tmp_path_factory):
    """A cache folder of the session's own: no test reads what a person's earlier runs have left there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps one state for a process, precision and compilation included; a run has a process of its own."""
    yield
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory) -> Path:
    """A tiny SigLIP vision tower: 42 px, 9 patches."""
    return save_siglip(tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory) -> Path:
    """A tiny Qwen2 with the demo's tokenizer."""
    return save_qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture
def make_config(tmp_path, siglip_folder, qwen_folder):
    """A function that writes a config of a small run, with overrides, and gives it back."""

    def write(*overrides: str, pictures: int = 6, conversations: dict | None = None) -> Config:
        return write_config(tmp_path, siglip_folder, qwen_folder, overrides, pictures, conversations)

    return write


def write_config(
    folder: Path,
    siglip: Path,
    qwen: Path,
    overrides: Sequence[str] = (),
    pictures: int = 6,
    conversations: dict | None = None,
) -> Config:
    """Write the data and the config, run.yaml, of a small run into ``folder``."""
    write_data(folder, pictures, conversations)
    content = {
        "data": {
            "sources": [{"name": "none", "format": "coco", "annotations": "none.json", "images": str(folder)}],
            "image_map": str(folder / "image_map.json"),
            "annotations": str(folder / "annotations.json"),
            "skipped": str(folder / "skipped.json"),
        },
        "vision": {"path": str(siglip), "image_context_length": 8},
        "language": {"path": str(qwen), "max_length": 256},
        "lora": {"r": 4, "lora_alpha": 8},
        "train": {
            "run": "test",
            "output": str(folder / "checkpoints"),
            "learning_rate": 1e-2,
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "save_steps": 2,
            "logging_steps": 1,
            "use_cpu": True,
        },
        "generate": {"max_new_tokens": 8, "batch_size": 4},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return load_config(file, overrides)


def write_data(folder: Path, pictures: int, conversations: dict | None = None) -> None:
    """``pictures`` plain pictures, one colour each, with one conversation each, as process_image.py writes them."""
    image_map, annotations = {}, {}
    for number in range(pictures):
        path = folder / f"{number}.png"
        Image.new("RGB", (50, 40), (40 * number % 256, 90, 255 - 40 * number % 256)).save(path)
        image_map[path.name] = {"ID": number, "path": path.as_posix()}
        turns = [
            {"q": "<|extra_0|>\nWhat color is it?", "a": ["red", "blue"]},
            {"q": "图中有几个图形？", "a": [str(number)]},
        ]
        split = "validation" if number == pictures - 1 else "train"
        annotations[str(number)] = [{"source": "test", "language": "en", "split": split, "turns": turns}]
    annotations.update(conversations or {})
    (folder / "image_map.json").write_text(json.dumps(image_map), encoding="utf-8")
    (folder / "annotations.json").write_text(json.dumps(annotations, ensure_ascii=False), encoding="utf-8")


@pytest.fixture
def checkpoint(make_config, tmp_path):
    """A checkpoint of an untrained tiny model whose projector is large enough for pictures to matter."""
    return save_untrained(make_config(), tmp_path / "checkpoints" / "test" / "checkpoint-1")


def save_untrained(config: Config, folder: Path) -> Path:
    """Write the checkpoint of :func:`checkpoint` for a config."""
    tokenizer = load_tokenizer(config.language.path, boxes=config.data.has_boxes)
    torch.manual_seed(0)
    model = build_model(config, tokenizer)
    torch.manual_seed(29)  # with which it answers something, and something else to each question and picture
    enlarge_projector(model)
    save_weights(model, tokenizer, load_image_processor(config.vision.path), config, folder)
    write_manifest(folder, describe_run(config, model, 0))
    return folder


@pytest.fixture
def assistant(checkpoint):
    return Assistant.load(checkpoint, "cpu")

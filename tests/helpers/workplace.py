"""Raw data in a folder, and what process_image.py makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from PIL import Image

from process_image import main, process_coco


def picture(path: Path, color: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), color).save(path)
    return path


def talk(*texts) -> list[dict]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def llava(image, *texts) -> dict:
    record = {"id": "x", "conversations": talk(*texts)}
    return record if image is None else {**record, "image": image}


def one_conversation(record: dict, paths=None, **options) -> dict:
    """The conversation that process_coco makes of one record about a.jpg."""
    paths = {"a.jpg": Path("a.jpg"), "b.jpg": Path("b.jpg")} if paths is None else paths
    rejected: list = []
    _, annotations = process_coco([record], paths, rejected=rejected, **options)
    assert rejected == []
    ((conversation,),) = annotations.values()
    return conversation


def reason(process, record, **options) -> str:
    """Why a record is rejected, and that it is."""
    rejected: list = []
    image_map, annotations = process([record], {"a.jpg": Path("a.jpg")}, rejected=rejected, **options)
    assert (image_map, annotations) == ({}, {})
    ((index, text),) = rejected
    assert index == 0 and "\n" not in text
    return text


class Workplace:
    """A folder with raw data, a config, and what process_image.py makes of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources: list[dict] = []
        self.data: dict = {"progress": False, "workers": 1, "validation": 0.0, "test": 0.0}

    def source(self, name: str, form: str, records, images: str | list[str] | None = None, **more) -> None:
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(records, ensure_ascii=True), encoding="utf-8")
        folders = [images or name] if not isinstance(images, list) else images
        for folder in folders:
            (self.folder / folder).mkdir(exist_ok=True)
        paths = [str(self.folder / folder) for folder in folders]
        self.sources.append({"name": name, "format": form, "annotations": str(file), "images": paths, **more})

    def config(self) -> Path:
        names = ("image_map", "annotations", "skipped")
        outputs = {name: str(self.folder / "out" / f"{name}.json") for name in names}
        content = {
            "data": {"sources": self.sources, **outputs, **self.data},
            "vision": {"path": "google/siglip-so400m-patch14-384"},
            "language": {"path": "Qwen/Qwen2.5-1.5B-Instruct"},
        }
        file = self.folder / "config.yaml"
        file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        return file

    def run(self, *overrides: str) -> int:
        return main(["--config", str(self.config()), *overrides])

    def read(self, name: str):
        return json.loads((self.folder / "out" / f"{name}.json").read_text(encoding="utf-8"))

    def bytes(self) -> dict[str, bytes]:
        out = self.folder / "out"
        return {path.name: path.read_bytes() for path in sorted(out.iterdir())} if out.exists() else {}

    def skipped(self) -> list[tuple[str, str]]:
        return [(Path(entry["file"]).name, entry["reason"]) for entry in self.read("skipped")]

"""A set of pictures and questions as process_image.py writes it, written directly, with whatever fault a test needs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from dataset.doctor.examined import Examined
from settings import Config, load_config
from tests.helpers.tiny import REPO

COLORS = ("red", "green", "blue", "yellow", "black", "white", "pink", "brown")


def noise_picture(number: int, width: int = 192, height: int = 128) -> Image.Image:
    """A picture of coarse noise: no two numbers look alike."""
    blocks = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)


class Planted:
    """Pictures and conversations in a folder, and the config that names them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image_map: dict[str, dict] = {}
        self.annotations: dict[str, list[dict]] = {}
        self.data: dict = {"progress": False, "workers": 1}
        self.language: dict = {"path": str(REPO / "demo/backbones/qwen"), "max_length": 512}

    def picture(self, name: str, image: Image.Image | bytes | None = None, quality: int | None = None) -> int:
        """The id of a picture, which is drawn if none is given: a JPEG with a quality, else a BMP, written fastest."""
        path = self.folder / "images" / name
        if name not in self.image_map:
            path.parent.mkdir(exist_ok=True)
            if isinstance(image, bytes):
                path.write_bytes(image)
            else:
                options = {"format": "BMP"} if quality is None else {"format": "JPEG", "quality": quality}
                (image or noise_picture(len(self.image_map))).save(path, **options)
            self.image_map[name] = {"ID": len(self.image_map), "path": path.as_posix()}
        return self.image_map[name]["ID"]

    def ask(self, name: str | None, *texts: str | list[str], split="train", source="set", language="en") -> None:
        """A conversation about a picture (None: about none): question, answer, question, answer, ..."""
        key = "text" if name is None else str(self.picture(name))
        mark = "" if name is None else "<|extra_0|>\n"
        turns = [
            {"q": question if i else mark + question, "a": [answer] if isinstance(answer, str) else answer}
            for i, (question, answer) in enumerate(zip(texts[::2], texts[1::2], strict=True))
        ]
        conversation = {"source": source, "language": language, "split": split, "turns": turns}
        self.annotations.setdefault(key, []).append(conversation)

    def fair(self, pictures: int = 24) -> Planted:
        """Pictures with three fair questions each, a fifth of them in another split: nothing to find."""
        rng = random.Random(0)
        for i in range(pictures):
            split = "validation" if i % 5 == 4 else "train"
            self.ask(f"{i}.png", "Is there a dog?", rng.choice(("yes", "no")), split=split)
            self.ask(f"{i}.png", "What color is the car?", rng.choice(COLORS), split=split)
            self.ask(f"{i}.png", "How many people are there?", str(rng.randrange(6)), split=split)
        return self

    def config(self, *overrides: str) -> Config:
        names = ("image_map", "annotations", "skipped")
        files = {name: str(self.folder / f"{name}.json") for name in names}
        for name, content in (("image_map", self.image_map), ("annotations", self.annotations)):
            Path(files[name]).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        source = {"name": "set", "format": "coco", "annotations": "none.json", "images": "none"}
        content = {
            "data": {"sources": [source], **files, **self.data},
            "vision": {"path": str(REPO / "demo/backbones/siglip"), "image_context_length": 63},
            "language": self.language,
        }
        file = self.folder / "config.yaml"
        file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        return load_config(file, overrides)

    def examine(self, *overrides: str) -> Examined:
        return Examined(self.config(*overrides))

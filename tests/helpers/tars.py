"""Small tar shards in WebDataset's layout."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from PIL import Image

from qwen.tokenizer import IMAGE_TOKEN

LLAVA = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat <|im_end|>."}]


def add(tar: tarfile.TarFile, name: str, content: bytes | object) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def photo(color: int = 0, size: tuple[int, int] = (30, 20)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (color, 90, 20)).save(file, "PNG")
    return file.getvalue()


def said(question: str = f"{IMAGE_TOKEN}\nColor?", answer: str = "red") -> list[dict]:
    return [{"turns": [{"q": question, "a": [answer]}]}]


def only_tar(folder: Path, records: list[dict[str, bytes | object]]) -> Path:
    """One shard; a record is {extension: content}."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "s.tar", "w") as tar:
        for number, record in enumerate(records):
            for extension, content in record.items():
                add(tar, f"{number:04}.{extension}", content)
    return folder / "s.tar"

"""A stand-in for the model, and small data to evaluate it on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

import evaluate
from answering.assistant import Assistant
from dataset.prompt import IMAGE_TOKEN, Request
from settings import Config

COLORS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
CHINESE = {"red": "红色", "green": "绿色", "blue": "蓝色"}


class Stub(Assistant):
    """An assistant that answers ``reply(question, colours of the pictures)``, and keeps what it was asked."""

    device = "cpu"
    crop = None  # the tower is shown whole pictures

    def __init__(self, config: Config, checkpoint: Path, reply: Callable[[str, list[str]], str]) -> None:
        self.config, self.checkpoint, self.reply = config, checkpoint, reply
        self.requests: list[Request] = []
        self.batches: list[tuple[int, dict]] = []

    def answer(self, requests, **options) -> list[str]:
        self.batches.append((len(requests), options))
        self.requests.extend(requests)
        return [self.reply(r.turns[-1].question, [color_of(image) for image in r.images]) for r in requests]


def color_of(image: Image.Image) -> str:
    return next(name for name, rgb in COLORS.items() if rgb == image.getpixel((0, 0)))


def looks(question: str, seen: list[str]) -> str:
    """Says what it sees, and "red" without a picture."""
    color = seen[0] if seen else "red"
    if "Is it" in question:
        return "yes" if color in question else "no"
    if "描述" in question:
        return f"这是一张{CHINESE[color]}的图片。"
    return CHINESE[color] if "颜色" in question else color


def guesses(question: str, seen: list[str]) -> str:
    """Answers from the question alone."""
    return looks(question, [])


class Crash(BaseException):
    """The process ends here, as by SIGKILL: nobody catches it."""


def crashing(
    after: int, end: type[BaseException] = Crash, answer: Callable[[str, list[str]], str] = looks
) -> Callable[[str, list[str]], str]:
    """A model that looks, or replies as ``answer``, and ends the process at the question after so many."""
    asked: list[str] = []

    def reply(question: str, seen: list[str]) -> str:
        asked.append(question)
        if len(asked) > after:
            raise end
        return answer(question, seen)

    return reply


def conversation(color: str, split: str, source: str, language: str) -> dict:
    if language == "en":
        turns = [("What color is it?", [color]), ("Is it red?", ["yes" if color == "red" else "no"])]
    else:
        turns = [("它是什么颜色？", [CHINESE[color]]), ("请描述这张图片。", [f"这是{CHINESE[color]}的图片"])]
    turns = [{"q": q, "a": a} for q, a in turns]
    turns[0]["q"] = f"{IMAGE_TOKEN}\n{turns[0]['q']}"
    return {"source": source, "language": language, "split": split, "turns": turns}


def write(folder: Path, image_map: dict, annotations: dict) -> None:
    for name, content in (("image_map", image_map), ("annotations", annotations)):
        (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    """Apply ``change`` to the annotations on disk."""
    file = folder / "annotations.json"
    annotations = json.loads(file.read_text(encoding="utf-8"))
    change(annotations)
    file.write_text(json.dumps(annotations, ensure_ascii=False), encoding="utf-8")


def run(folder: Path, *arguments: str, status: int = 0) -> dict:
    """The result file of a run of the script that ends with ``status``."""
    output = folder / "out" / "result.json"
    command = ["--checkpoint", str(folder / "checkpoint-1"), "--output", str(output), *arguments]
    assert evaluate.main(command) == status
    assert sorted(file.name for file in output.parent.iterdir()) == ["result.html", "result.json"]
    return json.loads(output.read_text(encoding="utf-8"))


def answer_of(line: dict, baseline: str) -> str | None:
    """A baseline's answer in a line of the result file; None if it has none."""
    return line["baselines"].get(baseline, {"answer": None})["answer"]

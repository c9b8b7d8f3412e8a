"""Example pictures and questions of a checkpoint's own kind, for an interface's start. It imports neither torch nor Tk.

The demo's are in demo/examples. Any other checkpoint's are of its run's test or validation split, where the files that
its config names are there. So the model was trained on none of them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from answering.checkpoints import CONFIG, is_demo
from answering.conversation import typed
from common.errors import UserError
from dataset.boxes import asked_about
from dataset.conversations import split_of
from dataset.preparing.json_reader import read_members
from model.run_checkpoints import choices_of

PICTURES, QUESTIONS = 4, 3  # at most; the questions of each picture
READ = 300  # pictures whose questions are counted
LARGEST = 1 << 26  # bytes of a run's annotations; reading 64 MB takes a second, in which the model may be loading


class Example(NamedTuple):
    """A picture's path, and questions about it."""

    picture: str
    questions: list[str]


class Examples(NamedTuple):
    """Examples, and questions that fit any picture. Both may be empty."""

    pictures: list[Example]
    questions: list[str]


def examples_of(checkpoint: Path, language: str) -> Examples:
    """The examples of a checkpoint or of a run's folder, with questions in ``language`` ("en" or "zh") if there are.

    Files that are not there or cannot be read give none: whoever needs them says what is wrong with them.
    """
    try:
        config = yaml.safe_load((choices_of(checkpoint)[0] / CONFIG).read_text(encoding="utf-8"))
        if is_demo(checkpoint):
            return _of_demo(Path(config["language"]["path"]).parents[1] / "examples", language)
        return _of_run(Path(config["data"]["image_map"]), Path(config["data"]["annotations"]), language)
    except (UserError, OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        return Examples([], [])


def _of_demo(folder: Path, language: str) -> Examples:
    """What ``python -m demo.examples`` wrote."""
    content = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    pictures = [Example(str(folder / one["file"]), one["questions"][language]) for one in content["pictures"]]
    return Examples(pictures, content["questions"][language])


def _of_run(image_map: Path, annotations: Path, language: str) -> Examples:
    """From what ``process_image.py`` wrote. The questions for any picture are those that were asked more than once."""
    if annotations.stat().st_size > LARGEST:
        return Examples([], [])
    asked: dict[str, list[str]] = {}  # by the picture's id
    for key, conversations in read_members(annotations):
        if key != "text" and (questions := _questions_not_trained_on(conversations, language)):
            asked[key] = questions
        if len(asked) == READ:
            break
    counts = Counter(question for questions in asked.values() for question in questions)
    often = [question for question, count in counts.most_common(QUESTIONS) if count > 1]
    chosen: list[Example] = []
    entry: Any
    for _, entry in read_members(image_map):
        questions = asked.get(str(entry["ID"]), [])
        if questions and os.path.isfile(entry["path"]):
            chosen.append(Example(entry["path"], questions[:QUESTIONS]))
        if len(chosen) == PICTURES:
            break
    return Examples(chosen, often)


def _questions_not_trained_on(conversations: Any, language: str) -> list[str]:
    """The first questions of a picture's conversations, each once: in ``language`` if there are, else in another."""
    held_back = [one for one in conversations if split_of(one) != "train"]
    first = [(one["language"] == language, typed(one["turns"][0]["q"])) for one in held_back]
    return _each_once(question for wanted, question in first if wanted) or _each_once(question for _, question in first)


def _each_once(questions: Iterable[str]) -> list[str]:
    """Without repetitions, empty ones and those about a box, which nobody types."""
    return [question for question in dict.fromkeys(questions) if question.strip() and not asked_about(question)[0]]

"""An evaluation that was interrupted: the result file is written as it goes, and --resume asks only what it lacks."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.hashing import sha256
from evaluation.questions import Question
from evaluation.result import Result, read_result
from model.manifest import MANIFEST

SAVE_EVERY = 60.0  # seconds: what a crash can cost
# Not compared: how many are asked at once and whether steps are compiled are left to the machine.
_FREE = {"batch_size", "compile"}


class Saver:
    """Calls ``write`` every ``SAVE_EVERY`` seconds, and less often where writing takes more than 5 % of the time.

    ``idle``: never, in a process that writes nothing.
    """

    def __init__(self, write: Callable[[], object], idle: bool = False) -> None:
        self.write, self.due = write, math.inf if idle else time.monotonic() + SAVE_EVERY

    def __call__(self) -> None:
        begin = time.monotonic()
        if begin >= self.due:
            self.write()
            end = time.monotonic()
            self.due = end + max(SAVE_EVERY, 20 * (end - begin))


def questions_hash(questions: Sequence[Question]) -> str:
    """SHA-256 of what is asked: ids, system texts, questions, references, options and names of pictures."""
    content = [[q.id, q.system, q.asked, q.references, q.options, q.images] for q in questions]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def checkpoint_hash(folder: Path) -> str:
    """SHA-256 of a checkpoint's manifest, which holds that of every file; "" without one."""
    manifest = folder / MANIFEST
    return sha256(manifest) if manifest.is_file() else ""


def find_unfinished(output: Path, facts: Mapping[str, Any], resume: bool) -> Result | None:
    """The result file to continue, if there is one and ``resume`` is set.

    ``facts`` are those of this evaluation that are known before the model is loaded.

    Raises:
        UserError: it cannot be read, or was made with other data or settings; or ``resume`` is not set, and answers of
            an interrupted evaluation would be lost.
    """
    if not output.exists():
        return None
    if not resume:
        _check_finished(output)
        return None
    result = read_result(output)
    check_same(output, result, facts)
    return result


def _check_finished(output: Path) -> None:
    try:
        result = read_result(output)
    except UserError:
        return  # no result file
    if not result["complete"] and result["answered"]:
        raise UserError(
            f"{output} holds {result['answered']} answers of an interrupted evaluation; continue it with --resume, "
            "delete it, or name another file with --output"
        )


def check_same(output: Path, result: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Raises UserError, which names the first of ``facts`` that the result file was not made with."""
    for name, now, before in _pairs(facts, result):
        if before != now:
            raise UserError(
                f"--resume: {output} was made with {name} = {before!r}, this evaluation has {now!r}; "
                "make them the same, or start again without --resume"
            )


def _pairs(facts: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, value now, value before); the keys of a section one by one."""
    for name, now in facts.items():
        before = result.get(name)
        if isinstance(now, dict) and isinstance(before, dict):
            for key in sorted((now.keys() | before.keys()) - _FREE):
                yield f"{name}.{key}", now.get(key), before.get(key)
        else:
            yield name, now, before


def restore(questions: Sequence[Question], result: Result) -> int:
    """Write the answers of an unfinished result file into the questions. Returns how many the model has answered.

    What could not be asked is asked again: the picture may be readable by now.
    """
    lines = {line["id"]: line for line in result["predictions"]}
    for question in questions:
        line = lines.get(question.id)
        if line is None or line["prediction"] is None:
            continue
        question.prediction = line["prediction"]
        question.corrupted = dict(line.get("corrupted", {}))
        for name, baseline in line["baselines"].items():
            if baseline["answer"] is not None:
                question.baselines[name] = baseline["answer"]
                question.other_images = baseline.get("images", question.other_images)
    return sum(question.prediction is not None for question in questions)

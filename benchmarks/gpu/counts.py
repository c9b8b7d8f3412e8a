"""Part 6: what needs no GPU: the operations that a step launches, and its arithmetic.

A narrow model of the real depth (28 layers, 27 in the tower) launches as many operations as the real one. The
arithmetic of the real one is :func:`benchmarks.common.step_flops`, which a test checks against torch's own counter.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.common import PRESETS, step_flops, visual_tokens
from benchmarks.gpu import models
from benchmarks.gpu.models import RANK, Setting, Step, build
from benchmarks.gpu.part import Part

VIEWS = (
    "view",
    "expand",
    "transpose",
    "t.",
    "unsqueeze",
    "squeeze",
    "slice",
    "select",
    "alias",
    "detach",
    "split",
    "permute",
)


class Operations(TorchDispatchMode):
    """Counts dispatched operations, except views, which launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removeprefix("aten.")
        if not name.startswith(VIEWS) and "_unsafe_view" not in name:
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


def run(part: Part) -> None:
    for setting in (Setting("ours", 5), Setting("ours", 1), Setting("llava", 1)):
        part.measure(f"operations of a step, {setting}", operations, part, setting)
    part.measure("arithmetic for a question, in llava's", arithmetic)


def operations(part: Part, setting: Setting) -> dict:
    """Number of operations in a step, and the most frequent ones."""
    name, tiny = "qwen2.5-1.5b", PRESETS["tiny"]
    thin = tiny if part.tiny else dataclasses.replace(tiny, layers=28, tower_layers=27)
    kept = models.PRESETS[name]
    models.PRESETS[name] = thin
    try:
        step = Step(build(setting, torch.device("cpu"), False), setting, torch.device("cpu"), False, 1)
    finally:
        models.PRESETS[name] = kept
    step()
    with Operations() as counted:
        step()
    return {"operations": counted.seen.total(), "most frequent": dict(counted.seen.most_common(12))}


def arithmetic() -> dict:
    """How many times the arithmetic of a question in a tree a question in a row of its own takes; real shapes."""
    found: dict[str, float] = {}
    for size in ("0.5b", "1.5b", "7b"):
        shape = PRESETS[f"qwen2.5-{size}"]
        lengths = {questions: 12 + visual_tokens(shape) + 28 * questions for questions in (1, 5, 10)}
        each = {q: step_flops(shape, length, 1, 10 * q, RANK) / q for q, length in lengths.items()}
        found |= {f"{size}, {q} in a tree": each[1] / each[q] for q in (5, 10)}
        found[f"{size}, TFLOP for a row"] = each[1] / 1e12
    return found

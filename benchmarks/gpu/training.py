"""Part 2: a training step of ours and of transformers' LLaVA with peft, each at its fastest batch size.

Every picture has 728 visual tokens, every question 28 tokens of text, 10 of them answered; LoRA r 64 on all linear
layers, a trained projector, bf16 autocast over frozen bf16 and trained fp32 weights, clipping, fused AdamW. "Rows" are
one question with its picture each. "compiled" compiles each decoder layer and each block of the tower, not the model
as a whole. No token of these batches is padding.
"""

from __future__ import annotations

import time
from functools import partial

import torch

from benchmarks.gpu.models import Setting, Step, build, bytes_per_token, matmul_ceiling, nominal_peak, shape_of, timed
from benchmarks.gpu.part import Part, Skip
from model.model import MMultiModal
from model.plain_peft import PeftModel

flash = partial(Setting, "ours", attention="tree_attention", fused=True)
# First what all are compared with and the settings that the project has goals for, then the effect of each switch, then
# the smaller model. Settings that differ only in the size of the trees share a compiled model, so they are next to each
# other.
SETTINGS = [
    (Setting("llava", 1), 8),
    (flash(5, compiled=True), 30),
    (flash(10, compiled=True), 10),
    (flash(1, compiled=True), 15),
    (flash(5), 8),
    (Setting("ours", 5), 8),
    (flash(1), 8),
    (Setting("ours", 5, attention="tree_attention"), 8),
    (Setting("ours", 5, fused=True), 8),
    (flash(5, dropout=0.05), 8),
    (flash(5, checkpointing=True), 8),
    (Setting("llava", 1, checkpointing=True), 8),
    (Setting("ours", 5, compiled=True), 30),
    (Setting("llava", 1, compiled=True), 35),
    (Setting("llava", 1, size="0.5b"), 8),
    (flash(5, size="0.5b", compiled=True), 30),
    (flash(1, size="0.5b", compiled=True), 15),
    (flash(10, size="0.5b", compiled=True), 15),
    (flash(5, size="0.5b"), 8),
    (flash(5, checkpointing=True, compiled=True), 30),
    (flash(5, dropout=0.05, compiled=True), 30),
    (Setting("ours", 5, attention="flex_attention", fused=True, compiled=True), 40),
    (Setting("ours", 10), 8),
    (Setting("ours", 1), 8),
    (Setting("ours", 5, attention="flex_attention"), 30),
    (Setting("ours", 5, size="0.5b"), 8),
    (Setting("llava", 1, size="0.5b", checkpointing=True), 8),
]


def run(part: Part) -> None:
    ceiling = (part.measure("matmul ceiling", matmul_ceiling, part.device, part.tiny) or {}).get("ceiling")
    bench = Bench(part, ceiling)
    for setting, seconds in SETTINGS:
        part.measure(str(setting), bench.best, setting, needs=0 if part.tiny else seconds)
    part.measure("questions/s against llava", ratios, part)


class Bench:
    """Holds one model at a time, and measures settings with it."""

    def __init__(self, part: Part, ceiling: float | None) -> None:
        self.part, self.ceiling = part, ceiling
        self.key: tuple | None = None
        self.model: MMultiModal | PeftModel | None = None

    def best(self, setting: Setting) -> dict:
        """The figures of the fastest batch size, and the rate and memory of each size tried."""
        require(setting, self.part)
        tried = []
        sizes = self.candidates(setting)
        while sizes:
            rows = sizes.pop(0)
            try:
                tried.append(self.at(setting, rows))
            except torch.OutOfMemoryError:
                tried.append({"rows": rows, "questions/s": 0.0, "error": "out of memory"})
                if len(tried) == 1 and rows > 1:
                    sizes = [rows // 2]
            if tried[-1]["questions/s"] < 0.97 * max(one["questions/s"] for one in tried):
                break
        if not any(one["questions/s"] for one in tried):
            raise torch.OutOfMemoryError(f"{setting} does not fit with {tried[-1]['rows']} rows")
        most = max(tried, key=lambda one: one["questions/s"])
        others = {one["rows"]: [one["questions/s"], one.get("peak GiB")] for one in tried}
        return {**most, "setting": vars(setting), "by rows: questions/s, GiB": others}

    def candidates(self, setting: Setting) -> list[int]:
        """Batch sizes to try, ascending: what should fit into the memory, and 1.4 times that."""
        if self.part.tiny:
            return [2]
        shape = shape_of(setting.size, False)
        length = 740 + 28 * setting.questions
        free = 0.85 * torch.cuda.get_device_properties(0).total_memory - 6 * 2**30
        row = length * bytes_per_token(shape, setting.checkpointing) * (0.6 if setting.fused else 1)
        row += (length if setting.side == "llava" else 0) * shape.vocab_size * 10  # logits of every position
        fits = max(1, min(64, int(free / row)))
        sizes = [fits, int(1.4 * fits)]  # if the second does not fit, it costs about a second
        if setting.compiled and setting.side == "llava":  # another shape would be compiled again
            sizes = [fits]
        return sorted({min(64, size // 4 * 4) if size >= 8 else max(1, size) for size in sizes})

    def at(self, setting: Setting, rows: int) -> dict:
        """The figures of one batch size."""
        device, begin = self.part.device, time.monotonic()
        model = self.model_of(setting)
        self.part.clear()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step = Step(model, setting, device, self.part.tiny, rows)
        try:
            step()  # compiles
            warm = time.monotonic() - begin
            median, least, most = timed(step, device, *((0.0, 2, 0) if self.part.tiny else (0.9, 3, 2)))
        finally:
            step.free()
        figures = {
            "questions/s": step.questions / median,
            "ms": 1000 * median,
            "least ms": 1000 * least,
            "most ms": 1000 * most,
            "rows": rows,
            "length": step.length,
            "tokens/s": step.tokens / median,
            "answered tokens/s": step.labels / median,
            "peak GiB": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
            "TFLOP/s": step.flops() / median / 1e12,
            "until the first step s": warm,
        }
        peak = nominal_peak()
        figures["MFU"] = step.flops() / median / peak if peak else None
        figures["MFU, 4N alone"] = step.flops_4n() / median / peak if peak else None
        figures["of ceiling"] = step.flops() / median / self.ceiling if self.ceiling else None
        return figures

    def model_of(self, setting: Setting) -> MMultiModal | PeftModel:
        """The model for a setting: the one in memory if it is the same, else a new one that replaces it."""
        if self.model is None or self.key != setting.model:
            self.key = self.model = None
            self.part.clear()
            torch._dynamo.reset()
            self.model, self.key = build(setting, self.part.device, self.part.tiny), setting.model
        return self.model


def require(setting: Setting, part: Part) -> None:
    if part.device.type != "cuda" and setting.attention == "flex_attention":
        raise Skip("FlexAttention's backward pass needs CUDA")
    if setting.compiled and not part.compiles:
        raise Skip("compiled code is measured on CUDA only")


def ratios(part: Part) -> dict:
    """Questions per second of each of our settings over those of llava's fastest setting of the same size."""
    found = {r["name"]: r for r in part.records("training") if r["status"] == "ok" and "setting" in r}
    base: dict[str, float] = {}
    for record in found.values():
        if record["setting"]["side"] == "llava":
            size = record["setting"]["size"]
            base[size] = max(base.get(size, 0.0), record["questions/s"])
    return {
        name: record["questions/s"] / base[record["setting"]["size"]]
        for name, record in found.items()
        if record["setting"]["side"] == "ours" and record["setting"]["size"] in base
    }

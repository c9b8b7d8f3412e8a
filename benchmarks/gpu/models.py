"""Models, training steps and timers that the parts share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import torch
from torch import nn
from transformers import PreTrainedModel

from benchmarks.answer import Clock
from benchmarks.common import PRESETS, Shape, batch_of, build_llava, build_ours, step_flops
from dataset.prompt import IGNORE_INDEX
from model.compiling import compile_layers
from model.fused_lora import unfuse_lora
from model.model import MMultiModal, base_of
from model.plain_peft import PeftModel

RANK = 64
PEAKS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, from the data sheets


def shape_of(size: str, tiny: bool) -> Shape:
    """``size`` is 0.5b, 1.5b or 7b."""
    return PRESETS["tiny" if tiny else f"qwen2.5-{size}"]


def nominal_peak() -> float | None:
    """Operations per second in bf16 that the card's data sheet states."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((peak for card, peak in PEAKS.items() if all(word in name for word in card.split())), None)


class Generation(TypedDict, total=False):
    """Options of ``generate``."""

    max_new_tokens: int
    min_new_tokens: int
    do_sample: bool
    suppress_tokens: list[int]
    streamer: Clock


def exactly(tokens: int) -> Generation:
    """Options for greedy decoding of exactly this many tokens."""
    return {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}


def working_dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


# ---------------------------------------------------------------------------------------------- a training step


@dataclass(frozen=True)
class Setting:
    """One way to train: the model, its size and its switches."""

    side: str  # ours or llava
    questions: int  # in each tree; 1 means rows
    size: str = "1.5b"
    attention: str = "sdpa"
    checkpointing: bool = False
    compiled: bool = False
    dropout: float = 0.0
    fused: bool = False  # model/fused_lora.py instead of peft's own layers

    def __str__(self) -> str:
        what = "rows" if self.questions == 1 else f"trees of {self.questions}"
        more = [self.attention] if self.attention != "sdpa" else []
        more += ["fused LoRA"] * self.fused
        more += ["recomputing"] * self.checkpointing + ["compiled"] * self.compiled
        more += [f"dropout {self.dropout}"] if self.dropout else []
        return ", ".join([f"{self.side} {self.size}", what, *more])

    @property
    def model(self) -> tuple:
        """Settings with equal keys can share a model."""
        return self.side, self.size, self.attention, self.checkpointing, self.compiled, self.dropout, self.fused


def build(setting: Setting, device: torch.device, tiny: bool) -> MMultiModal | PeftModel:
    """The model of a setting as train.py holds it: frozen weights in bf16 on CUDA, trained ones in fp32."""
    shape = shape_of(setting.size, tiny)
    make = build_llava if setting.side == "llava" else build_ours
    model: MMultiModal | PeftModel = make(
        shape, working_dtype(device), device, rank=RANK, checkpointing=setting.checkpointing
    )
    if isinstance(model, MMultiModal):
        model.set_attention(setting.attention)
        if not setting.fused:
            unfuse_lora(model.language)
    if setting.dropout:
        for name, module in model.named_modules():
            if name.endswith("lora_dropout"):
                module["default"] = nn.Dropout(setting.dropout)
    if setting.compiled and isinstance(model, MMultiModal):
        compile_layers(model)
    elif setting.compiled:
        for layer in layers_of(model):
            layer.compile()
    return model


def language_of(model: MMultiModal | PeftModel) -> PreTrainedModel:
    """The language model of either side, without the ``PeftModel`` around it."""
    if isinstance(model, MMultiModal):
        return base_of(model.language)
    return model.get_base_model().model.language_model


def layers_of(model: MMultiModal | PeftModel) -> list[nn.Module]:
    """Decoder layers of the language model and blocks of the tower."""
    language = language_of(model)
    tower = model.vision if isinstance(model, MMultiModal) else model.get_base_model().model.vision_tower
    blocks = [module for name, module in tower.named_modules() if name.rpartition("encoder.layers.")[2].isdigit()]
    return [*getattr(language, "model", language).layers, *blocks]


class Step:
    """One optimiser step, as train.py takes it: autocast, backward, clipping, fused AdamW."""

    def __init__(
        self, model: MMultiModal | PeftModel, setting: Setting, device: torch.device, tiny: bool, rows: int
    ) -> None:
        self.model, self.setting, self.device, self.rows = model, setting, device, rows
        self.shape = shape_of(setting.size, tiny)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, fused=True)
        # Without use_cache=False transformers' model builds a cache of keys and values in every step.
        self.options = {"use_cache": False} if setting.side == "llava" else {}
        self.take(rows)

    def take(self, rows: int) -> None:
        """Make a batch of ``rows`` trees or rows, one picture each."""
        self.rows = rows
        batch = batch_of(self.shape, self.setting.questions, rows, torch.Generator().manual_seed(0))
        self.batch = {key: value.to(self.device) for key, value in batch.items()}
        if self.setting.side == "llava":
            self.batch.pop("images_per_row")
        else:
            self.batch["images_per_row"] = batch["images_per_row"]
        self.length = self.batch["input_ids"].shape[1]
        self.labels = int((batch["labels"] != IGNORE_INDEX).sum())

    def __call__(self) -> None:
        dtype = working_dtype(self.device)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            loss = self.model(**self.batch, **self.options).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        with torch.profiler.record_function("optimiser"):
            self.optimizer.step()
            self.optimizer.zero_grad()

    def free(self) -> None:
        self.optimizer.zero_grad()
        self.batch = {}

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def questions(self) -> int:
        return self.rows * self.setting.questions

    def flops(self) -> float:
        """Operations that the step needs; the same for both sides (:func:`benchmarks.common.step_flops`)."""
        return step_flops(self.shape, self.length, self.rows, self.labels, RANK)

    def flops_4n(self) -> float:
        """4 operations for each weight of the decoder layers and each token, as NeMo counts them."""
        return 4.0 * layer_weights(self.shape) * self.tokens


def layer_weights(shape: Shape) -> int:
    """Weights of all decoder layers' matrices."""
    d, kv = shape.hidden_size, shape.hidden_size // shape.heads * shape.key_value_heads
    return shape.layers * (2 * d * d + 2 * d * kv + 3 * d * shape.intermediate_size)


def bytes_per_token(shape: Shape, checkpointing: bool) -> int:
    """Activation memory of a token in a training step, in bf16 with adapters: a first guess for the batch size."""
    d, ffn = shape.hidden_size, shape.intermediate_size
    layer = 2 * (7 * d + 4 * ffn) + 13 * d + 2 * 7 * RANK * 3 + 4 * ffn
    return layer + 2 * d * shape.layers if checkpointing else layer * shape.layers


# ---------------------------------------------------------------------------------------------- timers


def timed(work: Callable[[], object], device: torch.device, seconds: float = 1.2, groups: int = 3, warm_up: int = 2):
    """Seconds of one call: (median, least, most) over groups of calls, with a wait for the device after each group.

    Within a group the host may run ahead, as in training. The groups together take about ``seconds``.
    """
    for _ in range(warm_up):
        work()
    synchronise(device)
    begin = time.perf_counter()
    work()
    synchronise(device)
    once = time.perf_counter() - begin
    calls = max(1, min(20, round(seconds / groups / max(once, 1e-6))))
    taken = []
    for _ in range(groups):
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        synchronise(device)
        taken.append((time.perf_counter() - begin) / calls)
    return statistics.median(taken), min(taken), max(taken)


def matmul_ceiling(device: torch.device, tiny: bool) -> dict[str, float]:
    """Operations per second of square matrix products in bf16: the most that this card reaches."""
    found: dict[str, float] = {}
    for size in (128, 256) if tiny else (4096, 8192, 16384):
        one, other = (torch.randn(size, size, device=device, dtype=working_dtype(device)) for _ in range(2))
        median, least, _ = timed(partial(torch.matmul, one, other), device, seconds=0.4)
        found[f"{size} square, TFLOP/s"] = 2 * size**3 / median / 1e12
        found[f"{size} square at its best, TFLOP/s"] = 2 * size**3 / least / 1e12
    found["ceiling"] = max(value for name, value in found.items() if "best" not in name) * 1e12
    return found


def copy_bandwidth(device: torch.device, tiny: bool) -> dict[str, float]:
    """Bytes that a copy reads and writes per second: a bound for a step that mostly reads weights."""
    source = torch.empty((2**22 if tiny else 2**32), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    median, least, _ = timed(lambda: target.copy_(source), device, seconds=0.4)
    return {"bandwidth": 2 * source.numel() / median, "GB/s": 2 * source.numel() / median / 1e9}

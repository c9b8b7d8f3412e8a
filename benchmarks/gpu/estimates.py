"""Part 5: the memory that ``train.py --dry-run`` estimates for each preset in configs/, and the peak of two real steps.

The batch has the preset's number of rows, each a picture with questions up to its longest sequence. The base models
are built from their published config.json, with random weights.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import tempfile
from pathlib import Path

import torch

from benchmarks.common import PRESETS, batch_of, image_token
from benchmarks.gpu.models import timed, working_dtype
from benchmarks.gpu.part import Part, Skip
from benchmarks.gpu.published import PUBLISHED, TOKENS, thin
from dataset.prompt import IGNORE_INDEX
from model.model import base_of

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Small ones first: they take little time and show most of what the big ones would.
ORDER = ["qwen2.5-0.5b-8gb", "qwen3-1.7b", "qwen-1_8b-chat", "qwen2.5-7b-80gb", "qwen2.5-7b-qlora-24gb"]


def run(part: Part) -> None:
    # A preset with "model:" takes its sizes from that model's own config.json, which is not here.
    files = (file for file in CONFIGS.glob("*.yaml") if "\nmodel:" not in file.read_text(encoding="utf-8"))
    names = sorted((file.stem for file in files), key=lambda n: (n not in ORDER, *ORDER, n).index(n))
    for name in names:
        part.measure(name, compare, part, name, needs=0 if part.tiny else 8)


def compare(part: Part, name: str) -> dict:
    if importlib.util.find_spec("pydantic") is None:
        raise Skip("needs pydantic")
    from model.memory import Batch, estimate

    dtype, device = working_dtype(part.device), part.device
    with tempfile.TemporaryDirectory() as folder:
        config, tokens = load_preset(name, Path(folder), part.tiny)
        quantised = config.language.load_in_4bit
        if quantised and (device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None):
            raise Skip("4-bit weights need bitsandbytes and CUDA")
        rows = 1 if part.tiny else config.train.per_device_train_batch_size
        shape = dataclasses.replace(PRESETS["qwen2.5-0.5b"], vocab_size=tokens)
        questions = 2 if part.tiny else (config.language.max_length - config.vision.image_context_length - 12) // 28
        batch = batch_of(shape, questions, rows, torch.Generator().manual_seed(0))
        labels, length = int((batch["labels"] != IGNORE_INDEX).sum()), batch["input_ids"].shape[1]
        expected = estimate(config, tokens, Batch(rows, length, rows, labels), dtype)
        part.clear()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        model = real_model(config, tokens, dtype, device)
    if quantised:
        quantise(base_of(model.language), dtype)
    base_of(model.language).image_token_id = image_token(shape)
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    measured = peak_of_steps(model.train(), batch, config, dtype, device, part.tiny)
    total = expected.total / 2**30
    found = {"rows": rows, "length": length, "estimate GiB": total, **measured, "estimate": str(expected)}
    if measured["peak GiB"]:
        found["estimate over peak"] = total / measured["peak GiB"]
    return found


def load_preset(name: str, folder: Path, tiny: bool):
    """The preset with base models that are only a config.json, and the length of the tokenizer."""
    from settings import load_config

    plain = load_config(CONFIGS / f"{name}.yaml", [])
    overrides = []
    for part in ("vision", "language"):
        content = PUBLISHED[getattr(plain, part).path]
        (folder / part).mkdir()
        text = json.dumps(thin(content) if tiny else content)
        (folder / part / "config.json").write_text(text, encoding="utf-8")
        overrides.append(f"{part}.path={folder / part}")
    tokens = 1000 if tiny else TOKENS[PUBLISHED[plain.language.path]["model_type"]]
    config = load_config(CONFIGS / f"{name}.yaml", overrides)
    return config, tokens


def real_model(config, tokens: int, dtype: torch.dtype, device: torch.device):
    """The dry run's empty model, allocated and filled with random weights."""
    from model.memory import empty_model

    model = empty_model(config, tokens, dtype).to_empty(device=device)
    base_of(model.language).tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
        for buffer in model.buffers():
            if buffer.dtype.is_floating_point:  # rotary frequencies
                buffer.fill_(0.01)
            else:  # numbers of positions
                buffer.copy_(torch.arange(buffer.numel(), device=device).view_as(buffer))
    return model


def quantise(language: torch.nn.Module, dtype: torch.dtype) -> None:
    """Replace the weights under the adapters by bitsandbytes' NF4."""
    import bitsandbytes as bnb

    for module in language.modules():
        base = getattr(module, "base_layer", None)
        if isinstance(base, torch.nn.Linear):
            device, bias = base.weight.device, base.bias is not None
            packed = bnb.nn.Linear4bit(base.in_features, base.out_features, bias, dtype, quant_type="nf4")
            packed.load_state_dict(base.state_dict())
            module.base_layer = packed.requires_grad_(False).to(device)


def peak_of_steps(model, batch: dict, config, dtype: torch.dtype, device: torch.device, tiny: bool) -> dict:
    """Peak memory of two steps in GiB, and milliseconds of one."""
    counts = batch["images_per_row"]
    batch = {**{key: value.to(device) for key, value in batch.items()}, "images_per_row": counts}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    median, *_ = timed(step, device, seconds=0.0, groups=1 if tiny else 2, warm_up=1)
    cuda = device.type == "cuda"
    found = {"peak GiB": torch.cuda.max_memory_allocated() / 2**30 if cuda else None, "ms": 1000 * median}
    return {**found, "reserved GiB": torch.cuda.max_memory_reserved() / 2**30 if cuda else None}

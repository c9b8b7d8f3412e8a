"""Out of memory: which batch did not fit, and what to change."""

from __future__ import annotations

from pathlib import Path

import torch

from common.command import resume_command
from model.run_checkpoints import latest_checkpoint
from training.feed import Batch, image_count


def out_of_memory(error: RuntimeError) -> bool:
    """Only CUDA has an exception class for it; on a CPU the message must tell."""
    words = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def full_memory(batch: Batch, step: int, run: Path) -> str:
    """One line about a batch of ``step`` that did not fit."""
    latest = latest_checkpoint(run)
    rest = f"{latest} is complete, continue with: {resume_command()}" if latest else "there is no checkpoint yet"
    rows, tokens = batch["input_ids"].shape
    return (
        f"out of memory in step {step}, in a batch of {rows} rows of {tokens} tokens, {image_count(batch)} images; "
        "lower train.per_device_train_batch_size or data.tokens_per_batch (and raise "
        f"train.gradient_accumulation_steps), or turn on train.gradient_checkpointing; {rest}"
    )

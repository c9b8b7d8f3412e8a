"""Which errors mean that memory is full, and what is said then."""

from __future__ import annotations

import pytest
import torch

from common.files import write_text
from training.full_memory import full_memory, out_of_memory


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 16 bytes."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_only_full_memory_is_taken_for_it(error, full):
    assert out_of_memory(error) == full


def test_the_line_names_step_batch_and_the_checkpoint_to_continue_from(tmp_path):
    batch = {"input_ids": torch.zeros(3, 70, dtype=torch.long), "images_per_row": torch.tensor([1, 0, 2])}
    line = full_memory(batch, 7, tmp_path)
    assert line.startswith(
        "out of memory in step 7, in a batch of 3 rows of 70 tokens, 3 images; lower train.per_device"
    )
    assert line.endswith("there is no checkpoint yet") and "\n" not in line
    write_text(tmp_path / "checkpoint-4" / "manifest.json", "{}")
    assert f"{tmp_path / 'checkpoint-4'} is complete, continue with: " in full_memory(batch, 7, tmp_path)

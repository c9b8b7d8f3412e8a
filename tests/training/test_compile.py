"""Compiled code computes what uncompiled code computes. Inductor's C++ replaces its CUDA kernels here: the graphs, and
what would break or multiply them, are the same. Compiling takes a minute, so `make soak` runs this.
"""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from accelerate.state import AcceleratorState

from training.setup import build_loop

pytestmark = [
    pytest.mark.skipif(not os.environ.get("VLM_SOAK"), reason="compiling takes a minute; `make soak` does it"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on a CPU"),
]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def test_a_compiled_step_has_the_losses_of_a_plain_one(make_config, tmp_path):
    losses = []
    for compiled in ("false", "true"):
        AcceleratorState._reset_state(True)  # a process has one, and a run its own process
        options = ("lora.lora_dropout=0.0", "train.max_steps=6", "train.save_steps=100")
        config = make_config(*options, f"train.torch_compile={compiled}", pictures=9)
        loop = build_loop(config, tmp_path / compiled)
        loop.train()
        losses.append([line["loss"] for line in loop.progress.log_history if "loss" in line])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert len(losses[0]) == 6 and losses[1] == pytest.approx(losses[0], rel=1e-4)

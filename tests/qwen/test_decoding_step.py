"""The decoding step against the model's own forward, in Triton's interpreter; and which models it computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn
from transformers import Qwen2Config, Qwen3Config

from common.optional import is_installed
from model.plain_peft import LoraConfig, get_peft_model
from qwen.decoding_step import DecodingStep, is_plain
from qwen.Mqwen import MQwen2ForCausalLM, MQwen3ForCausalLM
from qwen.prefix import add_prefix
from tests.helpers.decoding_steps import CASES

REPO = Path(__file__).resolve().parent.parent.parent
SIZES = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture(scope="module")
def steps():
    if not is_installed("triton"):
        pytest.skip("triton is not installed: pip install triton, whose interpreter runs the kernels on a CPU")
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.decoding_steps"],
        cwd=REPO,
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_a_step_equals_the_models_own_forward(steps, case):
    found, tolerance = steps[case], 3e-6 if "float32" in case else 6e-3  # 16 bits: a few units in the last place
    assert found["logits"] < tolerance
    assert found["cache"] < tolerance
    assert found["untouched"], "a step writes one slot of the cache and nothing else"
    assert found["counters"] == 0, "the next step counts the arrived parts from 0"


def model_of(kind: str = "qwen2", **changes):
    if kind == "qwen3":
        return MQwen3ForCausalLM(Qwen3Config(**SIZES, **HEADS, head_dim=32, **changes)).bfloat16()
    return MQwen2ForCausalLM(Qwen2Config(**SIZES, **HEADS, **changes)).bfloat16()


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_a_merged_model_of_16_bits_is_plain_but_needs_a_gpu(kind):
    model = model_of(kind)
    assert is_plain(model) and is_plain(model.half())
    assert not is_plain(model.float())
    assert not DecodingStep.supports(model.bfloat16())


def test_a_model_that_computes_otherwise_is_not_plain():
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    assert not is_plain(model_of(**window))
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    assert not is_plain(model_of(rope_parameters=scaled))
    assert not is_plain(model_of(hidden_act="gelu"))
    assert not is_plain(model_of("qwen3", attention_bias=True))  # a bias after the attention
    grouped = model_of()
    grouped.model.layers[0].self_attn.num_key_value_groups = 17  # a kernel's program has 16
    assert not is_plain(grouped)


def test_changed_modules_are_not_plain():
    adapted = get_peft_model(model_of(), LoraConfig(r=2, target_modules=["down_proj"]))
    assert not is_plain(adapted)
    assert not is_plain(adapted.get_base_model())
    assert is_plain(adapted.merge_and_unload())
    prefixed = model_of()
    add_prefix(prefixed.model.layers, 2)
    assert not is_plain(prefixed)
    mixed = model_of()
    mixed.model.norm.float()
    assert not is_plain(mixed)
    other = model_of()
    other.model.layers[1].mlp.up_proj = type("Quantised", (nn.Linear,), {})(32, 48, bias=False).bfloat16()
    assert not is_plain(other)

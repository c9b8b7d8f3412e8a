"""Run as a module under TRITON_INTERPRET=1: decoding steps on the CPU, against the model's own forward.

Prints one JSON object: by case, the largest differences of two steps. A process of its own, because triton reads the
variable when it is imported, and a torch for CUDA may import triton first.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from transformers import Qwen2Config, Qwen3Config, StaticCache

from qwen import decoding_step
from qwen.Mqwen import MQwen2ForCausalLM, MQwen3ForCausalLM

CASES = {
    "qwen2 float32 1": (torch.float32, [3]),
    "qwen2 float16 3": (torch.float16, [0, 4, 21]),
    "qwen3 float32 3": (torch.float32, [0, 4, 21]),
    "qwen3 float16 1": (torch.float16, [0]),
}
PROMPT, SLOTS = 22, 26


def build(name: str, dtype: torch.dtype) -> Any:
    """A model of two layers whose widths are no powers of 2, as those of real ones are not."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 90, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2}
    if name.startswith("qwen2"):  # 3 queries on one key
        model = MQwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=3, num_key_value_heads=1))
    else:  # 2 queries on each of 2 keys, wider than hidden_size / heads
        model = MQwen3ForCausalLM(Qwen3Config(**sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=16))
    for name, weight in model.named_parameters():
        torch.nn.init.normal_(weight, 1.0 if "norm" in name else 0.0, 0.3)  # biases and norms too
    return model.to(dtype).eval()


@torch.no_grad()
def differences(name: str, dtype: torch.dtype, starts: list[int]) -> dict[str, Any]:
    """Two steps after a prompt whose rows begin at the slots ``starts``; the prompt's keys fill several blocks."""
    model, begin = build(name, dtype), torch.tensor(starts)
    ids = torch.randint(0, 90, (len(starts), PROMPT))
    mask = (torch.arange(SLOTS) >= begin[:, None]).long()  # [B, S]
    positions = (torch.arange(SLOTS) - begin[:, None]).clamp(min=0)
    theirs = StaticCache(config=model.config, max_cache_len=SLOTS)
    first = {"attention_mask": mask[:, :PROMPT], "position_ids": positions[:, :PROMPT]}
    token = model(ids, past_key_values=theirs, **first).logits[:, -1:].argmax(-1)
    ours = copy.deepcopy(theirs)
    step = decoding_step.DecodingStep(model, ours)
    found = {"logits": 0.0, "cache": 0.0, "untouched": True, "counters": 0}
    for slot in (PROMPT, PROMPT + 1):
        position = positions[:, slot : slot + 1]
        options = {"attention_mask": mask[:, : slot + 1], "position_ids": position, "past_key_values": theirs}
        wanted = model(token, **options).logits[:, -1]
        before = copy.deepcopy(ours)
        logits = step(token, position, begin, torch.tensor([slot]))
        found["logits"] = max(found["logits"], _relative(logits, wanted))
        found["counters"] += int(step.arrived.abs().sum())
        for mine, past, other in zip(ours.layers, before.layers, theirs.layers, strict=True):
            found["cache"] = max(found["cache"], _relative(mine.keys, other.keys), _relative(mine.values, other.values))
            for new, old in ((mine.keys, past.keys), (mine.values, past.values)):
                changed = (new != old).any(-1).any(0).any(0)  # [S]
                found["untouched"] &= changed.nonzero().flatten().tolist() == [slot]
            found["untouched"] &= bool(mine.cumulative_length == past.cumulative_length)
        token = wanted.argmax(-1)[:, None]
    return found


def _relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got.float() - wanted.float()).abs().max() / wanted.float().abs().max()).item()


if __name__ == "__main__":
    # Fewer and larger programs: the interpreter needs milliseconds for each.
    decoding_step.SPLITS, decoding_step.KEYS = 2, 8
    decoding_step.QKV = decoding_step.OUTPUT = decoding_step.GATE_UP = decoding_step.DOWN = decoding_step.Tile(16, 4)
    print(json.dumps({name: differences(name, *case) for name, case in CASES.items()}))

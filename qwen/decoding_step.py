"""One decoding step of Qwen2 or Qwen3 on a static cache: 143 kernels at 28 layers, where transformers' has 1,449.

At batch 1 a step reads every weight once (3.1 GB at 1.5B in bf16: 0.73 ms on an H200) and computes next to nothing.
transformers' forward spends most of its time between kernels, even in a CUDA graph. The kernels are in
qwen/decoding_kernels.py. They read the weights in place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import StaticCache
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from common.optional import is_installed
from qwen.Mqwen import MQwen2ForCausalLM, MQwen3ForCausalLM
from qwen.prefix import PrefixedAttention


class Tile(NamedTuple):
    """What one program of a linear layer has: rows of the weight, and warps to hold them in registers."""

    rows: int
    warps: int


# An SM needs 25 kB of loads in flight (4.3 TB/s, 0.75 us, 132 SMs) and all programs of a small layer at once: the 2,048
# rows of q, k and v in 1.5B are 512 programs, 4 on each SM. Of six settings each, these were the fastest on an H200 at
# the widths of 1.5B: 2.8, 2.5, 13.8, 8.4 and 4.2 us a layer; a step takes 1.03 ms, 70 % of a copy's bandwidth.
QKV = Tile(rows=4, warps=4)
OUTPUT = Tile(rows=4, warps=8)
GATE_UP = Tile(rows=1, warps=2)  # rows of each
DOWN = Tile(rows=2, warps=8)
SPLITS = 16  # parts of the keys; at 1,000 keys, each part is one block
KEYS = 64  # in a block
ATTENTION_WARPS = 8
NORM_WARPS = 8


class DecodingStep:
    """One token for each row: embedding, layers, head. A CUDA graph can hold the call after one call without it."""

    def __init__(self, language: Any, cache: StaticCache) -> None:
        """``cache``: after a first forward pass, so that its keys [B, H_kv, S, E] exist; they are updated in place."""
        from qwen import decoding_kernels

        self.kernels = decoding_kernels
        self.language, self.layers, self.cache = language, list(language.model.layers), cache
        keys = cache.layers[0].keys
        batch, kv_heads, _, head_dim = keys.shape
        config, device = language.config, keys.device
        heads = config.num_attention_heads
        self.batch, self.heads, self.kv_heads, self.head_dim = batch, heads, kv_heads, head_dim
        self.eps = config.rms_norm_eps
        # Programmatic dependent launch: the next kernel loads its weights while this one ends.
        self.overlap = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)

        def empty(*shape: int, dtype: torch.dtype = keys.dtype) -> torch.Tensor:
            return torch.empty(batch, *shape, dtype=dtype, device=device)

        self.hidden, self.normed = empty(config.hidden_size), empty(config.hidden_size)
        self.qkv, self.attended = empty((heads + 2 * kv_heads) * head_dim), empty(heads * head_dim)
        self.activated = empty(config.intermediate_size)
        self.cos, self.sin = empty(head_dim), empty(head_dim)
        self.partial = empty(heads, SPLITS, head_dim, dtype=torch.float32)
        self.peaks, self.totals = (empty(heads, SPLITS, dtype=torch.float32) for _ in range(2))
        self.arrived = torch.zeros(batch, kv_heads, dtype=torch.int32, device=device)

    @staticmethod
    def supports(language: Any) -> bool:
        """Whether the kernels compute this model here: on CUDA with triton, and :func:`is_plain`."""
        on_cuda = language.device.type == "cuda" and torch.version.hip is None
        return on_cuda and is_installed("triton") and is_plain(language)

    @torch.no_grad()
    def __call__(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, starts: torch.Tensor, slot: torch.Tensor
    ) -> torch.Tensor:
        """Logits [B, V] after the tokens ``input_ids`` [B, 1]; their keys and values are written into the cache.

        Args:
            position_ids: [B, 1], for the rotary embedding.
            starts: [B], int: the first slot of the cache that each row sees; it sees all from there to ``slot``.
            slot: [1], int64: the slot that is written, the same in every row.
        """
        self._start(input_ids.contiguous(), position_ids.contiguous())
        for layer, cached in zip(self.layers, self.cache.layers, strict=True):
            self._project(layer)
            self._attend(layer.self_attn, cached.keys, cached.values, starts, slot)
            self._add_linear(self.attended, layer.self_attn.o_proj.weight, OUTPUT)
            self._gate_and_up(layer.post_attention_layernorm.weight, layer.mlp)
            self._add_linear(self.activated, layer.mlp.down_proj.weight, DOWN)
        self._normalise(self.language.model.norm.weight)
        return self.language.lm_head(self.normed)  # cuBLAS reads the head's weight at 96 % of the bandwidth

    def _launch(self, warps: int) -> dict[str, Any]:
        """Arguments that every kernel but the first takes."""
        return {"OVERLAP": self.overlap, "num_warps": warps} | ({"launch_pdl": True} if self.overlap else {})

    def _start(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> None:
        # Launched plainly: what the caller has computed is complete, so that later kernels need not wait for it.
        rotary, width = self.language.model.rotary_emb, self.hidden.shape[1]
        self.kernels.start_step[(self.batch,)](
            input_ids,
            position_ids,
            self.language.model.embed_tokens.weight,
            rotary.inv_freq,
            self.hidden,
            self.cos,
            self.sin,
            D=width,
            E=self.head_dim,
            SCALING=rotary.attention_scaling,
            BLOCK=_power_of_2(width),
        )

    def _project(self, layer: Any) -> None:
        attention, width = layer.self_attn, self.hidden.shape[1]
        weights = [linear.weight for linear in (attention.q_proj, attention.k_proj, attention.v_proj)]
        biases = [linear.bias for linear in (attention.q_proj, attention.k_proj, attention.v_proj)]
        rows = QKV.rows  # divides a head's width, so that a program has rows of one of the three only
        self.kernels.project_qkv[(self.qkv.shape[1] // rows,)](
            self.hidden,
            layer.input_layernorm.weight,
            *weights,
            *(weights if biases[0] is None else biases),
            self.qkv,
            B=self.batch,
            D=width,
            Q=self.heads * self.head_dim,
            KV=self.kv_heads * self.head_dim,
            EPS=self.eps,
            BIAS=biases[0] is not None,
            BLOCK=_power_of_2(width),
            ROWS=rows,
            **self._launch(QKV.warps),
        )

    def _attend(
        self, attention: Any, keys: torch.Tensor, values: torch.Tensor, starts: torch.Tensor, slot: torch.Tensor
    ) -> None:
        norms = hasattr(attention, "q_norm")
        group = self.heads // self.kv_heads
        self.kernels.attend[(self.batch, self.kv_heads, SPLITS)](
            self.qkv,
            attention.q_norm.weight if norms else self.qkv,
            attention.k_norm.weight if norms else self.qkv,
            self.cos,
            self.sin,
            keys,
            values,
            starts,
            slot,
            self.partial,
            self.peaks,
            self.totals,
            self.arrived,
            self.attended,
            keys.stride(0),
            keys.stride(1),
            HEADS=self.heads,
            GROUP=group,
            E=self.head_dim,
            EPS=self.eps,
            SCALE=attention.scaling * 1.4426950408889634,  # log2(e): the kernel computes powers of 2
            NORM=norms,
            GROUP_BLOCK=_power_of_2(group),
            SPLITS=SPLITS,
            KEYS=KEYS,
            **self._launch(ATTENTION_WARPS),
        )

    def _add_linear(self, x: torch.Tensor, weight: torch.Tensor, tile: Tile) -> None:
        """hidden += x @ weight.T."""
        self.kernels.add_linear[(len(weight) // tile.rows,)](
            x,
            weight,
            self.hidden,
            B=self.batch,
            N=weight.shape[0],
            K=weight.shape[1],
            BLOCK=_power_of_2(weight.shape[1]),
            ROWS=tile.rows,
            **self._launch(tile.warps),
        )

    def _gate_and_up(self, norm: torch.Tensor, mlp: Any) -> None:
        count, width = mlp.gate_proj.weight.shape
        self.kernels.gate_and_up[(count // GATE_UP.rows,)](
            self.hidden,
            norm,
            mlp.gate_proj.weight,
            mlp.up_proj.weight,
            self.activated,
            B=self.batch,
            N=count,
            D=width,
            EPS=self.eps,
            BLOCK=_power_of_2(width),
            ROWS=GATE_UP.rows,
            **self._launch(GATE_UP.warps),
        )

    def _normalise(self, norm: torch.Tensor) -> None:
        """normed = RMSNorm(hidden)."""
        width = self.hidden.shape[1]
        self.kernels.final_norm[(self.batch,)](
            self.hidden,
            norm,
            self.normed,
            D=width,
            EPS=self.eps,
            BLOCK=_power_of_2(width),
            **self._launch(NORM_WARPS),
        )


def is_plain(language: Any) -> bool:
    """Whether a model is one that the kernels compute: Qwen2 or Qwen3 in one 16-bit type on one device.

    Not so with adapters, quantised weights, learnt prefixes, sliding windows or scaled rotary positions.
    """
    if type(language) not in (MQwen2ForCausalLM, MQwen3ForCausalLM):
        return False
    config, model = language.config, language.model
    return (
        all(kind == "full_attention" for kind in config.layer_types)
        and config.rope_parameters["rope_type"] == "default"
        and config.hidden_act == "silu"
        and language.dtype in (torch.bfloat16, torch.float16)
        and all((p.dtype, p.device) == (language.dtype, language.device) for p in model.parameters())
        and type(model.embed_tokens) is nn.Embedding
        and all(_is_plain_layer(layer) for layer in model.layers)
    )


def _is_plain_layer(layer: Any) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    if not isinstance(attention, (Qwen2Attention, Qwen3Attention)) or isinstance(attention, PrefixedAttention):
        return False
    if attention.head_dim not in (16, 32, 64, 128, 256) or attention.num_key_value_groups > 16:
        return False  # a program of the attention kernel has the 16 queries of one key head
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    others = [attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    return (
        all(type(module) is nn.Linear and module.weight.is_contiguous() for module in projections + others)
        # A program's rows divide those of the weight, and 8 columns are a load of 16 bytes.
        and all(module.out_features % 8 == 0 and module.in_features % 8 == 0 for module in projections + others)
        and len({module.bias is None for module in projections}) == 1
        and all(module.bias is None for module in others)
    )


def _power_of_2(number: int) -> int:
    """The smallest power of 2 that is not below ``number``."""
    return 1 << (number - 1).bit_length()

"""LoRA's forward and backward pass without the copies that peft makes around its two small products.

For ``y = W x + b + s B A dropout(x)`` (Hu et al. 2021, arXiv:2106.09685) peft casts x to fp32, drops out in fp32, lets
autocast cast it back, multiplies by s and adds: seven passes over tensors of the layer's width, forward alone. Here x
keeps its dtype, the low-rank products are added into the frozen layer's result in place, and the backward pass keeps
x, the dropout mask and the [N, r] intermediate, nothing else.

The two passes are operators of their own, because inductor would compute ``addmm`` into a copy of its first argument:
5 % of a step of Qwen2.5-1.5B on an H200.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, apply_rotary_pos_emb
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from model.plain_peft import lora
from qwen.last_layer import attended, heads_of

if TYPE_CHECKING:
    from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention as _Attention
    from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP as _MLP
else:
    _MLP = _Attention = object  # at run time, the module's own class follows in the MRO

ADAPTER = "default"


class FusedLoraLinear(lora.Linear):
    """peft's LoRA layer around a plain ``nn.Linear``: same parameters, same names, same result."""

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """``x`` [..., in] -> [..., out], in autocast's dtype where autocast is on."""
        if not self.is_plain() or args or kwargs:
            return super().forward(x, *args, **kwargs)
        dtype = self.dtype_for(x)
        weight, a, b = self.weights(dtype)
        bias = None if self.base_layer.bias is None else self.base_layer.bias.to(dtype)
        flat = x.reshape(-1, x.shape[-1]).to(dtype)  # [N, in]
        out, _, _ = _lora_linear(flat, weight, bias, a, b, self.scaling[ADAPTER], self.rate)
        return out.view(*x.shape[:-1], out.shape[-1])

    def is_plain(self) -> bool:
        """Whether the adapter is in use and all else is frozen."""
        frozen = not any(parameter.requires_grad for parameter in self.base_layer.parameters())
        return frozen and not self.disable_adapters and not self.merged

    @property
    def rate(self) -> float:
        drop = self.lora_dropout[ADAPTER]
        return drop.p if self.training and isinstance(drop, nn.Dropout) else 0.0

    @staticmethod
    def dtype_for(x: torch.Tensor) -> torch.dtype:
        kind = x.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype

    def weights(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The frozen weight [out, in], A [r, in] and B [out, r]."""
        found = (self.base_layer.weight, self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight)
        weight, a, b = (tensor.to(dtype) for tensor in found)
        return weight, a, b


@torch.library.custom_op("vlm::lora_linear", mutates_args=())
def _lora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    rate: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``x`` [N, in], ``weight`` [out, in], ``a`` [r, in], ``b`` [out, r], dropout with probability ``rate``.

    -> the output [N, out], ``A dropout(x)`` [N, r] and the dropout mask [N, in] bool ([0] without dropout).
    """
    dropped, mask = torch.native_dropout(x, rate, True) if rate else (x, x.new_empty(0, dtype=torch.bool))
    low = dropped @ a.T
    out = F.linear(x, weight, bias)
    return out.addmm_(low, b.T, alpha=scale), low, mask


@_lora_linear.register_fake
def _(x, weight, bias, a, b, scale, rate):
    mask = torch.empty_like(x, dtype=torch.bool) if rate else x.new_empty(0, dtype=torch.bool)
    return x.new_empty(x.shape[0], weight.shape[0]), x.new_empty(x.shape[0], a.shape[0]), mask


@torch.library.custom_op("vlm::lora_linear_backward", mutates_args=())
def _lora_linear_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    low: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    rate: float,
    of_x: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> gradients of x [N, in] ([0] unless ``of_x``), a [r, in] and b [out, r]."""
    width = weight.shape[0]
    # Where the output is no wider than the input, one product gives all of d_x, instead of a second pass over it:
    # d_x = [grad | d_low] [W ; A].
    joined = of_x and not rate and width <= weight.shape[1]
    wide = grad.new_empty(len(grad), width + len(a)) if joined else None
    d_low = torch.mm(grad, b * scale, out=None if wide is None else wide[:, width:])  # [N, r]
    d_b = (grad.T @ low).mul_(scale)
    kept = 1 / (1 - rate)
    d_a = d_low.T @ (x * mask).mul_(kept) if rate else d_low.T @ x
    if not of_x:
        return x.new_empty(0), d_a, d_b
    if wide is not None:
        wide[:, :width] = grad
        return wide @ torch.cat([weight, a]), d_a, d_b
    d_x = grad @ weight
    if rate:
        d_x.addcmul_(d_low @ a, mask, value=kept)
    else:
        d_x.addmm_(d_low, a)
    return d_x, d_a, d_b


@_lora_linear_backward.register_fake
def _(grad, x, weight, a, b, low, mask, scale, rate, of_x):
    return torch.empty_like(x) if of_x else x.new_empty(0), torch.empty_like(a), torch.empty_like(b)


def _keep(ctx, inputs, output) -> None:
    x, weight, _, a, b, *ctx.numbers = inputs
    ctx.save_for_backward(x, weight, a, b, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx, grad: torch.Tensor, *_):
    of_x = ctx.needs_input_grad[0]
    d_x, d_a, d_b = _lora_linear_backward(grad.contiguous(), *ctx.saved_tensors, *ctx.numbers, of_x)
    return d_x if of_x else None, None, None, d_a, d_b, None, None


_lora_linear.register_autograd(_backward, setup_context=_keep)


def can_join(layer: nn.Module) -> bool:
    """Whether a projection can be computed together with others of the same input."""
    return isinstance(layer, FusedLoraLinear) and layer.is_plain() and not layer.rate


# ---------------------------------------------------------------------------------------------- gate and up together
# Their outputs are the widest tensors of a layer (8,960 of 1.5B's 1,536). To add a low-rank product to one of them is
# a pass over it; with the adapter's columns beside the weight's, the same matrix product does it:
#
#     forward   gate = [low_g | x] [B_g | W_g]^T     up = [x | low_u] [W_u | B_u]^T     of one tensor
#     backward  [d_low_g | d_x] = d_gate [B_g | W_g]     [d_x | d_low_u] += d_up [W_u | B_u]


class FusedGateUp(_MLP):
    """A mixin for an MLP: gate and up projection in one operator, unless one of them has dropout."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` [..., D] -> [..., D]."""
        gate, up = self.gate_proj, self.up_proj
        if not (can_join(gate) and can_join(up)):  # merged adapters leave plain linear layers here
            return super().forward(x)
        flat = x.reshape(-1, x.shape[-1]).to(gate.dtype_for(x))  # [N, D]
        weights = [tensor for layer in (gate, up) for tensor in layer.weights(flat.dtype)]
        first, second, _ = _lora_gate_up(flat, *weights, gate.scaling[ADAPTER], up.scaling[ADAPTER])
        return self.down_proj(self.act_fn(first) * second).view(x.shape)


@torch.library.custom_op("vlm::lora_gate_up", mutates_args=())
def _lora_gate_up(
    x: torch.Tensor,
    gate: torch.Tensor,
    gate_a: torch.Tensor,
    gate_b: torch.Tensor,
    up: torch.Tensor,
    up_a: torch.Tensor,
    up_b: torch.Tensor,
    gate_scale: float,
    up_scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``x`` [N, D], weights [F, D], ``a`` [r, D], ``b`` [F, r] -> gate [N, F], up [N, F], low-rank [N, r + r]."""
    width, rank = x.shape[1], gate_a.shape[0]
    wide = x.new_empty(x.shape[0], rank + width + up_a.shape[0])  # [low of gate | x | low of up]
    wide[:, rank : rank + width] = x
    torch.mm(x, gate_a.T, out=wide[:, :rank])
    torch.mm(x, up_a.T, out=wide[:, rank + width :])
    first = wide[:, : rank + width] @ torch.cat([gate_b * gate_scale, gate], 1).T
    second = wide[:, rank:] @ torch.cat([up, up_b * up_scale], 1).T
    return first, second, torch.cat([wide[:, :rank], wide[:, rank + width :]], 1)


@_lora_gate_up.register_fake
def _(x, gate, gate_a, gate_b, up, up_a, up_b, gate_scale, up_scale):
    sizes = (gate.shape[0], up.shape[0], gate_a.shape[0] + up_a.shape[0])
    return tuple(x.new_empty(x.shape[0], size) for size in sizes)


@torch.library.custom_op("vlm::lora_gate_up_backward", mutates_args=())
def _lora_gate_up_backward(
    d_gate: torch.Tensor,
    d_up: torch.Tensor,
    x: torch.Tensor,
    low: torch.Tensor,
    gate: torch.Tensor,
    gate_a: torch.Tensor,
    gate_b: torch.Tensor,
    up: torch.Tensor,
    up_a: torch.Tensor,
    up_b: torch.Tensor,
    gate_scale: float,
    up_scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> gradients of x [N, D], gate's a [r, D] and b [F, r], up's a and b."""
    width, rank = x.shape[1], gate_a.shape[0]
    wide = x.new_empty(x.shape[0], rank + width + up_a.shape[0])
    wide[:, rank + width :] = 0
    torch.mm(d_gate, torch.cat([gate_b * gate_scale, gate], 1), out=wide[:, : rank + width])
    wide[:, rank:].addmm_(d_up, torch.cat([up, up_b * up_scale], 1))
    d_low = torch.cat([wide[:, :rank], wide[:, rank + width :]], 1)  # [N, r + r]
    d_x = torch.addmm(wide[:, rank : rank + width], d_low, torch.cat([gate_a, up_a]))
    d_a = d_low.T @ x  # [r + r, D]
    d_gate_b = (d_gate.T @ low[:, :rank]).mul_(gate_scale)
    d_up_b = (d_up.T @ low[:, rank:]).mul_(up_scale)
    return d_x, d_a[:rank].clone(), d_gate_b, d_a[rank:].clone(), d_up_b


@_lora_gate_up_backward.register_fake
def _(d_gate, d_up, x, low, gate, gate_a, gate_b, up, up_a, up_b, gate_scale, up_scale):
    return tuple(torch.empty_like(tensor) for tensor in (x, gate_a, gate_b, up_a, up_b))


def _keep_gate_up(ctx, inputs, output) -> None:
    x, *weights, gate_scale, up_scale = inputs
    ctx.save_for_backward(x, output[2], *weights)
    ctx.numbers = gate_scale, up_scale
    ctx.mark_non_differentiable(output[2])


def _backward_gate_up(ctx, d_gate: torch.Tensor, d_up: torch.Tensor, _):
    found = _lora_gate_up_backward(d_gate.contiguous(), d_up.contiguous(), *ctx.saved_tensors, *ctx.numbers)
    d_x, d_gate_a, d_gate_b, d_up_a, d_up_b = found
    return d_x, None, d_gate_a, d_gate_b, None, d_up_a, d_up_b, None, None


_lora_gate_up.register_autograd(_backward_gate_up, setup_context=_keep_gate_up)


# ---------------------------------------------------------------------------------------------- q, k and v together


class FusedQKV(_Attention):
    """A mixin for an attention: the three projections as one LoRA layer, unless one of them has dropout.

    A = [A_q ; A_k ; A_v] and B is block-diagonal. Apart, forward and backward pass take 1.8 ms for 45,760 tokens of
    1.5B on an H200, with the sum of three gradients; one layer of this width took 1.2 ms (rank 64).
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: Any,
        past_key_values: Any = None,
        **kwargs,
    ) -> tuple[torch.Tensor, None]:
        """``hidden_states`` [B, T, D] -> [B, T, D]."""
        layers: list[Any] = [self.q_proj, self.k_proj, self.v_proj]
        if past_key_values is not None or not all(can_join(layer) for layer in layers):
            return super().forward(hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs)
        flat = hidden_states.flatten(0, 1).to(layers[0].dtype_for(hidden_states))  # [N, D]
        biases = [layer.base_layer.bias for layer in layers]
        bias = None if biases[0] is None else torch.cat(biases).to(flat.dtype)
        weights = [tensor for layer in layers for tensor in layer.weights(flat.dtype)]
        joined, _ = _lora_qkv(flat, bias, *weights, [layer.scaling[ADAPTER] for layer in layers])
        widths = [layer.base_layer.out_features for layer in layers]
        parts = joined.view(*hidden_states.shape[:2], -1).split(widths, -1)
        query, key, value = (
            heads_of(part, self, norm) for part, norm in zip(parts, ("q_norm", "k_norm", ""), strict=True)
        )
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        kwargs["sliding_window"] = self.sliding_window
        return self.o_proj(attended(self, query, key, value, attention_mask, **kwargs)), None


# One operator, so that torch.compile does not compile a kernel for each small piece of the joined weights.
@torch.library.custom_op("vlm::lora_qkv", mutates_args=())
def _lora_qkv(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    q: torch.Tensor,
    q_a: torch.Tensor,
    q_b: torch.Tensor,
    k: torch.Tensor,
    k_a: torch.Tensor,
    k_b: torch.Tensor,
    v: torch.Tensor,
    v_a: torch.Tensor,
    v_b: torch.Tensor,
    scales: list[float],
) -> tuple[torch.Tensor, torch.Tensor]:
    """``x`` [N, D]; weights [F, D], ``a`` [r, D] and ``b`` [F, r] of each; ``bias`` [Fq + Fk + Fv].

    -> outputs [N, Fq + Fk + Fv] and ``A x`` [N, 3 r].
    """
    a, b = _joined([q_a, k_a, v_a], [q_b, k_b, v_b], scales)
    out, low, _ = _lora_linear(x, torch.cat([q, k, v]), bias, a, b, 1.0, 0.0)
    return out, low


def _joined(
    first: list[torch.Tensor], second: list[torch.Tensor], scales: list[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A [3 r, D] of all three layers, and a block-diagonal B [Fq + Fk + Fv, 3 r] with their scales in it."""
    return torch.cat(first), torch.block_diag(*(b * scale for b, scale in zip(second, scales, strict=True)))


@_lora_qkv.register_fake
def _(x, bias, q, q_a, q_b, k, k_a, k_b, v, v_a, v_b, scales):
    width, rank = (sum(len(one) for one in three) for three in ((q, k, v), (q_a, k_a, v_a)))
    return x.new_empty(x.shape[0], width), x.new_empty(x.shape[0], rank)


@torch.library.custom_op("vlm::lora_qkv_backward", mutates_args=())
def _lora_qkv_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    low: torch.Tensor,
    q: torch.Tensor,
    q_a: torch.Tensor,
    q_b: torch.Tensor,
    k: torch.Tensor,
    k_a: torch.Tensor,
    k_b: torch.Tensor,
    v: torch.Tensor,
    v_a: torch.Tensor,
    v_b: torch.Tensor,
    scales: list[float],
) -> list[torch.Tensor]:
    """-> gradients of x [N, D], and of q's, k's and v's a [r, D] and b [F, r]."""
    a, b = _joined([q_a, k_a, v_a], [q_b, k_b, v_b], scales)
    no_mask = x.new_empty(0, dtype=torch.bool)
    d_x, d_a, d_b = _lora_linear_backward(grad, x, torch.cat([q, k, v]), a, b, low, no_mask, 1.0, 0.0, True)
    found, row, column = [d_x], 0, 0
    for one, scale in zip((q_b, k_b, v_b), scales, strict=True):
        width, rank = one.shape
        found.append(d_a[column : column + rank].clone())
        found.append(d_b[row : row + width, column : column + rank] * scale)
        row, column = row + width, column + rank
    return found


@_lora_qkv_backward.register_fake
def _(grad, x, low, q, q_a, q_b, k, k_a, k_b, v, v_a, v_b, scales):
    return [torch.empty_like(one) for one in (x, q_a, q_b, k_a, k_b, v_a, v_b)]


def _keep_qkv(ctx, inputs, output) -> None:
    x, _, *weights, ctx.scales = inputs
    ctx.save_for_backward(x, output[1], *weights)
    ctx.mark_non_differentiable(output[1])


def _backward_qkv(ctx, grad: torch.Tensor, _):
    d_x, *rest = _lora_qkv_backward(grad.contiguous(), *ctx.saved_tensors, ctx.scales)
    return d_x, None, None, *rest[:2], None, *rest[2:4], None, *rest[4:], None


_lora_qkv.register_autograd(_backward_qkv, setup_context=_keep_qkv)


# ---------------------------------------------------------------------------------------------- where it applies


@cache
def _fused_class(mixin: Any, kind: Any) -> Any:
    """One class for all layers: torch.compile would compile each other class again."""
    return type(kind.__name__, (mixin, kind), {})


def fuse_lora(part: nn.Module) -> int:
    """Let the plain LoRA layers of a part compute as above, and return their number.

    Other layers (DoRA and other variants, adapters with a bias, 4-bit weights) stay peft's.
    """
    modules: list[Any] = list(part.modules())
    plain = [
        layer
        for layer in modules
        if type(layer) is lora.Linear
        and type(layer.base_layer) is nn.Linear
        and list(layer.lora_A) == [ADAPTER]
        and not layer.lora_variant
        and layer.lora_B[ADAPTER].bias is None
        and not layer.fan_in_fan_out
    ]
    for layer in plain:
        layer.__class__ = FusedLoraLinear
    for module in modules:
        kind: Any = type(module)
        if kind in (Qwen2Attention, Qwen3Attention) and have_adapters(module, "q_proj", "k_proj", "v_proj"):
            module.__class__ = _fused_class(FusedQKV, kind)
        if have_adapters(module, "gate_proj", "up_proj") and not isinstance(module, FusedGateUp):
            if module.gate_proj.base_layer.bias is None and module.up_proj.base_layer.bias is None:
                module.__class__ = _fused_class(FusedGateUp, kind)
    return len(plain)


def have_adapters(module: nn.Module, *names: str) -> bool:
    return all(isinstance(getattr(module, name, None), FusedLoraLinear) for name in names)


def unfuse_lora(part: nn.Module) -> None:
    """Undo :func:`fuse_lora`: peft's own layers, and the own classes of MLPs and attentions."""
    for module in part.modules():
        if isinstance(module, FusedLoraLinear):
            module.__class__ = lora.Linear
        elif isinstance(module, (FusedGateUp, FusedQKV)):
            module.__class__ = type(module).__bases__[1]

"""LoRA's forward and backward pass without the copies that peft makes around its two small products.

For ``y = W x + b + s B A dropout(x)`` (Hu et al. 2021, arXiv:2106.09685) peft casts x to fp32, drops out in fp32, lets
autocast cast it back, multiplies by s and adds: seven passes over tensors of the layer's width, forward alone. Here x
stays in its dtype, both products accumulate into the frozen layer's result, and the backward pass keeps x, the dropout
mask and the [tokens, r] intermediate, nothing else.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from model.plain_peft import lora

ADAPTER = "default"


class FusedLoraLinear(lora.Linear):
    """peft's LoRA layer around a plain ``nn.Linear``: same parameters, same names, same result."""

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        if self.disable_adapters or self.merged or args or kwargs:
            return super().forward(x, *args, **kwargs)
        base, drop = self.base_layer, self.lora_dropout[ADAPTER]
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        rate = drop.p if self.training and isinstance(drop, nn.Dropout) else 0.0
        weights = (base.weight, base.bias, self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight)
        cast = [None if weight is None else weight.to(dtype) for weight in weights]
        return _LoraLinear.apply(x.to(dtype), *cast, self.scaling[ADAPTER], rate)


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale: float, rate: float) -> torch.Tensor:
        """``x`` [..., in], ``weight`` [out, in], ``bias`` [out], ``a`` [r, in], ``b`` [out, r] -> [..., out]."""
        flat = x.reshape(-1, x.shape[-1])  # [N, in]
        dropped, mask = torch.native_dropout(flat, rate, True) if rate else (flat, None)
        low = dropped @ a.T  # [N, r]
        out = torch.addmm(F.linear(flat, weight, bias), low, b.T, alpha=scale)  # [N, out]
        ctx.save_for_backward(flat, mask, weight, a, b, low)
        ctx.shape, ctx.numbers = x.shape, (scale, rate)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor):
        flat, mask, weight, a, b, low = ctx.saved_tensors
        scale, rate = ctx.numbers
        grad = grad.reshape(-1, grad.shape[-1])  # [N, out]
        d_low = (grad @ b) * scale  # [N, r]
        d_x = None
        if mask is None:
            d_a = d_low.T @ flat
            if ctx.needs_input_grad[0]:
                d_x = torch.addmm(grad @ weight, d_low, a)
        else:
            kept = 1 / (1 - rate)
            d_a = d_low.T @ (flat * mask * kept)
            if ctx.needs_input_grad[0]:
                d_x = torch.addcmul(grad @ weight, d_low @ a, mask, value=kept)
        d_b = (grad.T @ low) * scale
        d_bias = grad.sum(0) if ctx.needs_input_grad[2] else None
        d_weight = grad.T @ flat if ctx.needs_input_grad[1] else None
        d_x = None if d_x is None else d_x.view(ctx.shape)
        return d_x, d_weight, d_bias, d_a, d_b, None, None


def fuse_lora(part: nn.Module) -> int:
    """Let the plain LoRA layers of a part compute as above; how many there are.

    Layers that are more than plain (DoRA and other variants, biases of the adapter, 4-bit weights) stay peft's.
    """
    plain = [
        layer
        for layer in part.modules()
        if type(layer) is lora.Linear
        and type(layer.base_layer) is nn.Linear
        and list(layer.lora_A) == [ADAPTER]
        and not layer.lora_variant
        and layer.lora_B[ADAPTER].bias is None
        and not layer.fan_in_fan_out
    ]
    for layer in plain:
        layer.__class__ = FusedLoraLinear
    return len(plain)

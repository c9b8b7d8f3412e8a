"""How the backbones are optimised: Muon for matrices, AdamW for the rest, and two schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn


class Muon(torch.optim.Optimizer):
    """Momentum with updates that Newton-Schulz steps orthogonalise (Keller Jordan's Muon), in fp32.

    torch.optim.Muon does it in bf16, which takes 2.8 s a step for this model on a CPU without bf16 units. Here all
    matrices of one shape are computed together in fp32, in 0.1 s.
    """

    def __init__(self, params: Iterable[torch.Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure: the loss is not needed again
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = {}
            for parameter in group["params"]:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = torch.stack([self._momentum(p, group["momentum"]) for p in parameters])  # [n, rows, cols]
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, _orthogonal(updates), strict=True):
                    parameter.add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, parameter: torch.Tensor, momentum: float) -> torch.Tensor:
        gradient = parameter.grad
        assert gradient is not None  # every matrix of the model takes part in every step
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        buffer = state["momentum"]
        buffer.lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum)  # Nesterov


def _orthogonal(x: torch.Tensor) -> torch.Tensor:
    """[n, rows, cols] with all singular values moved close to 1; the coefficients are Muon's."""
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if wide else x.mT


def optimizer(
    model: nn.Module, steps: int, muon: float = 0.01
) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
    """Muon for the matrices of the layers, AdamW for the rest; one cosine schedule for both."""
    inside, rest = split(model)
    optimizers: list[torch.optim.Optimizer] = [
        Muon(inside, lr=muon),
        torch.optim.AdamW(rest, lr=1.5e-3, weight_decay=0.0, betas=(0.9, 0.98)),
    ]
    return optimizers, [torch.optim.lr_scheduler.LambdaLR(o, cosine(steps, 50)) for o in optimizers]


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices of the layers, and all other parameters."""
    inside = {n: p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n}
    return list(inside.values()), [p for n, p in model.named_parameters() if n not in inside]


def cosine(steps: int, warm_up: int) -> Callable[[int], float]:
    return lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def flat_then_falling(steps: int, warm_up: int) -> Callable[[int], float]:
    """After the warm-up, 1 for the first half of the steps; then it falls to 0 in a straight line."""
    return lambda step: min(1.0, (step + 1) / warm_up) * min(1.0, 2 * (1 - step / steps))


def step(
    loss: torch.Tensor,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    schedules: Sequence[torch.optim.lr_scheduler.LRScheduler],
) -> None:
    model.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, schedule in zip(optimizers, schedules, strict=True):
        optimizer.step()
        schedule.step()

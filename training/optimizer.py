"""AdamW with learning rates of their own for language model, tower and projector, and the schedule of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from common.optional import import_bitsandbytes
from model.model import MMultiModal
from settings import Config

PARTS = ("language", "vision", "projector")  # the first one that is trained gives the learning rate in the log


def parameter_groups(model: MMultiModal, config: Config) -> list[dict]:
    """One group of matrices and one of vectors for each trained part, with ``lr``, ``weight_decay`` and ``names``.

    Weight decay is for matrices: on biases and the scales of norms it only moves the mean of what they scale. The
    groups do not depend on the rates, so a resumed run may change these.
    """
    groups: dict[tuple[str, bool], dict] = {}
    for part in PARTS:
        rate = getattr(config, part).learning_rate or config.train.learning_rate
        for matrices in (True, False):
            decay = config.train.weight_decay if matrices else 0.0
            groups[part, matrices] = {"params": [], "names": [], "lr": rate, "weight_decay": decay}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = groups[model.part_of(name), parameter.ndim > 1]
            group["params"].append(parameter)
            group["names"].append(name)
    return [group for group in groups.values() if group["params"]]


def build_optimizer(groups: list[dict], config: Config) -> torch.optim.Optimizer:
    """The optimiser that ``train.optim`` names.

    Raises:
        UserError: it does not take the options of ``train``.
    """
    train = config.train
    options: dict[str, Any] = {
        "lr": train.learning_rate,
        "betas": (train.adam_beta1, train.adam_beta2),
        "eps": train.adam_epsilon,
    }
    groups = [{key: value for key, value in group.items() if key != "names"} for group in groups]
    try:
        if train.optim in ("adamw_8bit", "paged_adamw_8bit"):
            adamw = import_bitsandbytes().optim.AdamW
            return adamw(groups, optim_bits=8, is_paged=train.optim.startswith("paged"), **options)
        return torch.optim.AdamW(groups, fused=train.optim == "adamw_torch_fused", **options)
    except (ImportError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"train.optim = {train.optim}: {' '.join(str(error).split())}") from error


def build_schedule(config: Config, total: int) -> Callable[[int], float]:
    """What each learning rate is multiplied by in a step, as a function of the steps done before it.

    A function of nothing else: a resumed run needs no state, and a changed schedule or rate simply applies. The options
    in ``train.lr_scheduler_kwargs`` were checked with the config.

    Args:
        total: steps of the whole run.
    """
    from transformers import get_scheduler  # imports peft: at the top this could come before model.plain_peft

    train = config.train
    share = train.warmup_steps < 1
    warmup = math.ceil(total * train.warmup_steps) if share else int(train.warmup_steps)
    # transformers' schedules want an optimizer; some compute their end relative to its learning rate.
    anything = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=train.learning_rate)
    schedule = get_scheduler(
        train.lr_scheduler_type,
        optimizer=anything,
        num_warmup_steps=warmup,
        num_training_steps=total,
        scheduler_specific_kwargs=dict(train.lr_scheduler_kwargs),
    )
    return schedule.lr_lambdas[0]


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give each group ``factor`` times its own rate, which the first call takes from ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

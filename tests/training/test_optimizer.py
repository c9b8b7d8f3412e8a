"""Parameter groups, AdamW and schedules."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from settings import Train
from training.optimizer import build_schedule, parameter_groups, set_learning_rates
from training.setup import build_loop


def test_projector_has_its_own_learning_rate_and_vectors_no_decay(make_config):
    config = make_config("projector.learning_rate=0.5", "train.weight_decay=0.1")
    loop = build_loop(config, Path(config.train.output) / "a")
    groups = {(g["lr"], g["weight_decay"]): len(g["params"]) for g in parameter_groups(loop.model, config)}
    assert groups == {(0.01, 0.1): 28, (0.5, 0.1): 2, (0.5, 0.0): 2}


def test_each_trained_part_has_its_own_learning_rate_and_null_takes_the_common_one(make_config):
    rates = ["vision.learning_rate=1e-5", "language.learning_rate=2e-4"]
    config = make_config("vision.train=full", "train.weight_decay=0.1", *rates)
    loop = build_loop(config, Path(config.train.output) / "a")
    found = {}
    for group in parameter_groups(loop.model, config):
        for name in group["names"]:
            found.setdefault(loop.model.part_of(name), set()).add((group["lr"], group["weight_decay"] > 0))
    assert found == {
        "language": {(2e-4, True)},
        "vision": {(1e-5, True), (1e-5, False)},
        "projector": {(0.01, True), (0.01, False)},
    }


def test_every_group_follows_the_schedule_from_its_own_rate():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 0.1)]
    optimizer = torch.optim.AdamW(groups)
    for factor in (0.5, 0.25):
        set_learning_rates(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == [factor, 0.1 * factor]


SCHEDULES = get_args(Train.model_fields["lr_scheduler_type"].annotation)
OPTIONS = {"cosine_with_min_lr": {"min_lr": 1e-3}, "warmup_stable_decay": {"num_decay_steps": 4}}


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize(("given", "warmup"), [("0", 0), ("3", 3), ("0.25", 5)])
def test_the_schedule_is_transformers_own_as_a_function_of_the_step(make_config, kind, given, warmup):
    options = OPTIONS.get(kind, {})
    kwargs = json.dumps(options)
    config = make_config(
        f"train.lr_scheduler_type={kind}", f"train.warmup_steps={given}", f"train.lr_scheduler_kwargs={kwargs}"
    )
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    wanted = get_scheduler(kind, optimizer, warmup, 20, scheduler_specific_kwargs=options)
    factor = build_schedule(config, 20)
    for step in range(20):
        assert 0.01 * factor(step) == pytest.approx(wanted.get_last_lr()[0], rel=1e-12), step
        optimizer.step()
        wanted.step()


def test_warm_up_below_one_is_a_share_of_all_steps_and_rounded_up(make_config):
    factor = build_schedule(make_config("train.warmup_steps=0.03"), 50)  # 1.5 steps
    assert [factor(step) for step in range(3)] == [0.0, 0.5, 1.0]
    assert math.isclose(factor(26), 0.5)


def test_a_beta_of_zero_is_a_number(make_config):
    config = make_config("train.adam_beta1=0")
    loop = build_loop(config, Path(config.train.output) / "a")
    loop.prepare()
    assert loop.optimizer.defaults["betas"] == (0.0, 0.999)

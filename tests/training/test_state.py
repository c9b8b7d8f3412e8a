"""What a checkpoint keeps to continue: states by name, random states, and checkpoints in the format of 572858e."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import UserError
from common.files import write_json
from training.setup import build_loop
from training.state import load_random, names_by_rate, random_state, save_random


def test_random_states_come_back_for_each_process(tmp_path):
    states, drawn = [], []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        states.append(random_state())
        drawn.append((random.random(), np.random.rand(), torch.rand(3)))
    save_random(states, tmp_path)
    for rank in (1, 0):
        load_random(rank, tmp_path)
        one, other, tensor = drawn[rank]
        assert (random.random(), np.random.rand()) == (one, other) and torch.equal(torch.rand(3), tensor)


def test_a_process_that_the_saved_run_did_not_have_keeps_its_state(tmp_path):
    save_random([random_state()], tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    load_random(1, tmp_path)
    assert torch.equal(torch.rand(2), expected)


def test_a_checkpoint_of_the_old_format_continues_to_the_bit(make_config):
    """It grouped parameters by learning rate and weight decay, and kept no names, but the schedule's state."""
    options = [
        "vision.train=last_blocks",
        "vision.last_blocks=1",
        "train.weight_decay=0.1",
        "projector.learning_rate=1e-3",
    ]
    config = make_config(*options, "train.max_steps=4", "train.save_steps=2", "lora.lora_dropout=0.2")
    whole = build_loop(config, Path(config.train.output) / "a")
    whole.train()
    wanted = load_file(whole.run / "checkpoint-4" / "optimizer.safetensors")
    as_before(whole.run / "checkpoint-2", names_by_rate(whole.model, config))
    resumed = build_loop(config, whole.run)
    resumed.train(whole.run / "checkpoint-2")
    found = load_file(whole.run / "checkpoint-4" / "optimizer.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())
    assert resumed.progress.log_history[-1]["loss"] == whole.progress.log_history[-1]["loss"]


def test_the_states_of_an_optimiser_that_is_gone_are_refused_in_one_line(make_config):
    """Earlier versions had sgd; a config of theirs is read without it."""
    loop = build_loop(make_config("train.max_steps=2"), Path(make_config().train.output) / "a")
    loop.train()
    file = loop.run / "checkpoint-2" / "optimizer.safetensors"
    save_file({n.replace("exp_avg", "momentum"): t for n, t in load_file(file).items()}, file)
    again = build_loop(make_config("train.max_steps=4"), loop.run)
    with pytest.raises(UserError, match="checkpoint-2 was trained with another optimiser than train.optim can be now"):
        again.train(loop.run / "checkpoint-2")


def as_before(folder: Path, order: list[str]) -> None:
    """Rewrite the optimiser of a checkpoint as 572858e did, its parameters in ``order``."""
    file = folder / "optimizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    names = content.pop("names")
    assert sorted(order) == sorted(names) and order != names
    tensors = {}
    for key, tensor in load_file(folder / "optimizer.safetensors").items():
        number, name = key.split(".", 1)
        tensors[f"{order.index(names[int(number)])}.{name}"] = tensor
    save_file(tensors, folder / "optimizer.safetensors")
    write_json(file, {**content, "scheduler": {"last_epoch": 2}})
    progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    del progress["evaluations_without_best"]
    write_json(folder / "progress.json", progress)

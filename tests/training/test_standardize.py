"""The projector's statistics: of the run's own pictures, the same in every process and after a resume."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.statistics import feature_statistics
from tests.helpers.runs import runs_of
from training import standardize as module
from training.setup import build_loop
from training.standardize import training_pictures

OPTIONS = ["train.max_steps=4", "train.save_steps=2", "train.per_device_train_batch_size=1", "lora.lora_dropout=0.0"]


def test_they_are_those_of_the_first_pictures_in_the_seeds_order(make_config, monkeypatch, capsys):
    monkeypatch.setattr(module, "IMAGES", 3)
    config = make_config()
    loop = build_loop(config, Path(config.train.output) / "a")
    pictures = list(training_pictures(loop.feed.known, config.data.seed))
    assert len(pictures) > 3
    wanted = feature_statistics(loop.model, pictures[:3])
    loop.prepare()
    assert "standardised by 3 training pictures" in capsys.readouterr().out
    found = loop.model.projector.feature_mean, loop.model.projector.feature_std
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_without_pictures_the_projector_keeps_its_start(make_config):
    talk = {"source": "test", "language": "en", "split": "train", "turns": [{"q": "Is 2 even?", "a": ["yes"]}]}
    config = make_config("train.eval_strategy=no", pictures=0, conversations={"text": [talk] * 4})
    loop = build_loop(config, Path(config.train.output) / "a")
    loop.prepare()
    assert not loop.model.projector.feature_mean.any() and (loop.model.projector.feature_std == 1).all()


def test_the_plain_form_has_none(make_config):
    config = make_config("projector.standardize=false")
    loop = build_loop(config, Path(config.train.output) / "a")
    loop.prepare()
    assert not [name for name in loop.model.projector.state_dict() if name.startswith("feature")]


@pytest.mark.skipif(os.name == "nt", reason="POSIX processes")
def test_two_processes_and_a_resumed_run_have_the_same(make_config, tmp_path):
    start = runs_of(make_config, tmp_path, OPTIONS)
    one, alone = start("one")
    two, shared = start("two")
    for result, codes in ((one(), [0]), (two(ranks=2), [0, 0])):
        assert result["codes"] == codes, result["output"]
    name = "projector.safetensors"
    first = load_file(alone / "checkpoint-2" / name)
    for folder in (alone / "checkpoint-4", shared / "checkpoint-2", shared / "checkpoint-4"):
        again = load_file(folder / name)
        assert torch.equal(again["feature_mean"], first["feature_mean"]) and first["feature_mean"].any()
        assert torch.equal(again["feature_std"], first["feature_std"])
    result = one("--resume", "train.max_steps=6")
    assert result["codes"] == [0] and "standardised by" not in result["output"]
    assert torch.equal(load_file(alone / "checkpoint-6" / name)["feature_mean"], first["feature_mean"])

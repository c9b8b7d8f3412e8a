"""The validation loss, with own and with other pictures."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from dataset.collate import collate
from tests.helpers.runs import conversations
from tests.helpers.tiny import enlarge_projector
from training import validation as module
from training.setup import build_loop
from training.validation import validate


def loop_of(make_config, *overrides: str, validation: int = 2):
    options = ["train.eval_strategy=steps", "train.eval_steps=2", *overrides]
    talks = conversations(9)
    for number in range(9):
        for talk in talks[str(number)]:
            talk["split"] = "validation" if number >= 9 - validation else "train"
    config = make_config(*options, pictures=9, conversations=talks)
    loop = build_loop(config, Path(config.train.output) / "a")
    loop.prepare()
    enlarge_projector(loop.model)
    loop.model.eval()
    return loop


@torch.no_grad()
def loss_of(loop, index: int, shown: int) -> tuple[float, int]:
    """Loss and labels of a validation sample, with the picture of the sample ``shown``."""
    dataset = loop.feed.validation_dataset
    sample = {**dataset[index], "pixel_values": dataset[shown]["pixel_values"]}
    batch = collate([sample], loop.tokenizer.pad_token_id)
    return module.batch_loss(loop, batch), module.label_count(batch)


def test_two_samples_of_a_batch_get_each_others_picture(make_config):
    loop = loop_of(make_config, "train.per_device_eval_batch_size=2")
    values = validate(loop)
    own, labels = zip(*(loss_of(loop, i, i) for i in (0, 1)), strict=True)
    other = [loss_of(loop, i, 1 - i)[0] for i in (0, 1)]
    mean = [sum(loss * n for loss, n in zip(losses, labels, strict=True)) / sum(labels) for losses in (own, other)]
    assert values["eval_loss"] == pytest.approx(mean[0], rel=1e-4)
    assert values["eval_loss_other_picture"] == pytest.approx(mean[1], rel=1e-4)
    assert values["eval_gap"] == pytest.approx(mean[1] - mean[0], rel=1e-3) and values["eval_gap"] != 0
    assert "eval_gap_error" not in values  # a single batch has none, and JSON has no infinity


def test_a_batch_of_one_gets_the_picture_of_the_batch_before(make_config):
    """The first batch, which is the shorter one, is not in the gap."""
    loop = loop_of(make_config, "train.per_device_eval_batch_size=1")
    last = loop.feed.validation_dataset.lengths.index(max(loop.feed.validation_dataset.lengths))
    wanted = loss_of(loop, last, 1 - last)[0] - loss_of(loop, last, last)[0]
    assert validate(loop)["eval_gap"] == pytest.approx(wanted, rel=1e-3) and wanted != 0


def test_a_model_that_is_blind_has_no_gap(make_config):
    loop = loop_of(make_config)
    with torch.no_grad():
        loop.model.projector[2].weight.zero_()
    values = validate(loop)
    assert values["eval_gap"] == pytest.approx(0.0, abs=1e-6)
    assert values["eval_loss_other_picture"] == pytest.approx(values["eval_loss"], abs=1e-6)


def test_text_alone_has_a_loss_and_no_gap(make_config):
    talks = {
        "text": [
            {"source": "t", "language": "en", "split": split, "turns": [{"q": f"Is {n} even?", "a": ["yes"]}]}
            for n, split in enumerate(["train", "train", "train", "validation"])
        ]
    }
    config = make_config("train.eval_strategy=steps", "train.eval_steps=2", pictures=0, conversations=talks)
    loop = build_loop(config, Path(config.train.output) / "a")
    loop.prepare()
    values = validate(loop)
    assert values["eval_loss"] > 0 and "eval_gap" not in values and "visual_token_lengths" not in values


def test_its_numbers_are_logged_and_a_blind_run_is_warned_of(make_config, caplog, monkeypatch):
    monkeypatch.setattr("model.sight.IMAGES_TO_SIGHT", 2)
    loop = loop_of(make_config, "train.max_steps=2", "train.per_device_eval_batch_size=1", validation=4)
    with torch.no_grad():
        loop.model.projector[2].weight.zero_()
    loop.images += 10
    with caplog.at_level(logging.WARNING):
        loop.log = type("Log", (), {"metrics": lambda *_: None, "answers": lambda *_: None})()
        loop.evaluate()
    assert "after 10 training pictures the loss is the same with another picture" in caplog.text
    entry = loop.progress.log_history[-1]
    assert {"eval_loss", "eval_loss_other_picture", "eval_gap", "eval_gap_error", "images"} <= entry.keys()


def test_evaluating_changes_nothing_that_training_draws_from(make_config):
    loop = loop_of(make_config)
    before = torch.get_rng_state()
    validate(loop)
    assert torch.equal(torch.get_rng_state(), before)

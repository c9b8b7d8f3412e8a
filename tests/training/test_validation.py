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
def loss_of(loop, indices, swap: bool) -> tuple[float, int]:
    """Loss and labels of samples of the validation split, each with its own or with the next one's picture."""
    samples = [dict(loop.feed.validation_dataset[i]) for i in indices]
    if swap:
        pixels = [sample["pixel_values"] for sample in samples]
        for number, sample in enumerate(samples):
            sample["pixel_values"] = pixels[number - 1]
    batch = collate(samples, loop.tokenizer.pad_token_id)
    return module.batch_loss(loop, batch), module.label_count(batch)


@pytest.mark.parametrize("size", [1, 2])
def test_it_is_the_loss_of_the_same_samples_with_each_others_pictures(make_config, size):
    """Batches of one show the picture of the batch before: the first of them is not in the gap."""
    loop = loop_of(make_config, f"train.per_device_eval_batch_size={size}")
    values = validate(loop)
    count = len(loop.feed.validation_dataset)
    own, labels = loss_of(loop, range(count), swap=False)
    assert values["eval_loss"] == pytest.approx(own, rel=1e-4)
    assert values["eval_gap"] != 0
    if size == count:
        other, _ = loss_of(loop, range(count), swap=True)
        assert values["eval_loss_other_picture"] == pytest.approx(other, rel=1e-4)
        assert values["eval_gap"] == pytest.approx(other - own, rel=1e-3)


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

"""Batches of a step, and a position in the data that another run can continue from."""

from __future__ import annotations

import json
import logging

import pytest

from dataset.image import load_image_processor
from qwen.tokenizer import load_tokenizer
from training.feed import EpochFeed
from training.setup import open_feed


@pytest.fixture
def feed(make_config):
    """A function that opens the feed of a small run: 9 training samples, and one of validation."""

    def make(*overrides: str) -> EpochFeed:
        config = make_config("data.progress=false", "train.per_device_train_batch_size=2", *overrides, pictures=10)
        return open_feed(config, load_tokenizer(config.language.path), load_image_processor(config.vision.path))

    return make


def names(batches: list[dict]) -> list[str]:
    return [name for batch in batches for name in batch["info"].ids]


def test_every_epoch_has_every_sample_once_and_a_shorter_last_step(feed):
    steps = feed("train.gradient_accumulation_steps=2")
    seen, sizes = [], []
    for _ in range(3):  # five batches
        batches = steps.step()
        sizes.append(len(batches))
        seen += names(batches)
        assert steps.epoch_ended == (len(sizes) == 3)
    assert sizes == [2, 2, 1] and len(set(seen)) == len(seen) == 9 and steps.epoch == 1.0
    assert steps.position()["epoch"] == 1 and steps.position()["batches"] == 0
    again = [name for _ in range(3) for name in names(steps.step())]
    assert sorted(again) == sorted(seen) and again != seen and steps.epoch == 2.0


def test_a_feed_continues_where_another_one_was(feed):
    one, other = feed(), feed()
    for _ in range(7):
        one.step()
    other.resume(json.loads(json.dumps(one.position())))
    assert other.epoch == one.epoch == 1.4
    assert [names(one.step()) for _ in range(6)] == [names(other.step()) for _ in range(6)]


def test_with_other_batches_it_continues_at_the_same_share_of_the_epoch(feed, caplog):
    one, other = feed(), feed("train.per_device_train_batch_size=1")
    for _ in range(2):
        one.step()
    with caplog.at_level(logging.WARNING):
        other.resume(one.position())
    assert other.position()["batches"] == 4  # of 9, as 2 of 5
    assert "continuing at 44 % of epoch 1" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "total"),
    [
        (["train.max_steps=7"], 7),
        (["train.max_steps=null", "train.num_train_epochs=2"], 10),
        (["train.max_steps=null", "train.num_train_epochs=0.5"], 3),
        (["train.max_steps=null", "train.gradient_accumulation_steps=2"], 3),
    ],
)
def test_steps_of_the_run(feed, overrides, total):
    assert feed(*overrides).total_steps(0) == total


def test_as_many_epochs_as_asked_for_however_many_steps_the_first_ones_took(feed):
    one = feed("train.max_steps=null", "train.num_train_epochs=3", "train.per_device_train_batch_size=1")
    for _ in range(9):
        one.step()
    other = feed("train.max_steps=null", "train.num_train_epochs=3")
    other.resume(one.position())
    assert other.total_steps(9) == 9 + 2 * 5


def test_the_validation_split_is_whole_and_in_order(feed):
    evaluated = feed("train.eval_strategy=steps")
    (batch,) = evaluated.validation()
    assert batch["info"].ids == ["9/0"] and batch["info"].real

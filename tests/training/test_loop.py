"""The loop: the step's loss, evaluations without a new best, and what is due when."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dataset.collate import collate
from model.run_checkpoints import latest_checkpoint
from tests.helpers.runs import evaluated
from training.feed import label_count
from training.setup import build_loop


def test_loss_is_averaged_over_all_tokens_of_the_accumulated_batch(make_config):
    """Two micro-batches of one give the gradient of one batch of two, though their labels differ in number."""
    config = make_config()
    loop = build_loop(config, Path(config.train.output) / "a")
    loop.prepare()
    dataset, pad = loop.feed.known, loop.tokenizer.pad_token_id
    batches = [collate([dataset[i]], pad) for i in (0, 1)]
    batches[0]["labels"][0, :-6] = -100  # one sample with few labels
    together = collate([dataset[i] for i in (0, 1)], pad)
    together["labels"][0, : batches[0]["labels"].shape[1] - 6] = -100
    count = sum(map(label_count, batches))
    assert count == label_count(together)

    def gradients(parts):
        loop.model.zero_grad()
        for part in parts:
            loop.forward_backward(part, torch.tensor(count), last=True)
        return [p.grad.clone() for p in loop.model.parameters() if p.requires_grad]

    for one, other in zip(gradients(batches), gradients([together]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)  # float32; 2e-6 seen


EARLY = [
    "train.max_steps=40",
    "train.eval_strategy=steps",
    "train.eval_steps=2",
    "train.save_steps=100",
    "train.early_stopping_patience=3",
]


def test_evaluations_without_a_new_best_save_and_end_the_run(make_config, monkeypatch):
    config = make_config(*EARLY)
    loop = build_loop(config, Path(config.train.output) / "a")
    evaluated([5.0, 4.0, 4.5, 3.0, 3.0, 3.1, 3.2], monkeypatch, loop)
    loop.train()
    assert loop.progress.step == 14 and loop.stops_early()
    assert (loop.progress.best_step, loop.progress.best_loss) == (8, 3.0)
    assert latest_checkpoint(loop.run).name == "checkpoint-14"


def test_patience_counts_on_after_a_resume_and_more_of_it_trains_on(make_config, monkeypatch):
    config = make_config(*EARLY, "train.save_steps=6")
    first = build_loop(config, Path(config.train.output) / "a")
    evaluated([3.0, 3.5, 3.6, 3.7], monkeypatch, first)
    first.train()
    assert first.progress.step == 8
    again = build_loop(config, first.run)
    evaluated([3.8], monkeypatch, again)
    again.train(first.run / "checkpoint-6")  # after two evaluations without a new best
    assert again.progress.step == 8 and again.stops_early()
    more = build_loop(make_config(*EARLY, "train.early_stopping_patience=4"), first.run)
    evaluated([3.9], monkeypatch, more)
    more.train(first.run / "checkpoint-8")
    assert more.progress.step == 10


@pytest.mark.parametrize(
    ("strategy", "steps"), [("no", []), ("steps", [3, 6, 8]), ("epoch", [5, 8])]
)  # five samples an epoch, one a step
def test_checkpoints_are_saved_every_so_many_steps_or_epochs_and_at_the_end(make_config, strategy, steps):
    options = ["train.max_steps=8", "train.save_steps=3", "train.per_device_train_batch_size=1"]
    config = make_config(*options, f"train.save_strategy={strategy}")
    loop = build_loop(config, Path(config.train.output) / "a")
    loop.train()
    found = sorted(int(path.name.split("-")[1]) for path in loop.run.glob("checkpoint-*"))
    assert found == steps


def test_batches_without_a_picture_change_nothing_where_only_the_projector_is_trained(make_config, caplog):
    """The batches of one row each are the picture's, and two without one; all have their loss in the log."""
    talk = {"source": "t", "language": "en", "split": "train", "turns": [{"q": "What?", "a": ["red"]}]}
    shown = {**talk, "turns": [{"q": "<|extra_0|>\nWhat?", "a": ["red"]}]}
    one_a_step = ["train.max_steps=3", "train.per_device_train_batch_size=1", "train.save_strategy=no"]
    options = [*one_a_step, "language.train=frozen", "projector.standardize=false", "train.lr_scheduler_type=constant"]
    config = make_config(*options, pictures=1, conversations={"0": [shown], "text": [talk, talk]})
    loop = build_loop(config, Path(config.train.output) / "a")
    loop.prepare()
    weights, changed = [p.detach().clone() for p in loop.model.projector.parameters()], []
    for _ in range(3):
        loop.train_step()
        now = [p.detach().clone() for p in loop.model.projector.parameters()]
        changed.append(not all(map(torch.equal, weights, now)))
        weights = now
    assert sorted(changed) == [False, False, True] and int(loop.images) == 1
    assert loop.counts() == {"untaught_batches": 2} and loop.loss > 0
    (warning,) = [record.message for record in caplog.records if "without a picture" in record.message]
    assert "changes no weight" in warning

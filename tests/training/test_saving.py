"""Checkpoints of a loop: the best one, a run that has moved, and processes that other ones resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.runs import evaluated
from training.setup import build_loop

BEST = ["train.eval_strategy=steps", "train.eval_steps=2", "train.load_best_model_at_end=true"]


def test_a_best_that_was_not_saved_does_not_take_the_protection_of_one_that_was(make_config, monkeypatch):
    """Evaluated at 2, 4, 6, 8; saved at 4 and 8."""
    config = make_config(*BEST, "train.max_steps=8", "train.save_steps=4", "train.save_total_limit=1")
    loop = build_loop(config, Path(config.train.output) / "a")
    evaluated([5.0, 4.0, 3.0, 3.5], monkeypatch, loop)
    loop.train()
    state = json.loads((loop.run / "checkpoint-8" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["best_global_step"] == 6 and Path(state["best_model_checkpoint"]).name == "checkpoint-4"
    assert (loop.run / "checkpoint-4").is_dir()


def test_the_best_checkpoint_of_a_run_that_has_moved_is_found_in_its_new_folder(make_config, monkeypatch):
    config = make_config(*BEST, "train.max_steps=4")
    loop = build_loop(config, Path(config.train.output) / "a")
    evaluated([2.0, 3.0], monkeypatch, loop)
    loop.train()
    moved = loop.run.rename(loop.run.with_name("b"))
    again = build_loop(make_config(*BEST, "train.max_steps=6", "train.save_total_limit=1"), moved)
    evaluated([4.0], monkeypatch, again)
    again.train(moved / "checkpoint-4")
    assert again.progress.best_checkpoint == str(moved / "checkpoint-2")
    assert {path.name for path in moved.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-6"}


def test_one_process_that_resumes_two_gets_the_mean_of_their_sums(make_config):
    config = make_config("train.logging_steps=3", "train.max_steps=4")
    loop = build_loop(config, Path(config.train.output) / "a")
    loop.train()
    file = loop.run / "checkpoint-2" / "progress.json"
    progress = json.loads(file.read_text(encoding="utf-8"))
    (loss,) = progress["losses"]
    file.write_text(json.dumps({**progress, "losses": [loss - 1, loss + 1], "tokens": [[10, 4], [30, 0]]}))
    again = build_loop(config, loop.run)
    again.train(loop.run / "checkpoint-2")
    wanted, found = (one.progress.log_history[-1] for one in (loop, again))
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-6) and found["step"] == 3
    assert found["padding"] > 0 == wanted["padding"]  # 2 of the 20 that were counted before

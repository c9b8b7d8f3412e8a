"""A run that is killed again and again ends bit-equal to one that was never killed."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.errors import UserError
from common.files import write_text
from model.run_checkpoints import latest_checkpoint, newest_undamaged, prune
from tests.helpers.runs import assert_same, last_state, runs_of
from training.setup import build_loop

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX processes")

KILLS = int(os.environ.get("VLM_KILLS", "20"))  # `make soak` asks for 200

LOGS = {"metrics.jsonl", "answers.jsonl", "loss.svg"}  # training/log.py

OPTIONS = [
    "train.num_train_epochs=3",
    "train.max_steps=-1",
    "train.per_device_train_batch_size=1",
    "train.gradient_accumulation_steps=2",
    "train.save_steps=2",
    "train.save_total_limit=2",
    "train.logging_steps=3",
    "train.eval_strategy=steps",
    "train.eval_steps=3",
    "train.per_device_eval_batch_size=1",
    "lora.lora_dropout=0.2",
    "data.progress=false",
]


@pytest.fixture
def start(make_config, tmp_path):
    return runs_of(make_config, tmp_path, OPTIONS)


def random_kill(rng: random.Random, seconds: float) -> dict:
    kind = rng.choice(["after", "step", "evaluate", "file", "file"])
    if kind == "after":
        return {"after": rng.uniform(0.1, 1.0) * seconds}
    return {"event": kind, "count": rng.randint(1, {"step": 12, "evaluate": 16, "file": 110}[kind])}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_killed_at_random_moments_it_ends_bit_equal(start, dtype):
    overrides = ["train.bf16=true"] if dtype == "bf16" else []
    whole, reference = start("whole", *overrides)
    done = whole()
    assert done["codes"] == [0], done["output"]
    assert ("bfloat16" in done["output"]) == (dtype == "bf16")
    broken, run = start("broken", *overrides)
    rng, killed, finished = random.Random(f"{dtype} 7"), [], 0
    while len(killed) < KILLS // 2 or not finished:
        if len(killed) >= KILLS // 2:
            result = broken("--resume")
        else:
            kill = random_kill(rng, done["seconds"])
            result = broken("--resume", kill=kill)
            killed += [kill] if result["codes"] == [-9] else []
        assert result["codes"] in ([0], [-9]), result["output"]
        if result["codes"] == [0]:
            finished += 1
            assert_same(run, reference)
            broken, run = start(f"broken-{finished}", *overrides)
    assert len(killed) == KILLS // 2


def test_the_log_of_a_run_killed_between_two_logs_is_that_of_one_that_was_not(start):
    """Padding too, which the log gives for the batches since the last one."""
    overrides = ["train.per_device_train_batch_size=2", "train.num_train_epochs=6"]
    whole, reference = start("whole", *overrides)
    assert whole()["codes"] == [0]
    broken, run = start("broken", *overrides)
    assert broken(kill={"event": "step", "count": 10})["codes"] == [
        -9
    ]  # in step 5; logged after step 3, saved after step 4
    assert broken("--resume")["codes"] == [0]
    assert_same(run, reference)
    assert len({entry["padding"] for entry in last_state(run)[2]["log"] if "padding" in entry}) == 4


@pytest.mark.parametrize(
    ("change", "share"),
    [("train.per_device_train_batch_size=4", 50), ("data.seed=9", 57), ("half the data", 50), (None, None)],
)
def test_with_other_data_or_batches_it_continues_at_the_same_share_of_the_epoch_and_says_so(
    start, tmp_path, change, share
):
    """Four of seven batches were taken. That many of fewer, larger ones would be more than the epoch has."""
    broken, run = start("run")
    assert broken(kill={"event": "step", "count": 12})["codes"] == [-9]
    assert json.loads((run / "checkpoint-6" / "progress.json").read_text(encoding="utf-8"))["batches"] == 4
    changed, _ = start("run", *[change] if change and "=" in change else [])
    if change == "half the data":
        file = tmp_path / "annotations.json"
        talks = json.loads(file.read_text(encoding="utf-8"))
        write_text(file, json.dumps({key: talks[key] for key in talks if key not in ("0", "1", "2")}))
    result = changed("--resume")
    assert result["codes"] == [0], result["output"]
    _, _, rest = last_state(run)
    assert rest["log"][-1]["epoch"] == 3
    said = re.findall(r"differ from the checkpoint's; continuing at (\d+) % of epoch 2", result["output"])
    assert said == ([str(share)] if share else [])


# ---------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def finished(start):
    """A run of twelve steps."""
    run, folder = start("run")
    result = run()
    assert result["codes"] == [0], result["output"]
    return run, folder


def test_nothing_but_whole_checkpoints_is_left_and_the_oldest_are_pruned(finished):
    """Two are kept: the newest, and the best that was saved, or else the newest but one."""
    _, folder = finished
    state = json.loads((folder / "checkpoint-12" / "trainer_state.json").read_text(encoding="utf-8"))
    best = Path(state["best_model_checkpoint"] or "checkpoint-12").name
    second = "checkpoint-10" if best == "checkpoint-12" else best
    assert {path.name for path in folder.iterdir()} == {"checkpoint-12", second, *LOGS}


@pytest.mark.parametrize(
    ("most", "best", "left"),
    [(3, 2, {2, 6, 8}), (2, 2, {2, 8}), (1, 2, {2, 8}), (1, None, {8}), (2, 8, {6, 8}), (None, 2, {2, 4, 6, 8})],
)
def test_the_newest_and_the_best_are_never_pruned(tmp_path, most, best, left):
    for step in (2, 4, 6, 8):
        write_text(tmp_path / f"checkpoint-{step}" / "manifest.json", "{}")
    prune(tmp_path, most, best and str(tmp_path / f"checkpoint-{best}"))
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{step}" for step in left}


def test_a_flipped_byte_a_cut_file_or_a_missing_one_is_found_and_the_checkpoint_before_is_used(finished, tmp_path):
    run, folder = finished
    before, last = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    rng, files = random.Random(5), sorted(path for path in last.rglob("*") if path.is_file())
    assert newest_undamaged(folder) == last
    for file in files:
        good = file.read_bytes()
        flipped = bytearray(good)
        flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        for bad in (bytes(flipped), good[: rng.randrange(len(good))], None):
            file.unlink() if bad is None else file.write_bytes(bad)
            assert newest_undamaged(folder) == before, (file.name, bad and len(bad))
        file.write_bytes(good)
    assert newest_undamaged(folder) == last
    (last / "optimizer.safetensors").write_bytes(b"")
    result = run("--resume")
    assert result["codes"] == [0] and f"{last.name} is damaged and passed over" in result["output"]
    assert f"resuming from {before}" in result["output"] and newest_undamaged(folder) == last
    for checkpoint in (before, last):
        (checkpoint / "manifest.json").write_bytes(b"{}")
    result = run("--resume")
    assert result["codes"] == [2] and "every checkpoint in" in result["output"]


@pytest.mark.parametrize("fault", ["full", "vanished", "replaced"])
def test_a_checkpoint_that_cannot_be_written_is_one_line_and_the_earlier_one_is_untouched(start, fault, tmp_path):
    """A full disk is played by the limit on a file's size: writing fails where the files grow large enough."""
    run, folder = start("run", "train.save_total_limit=5", "train.eval_strategy=no")
    result = run(fault=fault)
    assert result["codes"] == [2], result["output"]
    errors = [line for line in result["output"].splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "checkpoint-4 cannot be saved" in errors[0] and "Traceback" not in result["output"]
    if fault == "full":
        assert "then continue from checkpoint-2 with: python train.py --config" in errors[0]
        assert {path.name for path in folder.iterdir()} == {"checkpoint-2", "metrics.jsonl"}  # nothing to draw yet
        assert newest_undamaged(folder) == folder / "checkpoint-2"


def test_a_folder_that_cannot_be_written_is_one_line_before_anything_is_computed(start, tmp_path):
    run, folder = start("run")
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file", encoding="utf-8")
    result = run()
    assert result["codes"] == [2] and "checkpoints cannot be written here" in result["output"]
    assert len(result["output"].strip().splitlines()) == 1


# ---------------------------------------------------------------------------------------------- signals


def test_a_signal_while_evaluating_saves_at_once_and_the_evaluation_is_made_up_for(start):
    whole, reference = start("whole")
    assert whole()["codes"] == [0]
    broken, run = start("broken")
    # An evaluation of two batches has four passes: each batch, the second with other pictures, and the tokens' shape.
    result = broken(kill={"event": "evaluate", "count": 5, "signal": int(signal.SIGTERM)})  # the second evaluation
    assert result["codes"] == [0] and "stopped at step 6; continue with: python train.py --config" in result["output"]
    progress = json.loads((run / "checkpoint-6" / "progress.json").read_text(encoding="utf-8"))
    assert progress["evaluate"] is True
    assert broken("--resume")["codes"] == [0]
    assert_same(run, reference)


def test_a_signal_in_a_step_reaches_all_processes(start):
    run, folder = start("run")
    result = run(ranks=2, kill={"event": "step", "count": 3, "signal": int(signal.SIGTERM)})  # one of the two gets it
    assert result["codes"] == [0, 0] and result["output"].count("stopped at step 2;") == 1
    assert newest_undamaged(folder) == folder / "checkpoint-2"


# ---------------------------------------------------------------------------------------------- steps that fail


@pytest.fixture
def loop(make_config):
    config = make_config("train.save_steps=1", "train.max_nonfinite_steps=2", "train.max_steps=8")
    return build_loop(config, Path(config.train.output) / "run")


def poison(loop, monkeypatch, steps: set[int], value: float) -> None:
    backward = loop.accelerator.backward

    def poisoned(loss):
        backward(loss * value if loop.progress.step + 1 in steps else loss)

    original = type(loop).forward_backward

    def noted(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        return loss * value if self.progress.step + 1 in steps else loss

    monkeypatch.setattr(type(loop), "forward_backward", noted)
    monkeypatch.setattr(loop.accelerator, "backward", poisoned)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing_and_its_samples_are_named(loop, monkeypatch, caplog, value):
    poison(loop, monkeypatch, {3}, value)
    loop.train()
    run = loop.run
    before, after = (load_file(run / f"checkpoint-{n}" / "optimizer.safetensors") for n in (2, 3))
    assert before and all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    before, after, later = (load_file(run / f"checkpoint-{n}" / "projector.safetensors") for n in (2, 3, 4))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert any(not torch.equal(tensor, later[name]) for name, tensor in before.items())
    (message,) = [r.getMessage() for r in caplog.records if "not finite" in r.getMessage()]
    assert message.startswith("step 3: loss or gradient is not finite; dropped, with the samples ")
    assert message.count("/0") == 2  # a batch of two
    entries = {e["step"]: e for e in loop.progress.log_history if "loss" in e}
    assert 3 not in entries and all(math.isfinite(e["loss"]) for e in entries.values())
    assert entries[4]["nonfinite_steps"] == 1 and "nonfinite_steps" not in entries[2]


def test_the_loss_of_a_step_whose_gradient_is_not_finite_is_not_in_the_log(loop, monkeypatch):
    losses, original = [], type(loop).forward_backward

    def noted(self, *args, **kwargs):
        losses.append(original(self, *args, **kwargs))
        return losses[-1]

    monkeypatch.setattr(type(loop), "forward_backward", noted)
    next(loop.model.projector.parameters()).register_hook(
        lambda gradient: gradient * (math.inf if loop.progress.step == 2 else 1.0)
    )
    loop.train()
    entries = {e["step"]: e["loss"] for e in loop.progress.log_history if "loss" in e}
    assert 3 not in entries and losses[2].isfinite()
    assert entries[4] == pytest.approx(losses[3].item(), rel=1e-6)


def test_too_many_such_steps_in_a_row_stop_the_run(loop, monkeypatch):
    poison(loop, monkeypatch, {2, 4, 5, 6}, float("nan"))
    with pytest.raises(UserError, match=r"^3 steps in a row .*train.max_nonfinite_steps allows 2.* samples \d/0[,;]"):
        loop.train()
    assert latest_checkpoint(loop.run).name == "checkpoint-5"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_names_the_batch_and_what_to_change(loop, monkeypatch, error):
    backward = loop.accelerator.backward

    def too_large(loss):
        if loop.progress.step == 2:
            raise error
        backward(loss)

    monkeypatch.setattr(loop.accelerator, "backward", too_large)
    with pytest.raises(UserError) as caught:
        loop.train()
    message = str(caught.value)
    assert "out of memory in step 3, in a batch of 2 rows of " in message and "2 images" in message
    assert "lower train.per_device_train_batch_size" in message
    assert "checkpoint-2 is complete, continue with: " in message

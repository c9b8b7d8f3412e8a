"""An interrupted evaluation is resumed from its result file, with the same checkpoint, data and settings only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import evaluate
from evaluation import resuming
from evaluation.resuming import Saver
from tests.helpers.evaluating import Crash, crashing, edit, looks, run


def crash(data: Path, stub, monkeypatch, after: int) -> dict:
    """The result file that a crash leaves, where every round is saved."""
    monkeypatch.setattr(Saver, "__call__", lambda saver: saver.write())
    monkeypatch.setattr("evaluation.asking.ROUND", 1)
    stub(crashing(after))
    with pytest.raises(Crash):
        run(data)
    return json.loads((data / "out" / "result.json").read_text(encoding="utf-8"))


def timeless(result: dict) -> dict:
    return {key: value for key, value in result.items() if key != "seconds"}


@pytest.mark.parametrize(
    ("after", "answered", "probed"),
    [(13, 10, 0), (36 + 12, 36, 10), (36 + 30 + 7, 36, 30)],  # while asking, with another picture, with none
)
def test_a_crash_costs_the_last_round_and_the_resumed_result_is_that_of_one_run(
    data, stub, monkeypatch, after, answered, probed
):
    stub(looks)
    whole = run(data)
    left = crash(data, stub, monkeypatch, after)
    assert left["complete"] is False and left["answered"] == answered
    assert sum("other_picture" in line["baselines"] for line in left["predictions"]) == probed
    model = stub(looks)
    resumed = run(data, "--resume")
    assert timeless(resumed) == timeless(whole)
    in_rounds = (after // 5 * 5) if after < 36 else 36 + (after - 36) // 5 * 5
    assert len(model.requests) == 36 + 30 + 30 - in_rounds


def test_ctrl_c_says_how_to_continue_and_a_finished_evaluation_asks_nothing_more(data, stub, capsys):
    stub(crashing(12, KeyboardInterrupt))
    run(data, status=130)
    assert "to continue: " in (error := capsys.readouterr().err) and error.rstrip().endswith("--resume")
    run(data, status=2)
    assert "holds 10 answers of an interrupted evaluation; continue it with --resume" in capsys.readouterr().err
    stub(looks)
    run(data, "--resume")
    assert "10 of 36 questions are answered in" in capsys.readouterr().out
    model = stub(looks)
    assert run(data, "--resume")["complete"] is True
    assert model.requests == []


def test_probes_that_were_left_out_are_asked_by_resuming(data, stub):
    stub(looks)
    run(data, "--no-probes")
    model = stub(looks)
    assert run(data, "--resume")["looks_at_the_picture"] is True
    assert len(model.requests) == 60


def test_without_a_result_resuming_begins(data, stub):
    stub(looks)
    assert run(data, "--resume")["answered"] == 36


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate.max_new_tokens=9"], "was made with generate.max_new_tokens = 8, this evaluation has 9"),
        (["--limit", "20"], "was made with limit = None, this evaluation has 20"),
        (["--split", "train"], "was made with data = "),
    ],
)
def test_other_settings_are_refused_by_name_before_the_model_is_loaded(data, stub, capsys, arguments, message):
    stub(looks)
    before = run(data)
    output = data / "out" / "result.json"
    model = stub(looks)
    command = ["--checkpoint", str(data / "checkpoint-1"), "--output", str(output), "--resume", *arguments]
    assert evaluate.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --resume: {output} ") and message in error and error.count("\n") == 1
    assert model.requests == [] and json.loads(output.read_text(encoding="utf-8")) == before


def test_how_many_are_asked_at_once_may_change(data, stub):
    stub(looks)
    run(data)
    stub(looks)
    assert run(data, "--resume", "generate.batch_size=3")["generate"]["batch_size"] == 3


def test_other_data_and_another_checkpoint_are_refused(data, stub, capsys):
    output = data / "out" / "result.json"
    command = ["--checkpoint", str(data / "checkpoint-1"), "--output", str(output), "--resume"]
    stub(looks)
    run(data)
    manifest = data / "checkpoint-1" / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text + "\n", encoding="utf-8")
    assert evaluate.main(command) == 2
    assert "was made with checkpoint_sha256 = " in capsys.readouterr().err
    manifest.write_text(text, encoding="utf-8")
    edit(data, lambda annotations: annotations["12"][0]["turns"][0].update(a=["dark red"]))
    assert evaluate.main(command) == 2
    assert "was made with questions_sha256 = " in capsys.readouterr().err
    output.write_text("{", encoding="utf-8")
    assert evaluate.main(command) == 2
    assert "result.json: cannot be read as a result of evaluate.py" in capsys.readouterr().err


def test_saving_takes_at_most_a_twentieth_of_the_time(monkeypatch):
    clock, saved = [0.0], []

    def write() -> None:
        saved.append(clock[0])
        clock[0] += 10.0

    monkeypatch.setattr(resuming.time, "monotonic", lambda: clock[0])
    save, idle = Saver(write), Saver(write, idle=True)
    for now in range(0, 600, 20):
        clock[0] = max(clock[0], float(now))
        save()
        idle()
    assert saved == [60.0, 280.0, 500.0]

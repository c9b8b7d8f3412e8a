"""What is shown of a run and what is kept of it."""

from __future__ import annotations

import io
import json
import logging
import re
import sys

import pytest
from accelerate import PartialState

from common.errors import UserError
from training.log import RunLog, answer_line, open_trackers, require_trackers, trim_lines

VALUES = {
    "loss": 3.21456,
    "grad_norm": 12.3,
    "learning_rate": 3e-3,
    "tokens_per_second": 2345,
    "text_tokens_per_second": 345,
    "padding": 0.0512,
    "waiting_for_data": 0.031,
    "epoch": 0.125,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def open_log(make_config, tmp_path):
    (tmp_path / "run").mkdir()

    def build(*overrides: str, resumed_step: int = 0) -> RunLog:
        return RunLog(tmp_path / "run", make_config(*overrides), resumed_step)

    return build


def kept(tmp_path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]


def test_without_a_terminal_each_log_is_an_aligned_line_that_is_flushed(open_log, monkeypatch):
    """Read through a pipe's other end would be late by a block; the stream counts its flushes."""
    flushed = []
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(stream, "flush", lambda: flushed.append(stream.getvalue()))
    log = open_log()
    for step in (1, 2, 10):
        log.step(step, 1600)
        log.metrics(step, {**VALUES, "loss": 10.0 / step})
    log.metrics(10, {"eval_loss": 1.5, "eval_perplexity": 4.48, "epoch": 0.125, "skipped_samples": 3})
    *lines, validation = stream.getvalue().splitlines()
    first = (
        r"step    1/1600  loss 10.0000  grad_norm     12.3  learning_rate 3.00e-03    2,345 tokens/s  "
        r"padding  5.1%  waiting  3.1%  epoch  0.12  left \d+:\d\d:\d\d"
    )
    assert re.fullmatch(first, lines[0])
    assert len({len(line) for line in lines}) == 1 and {line.index("grad_norm") for line in lines} == {30}
    assert validation == ("step   10/1600  eval_loss  1.5000  eval_perplexity     4.48  epoch  0.12  skipped_samples 3")
    assert flushed[0].count("\n") == 1 and flushed[-1] == stream.getvalue()


def test_on_a_terminal_there_is_a_bar_with_steps_loss_speed_and_time(open_log, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    log = open_log("data.progress=true", resumed_step=2)
    for step in (3, 4):
        log.step(step, 8)
        log.metrics(step, VALUES)
    log.metrics(4, {"eval_loss": 1.5, "epoch": 0.5})
    logging.getLogger("training.loop").warning("something")
    log.close()
    shown = terminal.getvalue()
    last = shown.split("\r")[-1]
    assert "test:" in last and "4/8" in last and "loss 3.2146, 2,345 tokens/s" in last
    assert re.search(r"50%.*\[\d\d:\d\d<", last)  # elapsed and left
    assert shown.count("eval_loss  1.5000") == 1 and "grad_norm" not in shown


def test_the_bar_can_be_turned_off(open_log, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    log = open_log("data.progress=false")
    log.step(1, 8)
    log.metrics(1, VALUES)
    assert terminal.getvalue().startswith("step 1/8  loss")


def test_every_log_is_a_line_of_metrics_at_once(open_log, tmp_path):
    log = open_log()
    log.step(1, 4)
    log.metrics(1, {**VALUES, "grad_norm": float("inf")})
    assert kept(tmp_path) == [{"step": 1, **VALUES, "grad_norm": None}]  # JSON has no infinity
    log.metrics(1, {"eval_loss": 2.0})
    assert kept(tmp_path)[1] == {"step": 1, "eval_loss": 2.0}
    log.close()


def test_a_resumed_run_continues_the_metrics_without_duplicates(open_log, tmp_path):
    file = tmp_path / "run" / "metrics.jsonl"
    before = [{"step": 2, "loss": 5.0}, {"step": 4, "loss": 4.0}, {"step": 4, "eval_loss": 4.5}]
    cut = '{"step": 8, "lo'
    lines = [json.dumps(entry) for entry in [*before, {"step": 6, "loss": 3.0}]]
    file.write_text("\n".join([*lines, cut]), encoding="utf-8")
    log = open_log(resumed_step=4)
    assert file.read_text(encoding="utf-8").endswith(cut)  # nothing changes before the run does
    for step in (5, 6):
        log.step(step, 8)
    log.metrics(6, {"loss": 3.5})
    log.close()
    assert kept(tmp_path) == [*before, {"step": 6, "loss": 3.5}]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"metrics.jsonl"}


def test_metrics_that_are_not_there_or_not_ours_are_trimmed_to_nothing(tmp_path):
    file = tmp_path / "metrics.jsonl"
    trim_lines(file, 4)
    assert not file.exists()
    file.write_bytes(b'7\n{"a": 1}\n\xff\n{"step": "x"}\n{"step": 3}\n')
    trim_lines(file, 4)
    assert file.read_text() == '{"step": 3}\n'


def test_the_curve_is_drawn_when_a_checkpoint_was_saved(open_log, tmp_path):
    log = open_log()
    log.saved(0, tmp_path)
    log.step(1, 4)
    log.metrics(1, VALUES)
    assert not (tmp_path / "run" / "loss.svg").exists()
    log.saved(1, tmp_path)
    assert (tmp_path / "run" / "loss.svg").read_text(encoding="utf-8").startswith("<svg ")


def test_a_full_disk_does_not_end_the_run_here(open_log, tmp_path, caplog):
    log = open_log()
    (tmp_path / "run").rmdir()
    log.step(1, 4)
    log.metrics(1, VALUES)
    log.saved(1, tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'run' / 'metrics.jsonl'} cannot be written: No such file or directory"
    ]


def test_other_processes_show_and_write_nothing(open_log, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    log = open_log()
    log.step(1, 4)
    log.metrics(1, VALUES)
    log.saved(1, tmp_path)
    log.close()
    assert capsys.readouterr().out == "" and not list((tmp_path / "run").iterdir())


# ---------------------------------------------------------------------------------------------- trackers

TENSORBOARD = """
calls = []
class SummaryWriter:
    def __init__(self, folder, **options): calls.append(("open", folder, options))
    def add_scalar(self, name, value, global_step): calls.append((name, value, global_step))
    def flush(self): pass
    def close(self): calls.append(("close",))
"""
WANDB = """
calls = []
class Run:
    def log(self, values, step): calls.append(("log", values, step))
    def finish(self): calls.append(("finish",))
def init(**options):
    calls.append(("init", options))
    return Run()
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Packages of the trackers' names, which note what they are asked for."""
    PartialState()  # accelerate's trackers ask it which process this is
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "tensorboard.py").write_text("")
    (folder / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(folder)
    writer = type(sys)("torch.utils.tensorboard")
    exec(TENSORBOARD, writer.__dict__)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", writer)
    monkeypatch.setattr("torch.utils.tensorboard", writer, raising=False)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    yield writer
    sys.modules.pop("wandb", None)


def test_tensorboard_gets_every_number_and_forgets_what_follows_the_resumed_step(open_log, fakes, tmp_path):
    log = open_log("train.report_to=tensorboard", resumed_step=4)
    log.step(5, 8)
    log.metrics(5, {"loss": 2.5, "epoch": 0.5})
    log.close()
    folder = str(tmp_path / "run" / "tensorboard")
    assert fakes.calls == [
        ("open", folder, {"purge_step": 5}),
        ("loss", 2.5, 5),
        ("epoch", 0.5, 5),
        ("close",),
    ]


def test_weights_and_biases_gets_the_config_and_every_number(open_log, fakes, tmp_path):
    log = open_log("train.report_to=[wandb]")
    log.step(1, 8)
    log.metrics(1, {"loss": 2.5})
    log.close()
    import wandb

    (_, options), *rest = wandb.calls
    assert rest == [("log", {"loss": 2.5}, 1), ("finish",)]
    assert options["name"] == options["group"] == "test" and options["dir"] == str(tmp_path / "run")
    assert options["config"]["train"]["learning_rate"] == 1e-2


def test_a_tracker_that_cannot_start_is_one_line(make_config, fakes, tmp_path, monkeypatch):
    import wandb

    def init(**options):
        raise RuntimeError("no API key\nconfigured")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(UserError, match=r"^train.report_to = wandb: it cannot be started \(no API key configured\); "):
        open_trackers(make_config("train.report_to=wandb"), tmp_path, 0)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_one_line(make_config, monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: None)
    with pytest.raises(UserError, match=f"^train.report_to = {name}: it is not installed; pip install {name}, or"):
        require_trackers(make_config(f"train.report_to={name}"))


def test_no_tracker_is_imported_unless_asked_for(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: None)
    require_trackers(make_config())
    assert open_trackers(make_config(), tmp_path, 0) == []


def said(answer: str, right: bool | None) -> dict:
    return {
        "name": "3/0",
        "question": "图中有什么？",
        "references": ["一个圆形", "圆"],
        "answer": answer,
        "right": right,
    }


def test_five_answers_are_printed_and_all_are_kept(open_log, tmp_path, capsys):
    log = open_log()
    log.answers(3, [])
    assert not (tmp_path / "run" / "answers.jsonl").exists()
    log.answers(4, [said("圆", True), said("红\n\x1b[2J", False), said("圆" * 90, None), *[said("圆", True)] * 4])
    log.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["  图中有什么？  ->  圆  (right)", "  图中有什么？  ->  红  [2J  (reference: 一个圆形)"]
    assert len(lines) == 5 and len(lines[2]) == 100 and lines[2].endswith("...")
    file = (tmp_path / "run" / "answers.jsonl").read_text(encoding="utf-8")
    entries = [json.loads(line) for line in file.splitlines()]
    assert len(entries) == 7 and entries[1] == {"step": 4, **said("红\n\x1b[2J", False)}

    again = open_log(resumed_step=3)
    again.answers(4, [said("方", False)])
    again.close()
    (line,) = (tmp_path / "run" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["answer"] == "方"


def test_an_answer_that_the_console_cannot_print_is_printed_with_question_marks():
    assert answer_line(said("rouge", False), "ascii") == "  ??????  ->  rouge  (reference: ????)"

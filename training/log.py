"""What a person sees of a run while it trains, and what the run keeps of it.

On a terminal a bar; without one, a line for each log, flushed at once. In the run's folder metrics.jsonl, one line for
each log and each evaluation; answers.jsonl, one line for each question that an evaluation asks; and loss.svg, drawn
after each checkpoint. The same numbers go to TensorBoard and Weights & Biases if ``train.report_to`` names them. Only
the first process shows and writes.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common.errors import UserError
from common.files import write_text
from settings import Config
from training.curve import draw_curve
from training.distributed import rank

logger = logging.getLogger(__name__)

METRICS, ANSWERS, CURVE = "metrics.jsonl", "answers.jsonl", "loss.svg"
SHOWN, WIDEST = 5, 100  # answers that an evaluation prints, and characters of a line about one

# How a line shows each value, in this order. A value that is not listed is shown as "name value".
FORMATS: dict[str, Callable[[float], str]] = {
    "loss": "loss {:7.4f}".format,
    "eval_loss": "eval_loss {:7.4f}".format,
    "eval_loss_other_picture": "other picture {:7.4f}".format,
    "eval_gap": "gap {:+.4f}".format,
    "eval_gap_error": "± {:.4f}".format,
    "eval_perplexity": "eval_perplexity {:8.4g}".format,
    "eval_accuracy": "eval_accuracy {:5.3f}".format,
    "grad_norm": "grad_norm {:8.3g}".format,
    "learning_rate": "learning_rate {:.2e}".format,
    "tokens_per_second": "{:>7,.0f} tokens/s".format,
    "padding": "padding {:5.1%}".format,
    "waiting_for_data": "waiting {:5.1%}".format,
    "epoch": "epoch {:5.2f}".format,
}
# Kept in metrics.jsonl: a line has no room for everything.
HIDDEN = {"text_tokens_per_second", "images", "visual_token_lengths", "visual_token_spread"}


class RunLog:
    """Shows and keeps the numbers of one run, from ``resumed_step`` on.

    Nothing in the folder changes before the first call of :meth:`step` or :meth:`metrics`.

    Raises:
        UserError: a tracker of ``train.report_to`` cannot be started.
    """

    def __init__(self, run: Path, config: Config, resumed_step: int) -> None:
        self.run, self.config, self.resumed_step = run, config, resumed_step
        self.speaks = not rank()
        self.total = 0
        self.begin = time.monotonic()
        self.files: dict[str, TextIO] = {}
        self.bar: tqdm | None = None
        self.cleanup = ExitStack()
        self.trackers = open_trackers(config, run, resumed_step) if self.speaks else []

    def step(self, step: int, total: int) -> None:
        """``step`` of ``total`` optimiser steps are done."""
        if not self.speaks:
            return
        self.total = total
        if self.bar is None and self.config.data.progress and sys.stdout.isatty():
            name, done = self.config.train.run, self.resumed_step
            self.bar = tqdm(desc=name, initial=done, total=total, unit="step", file=sys.stdout, dynamic_ncols=True)
            self.cleanup.callback(self.bar.close)
            self.cleanup.enter_context(logging_redirect_tqdm())  # warnings are printed above the bar
        if self.bar is not None:
            self.bar.update(step - self.bar.n)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """The numbers of a log or of an evaluation, after ``step`` steps."""
        if not self.speaks:
            return
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self._keep(METRICS, [{"step": step, **finite}])
        for tracker in self.trackers:
            tracker.log(values, step=step)
        if self.bar is None:
            print(self._line(step, values), flush=True)
        elif "loss" in values:
            speed = values.get("tokens_per_second")
            tokens = "" if speed is None else f", {speed:,.0f} tokens/s"
            self.bar.set_postfix_str(f"loss {values['loss']:.4f}{tokens}")
        else:
            self.bar.write(self._line(step, values), file=sys.stdout)

    def answers(self, step: int, answers: Sequence[dict[str, Any]]) -> None:
        """What the model said at an evaluation (:func:`training.sample_answers.ask_samples`); five are printed."""
        if not self.speaks or not answers:
            return
        self._keep(ANSWERS, [{"step": step, **entry} for entry in answers])
        for entry in answers[:SHOWN]:
            line = answer_line(entry, sys.stdout.encoding)
            print(line, flush=True) if self.bar is None else self.bar.write(line, file=sys.stdout)

    def saved(self, step: int, folder: Path) -> None:
        """A checkpoint was written: draw the curve up to here."""
        if not self.speaks or METRICS not in self.files:
            return
        try:
            draw_curve(self.run / METRICS, self.run / CURVE, self.config.train.run)
        except OSError as error:
            logger.warning("%s cannot be written: %s", self.run / CURVE, error.strerror or error)

    def close(self) -> None:
        self.cleanup.close()
        for tracker in self.trackers:
            tracker.finish()
        self.trackers = []

    def _keep(self, name: str, entries: Sequence[dict[str, Any]]) -> None:
        """Append lines to a file of the run. A full disk ends a run at its next checkpoint, not here."""
        try:
            if name not in self.files:
                trim_lines(self.run / name, self.resumed_step)
                self.files[name] = open(self.run / name, "a", encoding="utf-8", newline="\n")
                self.cleanup.callback(self.files[name].close)
            self.files[name].writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
            self.files[name].flush()
        except OSError as error:
            logger.warning("%s cannot be written: %s", self.run / name, error.strerror or error)

    def _line(self, step: int, values: dict[str, float]) -> str:
        known = [FORMATS[name](values[name]) for name in FORMATS if name in values]
        other = [f"{name} {value:g}" for name, value in values.items() if name not in FORMATS and name not in HIDDEN]
        left = [f"left {self._time_left(step)}"] if "loss" in values and step > self.resumed_step else []
        width = len(str(self.total))
        return "  ".join([f"step {step:{width}}/{self.total}", *known, *left, *other])

    def _time_left(self, step: int) -> str:
        """Hours, minutes and seconds, at the mean speed of this process so far."""
        seconds = (time.monotonic() - self.begin) / (step - self.resumed_step) * (self.total - step)
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def answer_line(entry: dict[str, Any], encoding: str | None) -> str:
    """An answer on one line that a console of this encoding can print, without characters that control it."""
    verdict = {True: "right", False: f"reference: {entry['references'][0]}", None: "not scored"}[entry["right"]]
    text = f"  {entry['question']}  ->  {entry['answer']}  ({verdict})"
    text = "".join(character if character.isprintable() else " " for character in text)
    text = text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."
    return text.encode(encoding or "utf-8", "replace").decode(encoding or "utf-8")


def trim_lines(file: Path, last: int) -> None:
    """Drop what follows step ``last``, and a line that a crash cut short. The file is replaced as a whole."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= last:
                kept.append(f"{line}\n")
        except (ValueError, LookupError, TypeError):
            continue
    write_text(file, "".join(kept))


# ---------------------------------------------------------------------------------------------- trackers


def require_trackers(config: Config) -> None:
    """Raises: UserError: ``train.report_to`` names a package that is not installed."""
    for name in config.train.report_to:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"train.report_to = {name}: it is not installed; pip install {name}, or leave it out")


def open_trackers(config: Config, run: Path, resumed_step: int) -> list[Any]:
    """accelerate's trackers for ``train.report_to``, started.

    TensorBoard's files are in the run's folder, and what follows ``resumed_step`` in them is no longer shown. Weights
    & Biases gets a run of its own for each start, all of them in a group of the run's name.
    """
    if not config.train.report_to:
        return []
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    name, settings = config.train.run, config.model_dump(mode="json")
    trackers: list[Any] = []
    for kind in config.train.report_to:
        if kind == "tensorboard":
            tracker = TensorBoardTracker("tensorboard", run, purge_step=resumed_step + 1)
        else:
            project = os.environ.get("WANDB_PROJECT", "ask-a-picture")
            tracker = WandBTracker(project, name=name, group=name, dir=str(run), config=settings)
        try:
            tracker.start()
        except Exception as error:  # each tracker has errors of its own: no login, no network, no disk
            reason = " ".join(str(error).split())[:200]
            problem = f"train.report_to = {kind}: it cannot be started ({reason})"
            raise UserError(f"{problem}; fix that, or leave it out") from error
        trackers.append(tracker)
    return trackers

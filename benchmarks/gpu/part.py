"""One part of the run, in its own process: measurements in turn, each recorded at once, until the time is over."""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging


class Skip(Exception):
    """A measurement that cannot be made here; the text says why."""


class Part:
    """Where a part is measured, how much time it has, and what it has recorded.

    Args:
        seconds: the part's share of the time, from now.
        only: a text that a measurement's name must contain.
    """

    def __init__(self, name: str, folder: Path, args: argparse.Namespace, seconds: float) -> None:
        self.name, self.file = name, folder / "measurements.jsonl"
        self.device, self.tiny = torch.device(args.device), args.preset == "tiny"
        self.compiles = self.device.type == "cuda" or args.compile
        self.only = args.only
        self.end = time.monotonic() + seconds
        self.done = {record["name"] for record in self._begun()}

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def measure(self, name: str, work: Callable[..., dict], *arguments, needs: float = 0.0, **options) -> dict | None:
        """What ``work`` returns, recorded with the time it took; None where it failed or was left out.

        ``needs`` are the seconds below which it is not worth starting.
        """
        if name in self.done or (self.only and self.only not in name):
            return None
        if self.left < needs:
            self._write(name, "skipped", error=f"needs {needs:.0f} s, {max(0, self.left):.0f} s are left")
            return None
        self._write(name, "begun")
        begin = time.monotonic()
        try:
            values = work(*arguments, **options)
        except Skip as reason:
            self._write(name, "skipped", error=str(reason))
        except torch.OutOfMemoryError as error:
            self._write(name, "out of memory", error=str(error).splitlines()[0][:200])
        except Exception as error:  # whatever it is, the next measurement follows
            self._write(
                name, "failed", error=f"{type(error).__name__}: {error}"[:500], trace=traceback.format_exc()[-4000:]
            )
            self._leave_if_broken()
        else:
            self._write(name, "ok", seconds=round(time.monotonic() - begin, 2), **values)
            return values
        self.clear()
        return None

    def records(self, part: str | None = None) -> list[dict]:
        """What was recorded before: of this part, or of another one."""
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        return [record for record in map(json.loads, lines) if record["part"] == (part or self.name)]

    def clear(self) -> None:
        """Give memory back, so that the next measurement finds what the first one found."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _write(self, name: str, status: str, **values) -> None:
        record = {"part": self.name, "name": name, "status": status, **values}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, default=str) + "\n")
        if status != "begun":
            shown = {
                key: value for key, value in values.items() if not isinstance(value, (dict, list)) and key != "trace"
            }
            facts = ", ".join(f"{key} {short(value)}" for key, value in shown.items())
            print(f"   {name}: {'' if status == 'ok' else status + ', '}{facts}"[:400], flush=True)

    def _begun(self) -> list[dict]:
        """Measurements of an earlier process of this part. One that has no end crashed it, and is recorded as such."""
        records = self.records()
        ended = {record["name"] for record in records if record["status"] != "begun"}
        for record in records:
            if record["status"] == "begun" and record["name"] not in ended:
                self._write(record["name"], "failed", error="the process ended in it; see stderr.log")
        return records

    def _leave_if_broken(self) -> None:
        """After some errors CUDA refuses everything in this process; another one continues."""
        if self.device.type == "cuda":
            try:
                torch.cuda.synchronize()
            except Exception:
                print("   CUDA is unusable in this process", flush=True)
                sys.exit(3)


def short(value) -> str:
    """A number with three or four digits that count."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def run_part(args: argparse.Namespace) -> int:
    """Import, wait for the seconds on stdin, measure."""
    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    module = importlib.import_module(f"benchmarks.gpu.{args.run_part}")
    print("imported", flush=True)
    line = sys.stdin.readline()
    if not line:  # whoever started this is gone
        return 1
    part = Part(args.run_part, args.output, args, float(line))
    if part.device.type == "cuda" and not torch.cuda.is_available():
        part.measure("CUDA", lambda: (_ for _ in ()).throw(Skip("torch sees no CUDA device; use --device cpu")))
        return 0
    torch.manual_seed(0)
    module.run(part)
    return 0

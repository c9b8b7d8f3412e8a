"""One part of the run, in its own process. It makes its measurements in turn and records each at once."""

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
    """The device a part runs on, the time it has, and what it has recorded.

    Args:
        seconds: the part's share of the time, from now on.
        args: the command's. If it has ``only``, measurements without this text in their name are left out.
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
        """Call ``work`` and record what it returns and the seconds it took. None if it failed or was skipped.

        It is skipped if fewer than ``needs`` seconds are left.
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
        except Exception as error:  # record it and continue with the next measurement
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
        """The records of this part so far, or of another part."""
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        return [record for record in map(json.loads, lines) if record["part"] == (part or self.name)]

    def clear(self) -> None:
        """Free memory, so that each measurement starts with the same amount."""
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
        """Records of an earlier process of this part. What began and did not end is recorded as failed."""
        records = self.records()
        ended = {record["name"] for record in records if record["status"] != "begun"}
        for record in records:
            if record["status"] == "begun" and record["name"] not in ended:
                self._write(record["name"], "failed", error="the process ended during it; see stderr.log")
        return records

    def _leave_if_broken(self) -> None:
        """Exit if CUDA refuses all further work, as it does after some errors; a new process continues."""
        if self.device.type == "cuda":
            try:
                torch.cuda.synchronize()
            except Exception:
                print("   CUDA is unusable in this process", flush=True)
                sys.exit(3)


def short(value) -> str:
    """A value as text; numbers with four significant digits."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def run_part(args: argparse.Namespace) -> int:
    """Import the part, read from stdin how many seconds it has, and measure."""
    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    module = importlib.import_module(f"benchmarks.gpu.{args.run_part}")
    gc.freeze()  # else each gc.collect() takes 0.3 s for the objects of the imports, which all stay
    print("imported", flush=True)
    line = sys.stdin.readline()
    if not line:  # the parent process has ended
        return 1
    part = Part(args.run_part, args.output, args, float(line))
    if part.device.type == "cuda" and not torch.cuda.is_available():
        part.measure("CUDA", lambda: (_ for _ in ()).throw(Skip("torch finds no CUDA device; use --device cpu")))
        return 0
    torch.manual_seed(0)
    module.run(part)
    return 0

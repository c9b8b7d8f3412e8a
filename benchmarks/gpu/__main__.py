"""Measure on one GPU, in a given time: parity, training, profile, answering, estimates.

    python3 -m benchmarks.gpu --minutes 8 --output DIR                                    # on an H100 or H200
    python3 -m benchmarks.gpu --minutes 1 --output DIR --device cpu --preset tiny         # the same, as a trial
    python3 -m benchmarks.gpu --minutes 3 --output DIR --parts training profile           # two parts only

Needs the checkout, torch (2.11 or later), transformers (5.17 or later), peft and numpy. Models are built on the device
with random weights. Only the part "estimates" needs pydantic, and only the measurement "QLoRA" bitsandbytes.

Each part runs in a process of its own and is stopped when its share of the time is over. Time that a part does not use
goes to the later ones. Each measurement is written to DIR/measurements.jsonl at once. If one fails, its traceback is
recorded and the next one runs. If the process crashes, the part is started again after that measurement. The command
ends at most 20 s after --minutes. The results are DIR/CARD-DATE.json and DIR/table.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.gpu import report

SHARES = {"parity": 0.9, "training": 3.2, "profile": 0.7, "answering": 1.7, "estimates": 1.4, "counts": 0.1}
RESTARTS = 2  # of one part, after crashes
IMPORT_SECONDS = 15  # to wait for the first part's imports, before the time runs


def main() -> int:
    args = parse_arguments()
    if args.run_part:
        from benchmarks.gpu.part import run_part

        return run_part(args)
    begin = time.monotonic()
    args.output.mkdir(parents=True, exist_ok=True)
    for name in ("measurements.jsonl", "stderr.log"):
        (args.output / name).unlink(missing_ok=True)
    run_parts(args)
    report.write(args.output, args.commit, args.device, time.monotonic() - begin)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, metavar="N", help="for all parts (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the results are written")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="(default: %(default)s)")
    parser.add_argument("--preset", choices=["real", "tiny"], default="real", help="shapes (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES), help="(default: all)")
    parser.add_argument("--compile", action="store_true", help="measure compiled code on a CPU, too")
    parser.add_argument("--only", metavar="TEXT", help="only measurements with this text in their name")
    parser.add_argument("--commit", metavar="TEXT", help="the commit named in the results (default: git's)")
    parser.add_argument("--run-part", choices=SHARES, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_parts(args: argparse.Namespace) -> None:
    """Run each part in turn. The next one's process imports its libraries in the meantime."""
    parts = list(args.parts)
    process = Waiting(args, parts[0])
    process.imported.wait(IMPORT_SECONDS)
    deadline = time.monotonic() + 60 * args.minutes
    for number, part in enumerate(parts):
        following = Waiting(args, parts[number + 1]) if number + 1 < len(parts) else None
        weights = [SHARES[name] for name in parts[number:]]
        share = (deadline - time.monotonic()) * weights[0] / sum(weights)
        print(f"\n== {part}: {share:.0f} s", flush=True)
        end = time.monotonic() + share
        for _ in range(1 + RESTARTS):
            status = process.finish(end)
            if status in (0, "stopped") or end - time.monotonic() < 5:
                break
            print(f"   {part} ended with status {status}; starting it again", flush=True)
            process = Waiting(args, part)
        if status != 0:
            record = {"part": part, "name": "the part itself", "status": "stopped" if status == "stopped" else "failed"}
            record["error"] = f"its {share:.0f} s were over" if status == "stopped" else f"exit status {status}"
            with (args.output / "measurements.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        if following is not None:
            process = following


def command_of(part: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:], "--run-part", part]


class Waiting:
    """A part's process: it imports its libraries, then waits for a line with the seconds it has.

    Attributes:
        imported: set when it waits or has ended.
    """

    def __init__(self, args: argparse.Namespace, part: str) -> None:
        with (args.output / "stderr.log").open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                command_of(part),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
                start_new_session=True,
            )
        assert self.process.stdin is not None and self.process.stdout is not None  # both are pipes
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.imported = threading.Event()
        self.printer = threading.Thread(target=self._print, daemon=True)
        self.printer.start()

    def _print(self) -> None:
        """Print what it prints, except the first line, which says that it waits."""
        self.stdout.readline()
        self.imported.set()
        for line in self.stdout:
            print(line, end="", flush=True)

    def finish(self, end: float) -> int | str:
        """Let it run until ``end`` at most; return its exit status, or "stopped"."""
        try:
            self.stdin.write(f"{end - time.monotonic()}\n")
            self.stdin.close()
        except OSError:  # it has ended
            pass
        try:
            return self.process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            return "stopped"
        finally:
            self.kill()
            self.printer.join(2)

    def kill(self) -> None:
        """End it and its children, such as the compiler's processes."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


if __name__ == "__main__":
    sys.exit(main())

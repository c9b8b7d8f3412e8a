"""How long each command takes to print its help, and to report a mistake in its arguments, config or paths.

    python -m benchmarks.start
    python -m benchmarks.start --repeats 5 --output start.json

Processor time (user and system) in milliseconds, the smallest of some runs, and the heavy packages that were imported.
Nothing here needs a checkpoint or data: every path that is named does not exist.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets")
HELP_MS, MISTAKE_MS = 500, 1000  # the goals
CONFIG = ["--config", "demo.yaml"]
_CONFIG_MISTAKES = {
    "config missing": ["--config", "no-such.yaml"],
    "unknown key": [*CONFIG, "train.learning_rat=1"],
    "wrong value": [*CONFIG, "train.learning_rate=-1"],
    "model missing": [*CONFIG, "vision.path=./no-such-model"],
}
_NO_DATA = [*CONFIG, "data.image_map=no-such.json"]
# command -> {what is asked for or wrong: arguments}
CASES: dict[str, dict[str, list[str]]] = {
    "train.py": {"unknown option": ["--no-such-option"], **_CONFIG_MISTAKES, "data missing": _NO_DATA},
    "process_image.py": {
        "unknown option": ["--no-such-option"],
        "wrong option": ["--shard", "9/2"],
        **_CONFIG_MISTAKES,
        "data missing": [*CONFIG, "data.sources.0.images=no-such-folder"],
    },
    "evaluate.py": {
        "unknown option": ["--no-such-option"],
        "checkpoint missing": ["--checkpoint", "no-such-checkpoint"],
        "not a checkpoint": ["--checkpoint", "docs"],
    },
    "ask.py": {
        "unknown option": ["--no-such-option"],
        "no checkpoint named": ["--image", "no-such.jpg", "What?"],
        "image missing": ["--checkpoint", "demo", "--image", "no-such.jpg", "What?"],
        "checkpoint missing": ["--checkpoint", "no-such-checkpoint", "--image", "docs/window-empty.png", "What?"],
        "not a checkpoint": ["--checkpoint", "docs", "--image", "docs/window-empty.png", "What?"],
    },
    "export.py": {
        "wrong dtype": ["--checkpoint", "demo", "--output", "no-such-folder", "--dtype", "fp16"],
        "output exists": ["--checkpoint", "demo", "--output", "docs"],
        "checkpoint missing": ["--checkpoint", "no-such-checkpoint", "--output", "no-such-folder"],
    },
    "serve.py": {
        "no checkpoint named": ["--port", "0"],
        "wrong number": ["--checkpoint", "demo", "--queue", "0"],
        "checkpoint missing": ["--checkpoint", "no-such-checkpoint", "--port", "0"],
    },
    "test_gui.py": {"unknown option": ["--no-such-option"]},
    "-m dataset.show": {"unknown option": ["--no-such-option"], **_CONFIG_MISTAKES, "data missing": _NO_DATA},
    "-m dataset.write_shards": {
        "output not named": CONFIG,
        "data missing": ["--output", "no-such-folder", *_NO_DATA],
    },
    "-m qwen.load": {"unknown option": ["--no-such-option"], "model missing": ["./no-such-model"]},
}

# Runs a command as Python would, and writes at its end which heavy packages are imported.
_WATCH = """
import atexit, os, runpy, sys
watched, found = sys.argv.pop(1).split(","), sys.argv.pop(1)
atexit.register(lambda: open(found, "w").write(" ".join(name for name in watched if name in sys.modules)))
if sys.argv[1] == "-m":
    module = sys.argv[2]
    del sys.argv[:2]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
else:
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass
class Start:
    """One run of a command: its exit status, its output, its processor time, and what it imported."""

    status: int
    stdout: str
    stderr: str
    milliseconds: float
    imported: list[str]


def start(command: str, arguments: list[str], watched: tuple[str, ...] = HEAVY) -> Start:
    """Run ``command`` ("train.py" or "-m dataset.show") in the repository's root."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "imported"
        line = [sys.executable, "-c", _WATCH, ",".join(watched), str(found), *command.split(), *arguments]
        before = os.times()
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8")
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        imported = found.read_text().split() if found.is_file() else ["nothing was written"]
    return Start(done.returncode, done.stdout, done.stderr, 1000 * used, imported)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="runs of each (default: 3)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the numbers as JSON too")
    args = parser.parse_args()
    rows = []
    print(f"{'command':26}{'':22}{'ms':>6}{'goal':>6}  imported")
    for command, mistakes in CASES.items():
        for what, arguments in {"--help": ["--help"], **mistakes}.items():
            runs = [start(command, arguments) for _ in range(args.repeats)]
            best = min(runs, key=lambda run: run.milliseconds)
            goal = HELP_MS if what == "--help" else MISTAKE_MS
            print(
                f"{command:26}{what:22}{best.milliseconds:6.0f}{goal:6}  {' '.join(best.imported) or '-'}", flush=True
            )
            rows.append({"command": command, "case": what, "goal": goal, **asdict(best)})
    if args.output:
        args.output.write_text(json.dumps({"python": sys.version, "rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

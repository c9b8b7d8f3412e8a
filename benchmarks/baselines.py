"""The README's table of baselines, made from results of evaluate.py on the demo.

    python -m benchmarks.baselines results/question.json results/ibowimg.json ...    # writes the results file
    python -m benchmarks.baselines --write      # put the table between its marks in README.md and README.zh-CN.md

Docs: docs/baselines.md has the commands that train and evaluate. A test fails when a number between the marks is not
in the results file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.tables import READMES, RESULTS, ROOT, replaced
from common.files import write_json
from evaluation.result import read_result
from model.run_checkpoints import latest_checkpoint

FILE = RESULTS / "baselines-demo.json"
MARKS = ("<!-- baselines: begin -->", "<!-- baselines: end -->")
FLOORS = {"question_only": "question only", "other_picture": "other picture", "no_picture": "no picture"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, metavar="FILE", help="results of evaluate.py")
    parser.add_argument("--output", type=Path, default=FILE, metavar="FILE", help="default: %(default)s")
    measured = "training time of a model, such as ours=169 (default: what the checkpoint of a baseline says)"
    parser.add_argument("--seconds", action="append", default=[], metavar="NAME=S", help=measured)
    parser.add_argument("--write", action="store_true", help="put the table into the READMEs")
    args = parser.parse_args()
    if args.results:
        seconds = {name: float(text) for name, _, text in (given.partition("=") for given in args.seconds)}
        rows = [row(path, seconds) for path in args.results]
        write_json(args.output, {"date": time.strftime("%Y-%m-%d"), "rows": rows})
    text = table(json.loads(args.output.read_text(encoding="utf-8")))
    print(text)
    for name in READMES if args.write else ():
        file = ROOT / name
        file.write_text(replaced(file.read_text(encoding="utf-8"), text, MARKS), encoding="utf-8")


def row(path: Path, seconds: Mapping[str, float]) -> dict:
    """One model's scores, and how long it trained: ``seconds`` by name, or what a baseline's checkpoint says."""
    result = read_result(path)
    overall = result["scores"]["overall"]
    name = result.get("baseline") or "ours"
    return {
        "model": name,
        "questions": overall["n"],
        "score": overall["score"],
        "standard_error": overall["standard_error"],
        **{floor: overall["baselines"][floor]["mean"] for floor in FLOORS},
        "seconds": seconds[name] if name in seconds else seconds_of(Path(result["checkpoint"]).parent),
    }


def seconds_of(run: Path) -> float:
    """The wall-clock seconds of a baseline's training, over all its starts."""
    latest = latest_checkpoint(run)
    assert latest is not None, "evaluate.py opened a checkpoint of this run"
    return json.loads((latest / "trainer_state.json").read_text(encoding="utf-8"))["position"]["seconds"]


def table(result: dict) -> str:
    """The rows in Markdown."""
    lines = [
        "| model | exact match | " + " | ".join(FLOORS.values()) + " | training |",
        "|---" * (3 + len(FLOORS)) + "|",
    ]
    for one in result["rows"]:
        floors = " | ".join(f"{one[floor]:.3f}" for floor in FLOORS)
        minutes = f"{one['seconds'] / 60:.1f} min"
        lines.append(f"| {one['model']} | {one['score']:.3f} ± {one['standard_error']:.3f} | {floors} | {minutes} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

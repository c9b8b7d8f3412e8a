"""The table of worse pictures in docs/baselines.md, made from results of ``evaluate.py --corrupt`` on the demo.

    python -m benchmarks.corruptions --plain RESULT... --augmented RESULT...    # writes the results file
    python -m benchmarks.corruptions --write      # put the table between its marks in docs/baselines.md and its Chinese

A figure is the mean over the results, which are of runs that differ in their seed. A test fails when a number between
the marks is not in the results file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.tables import RESULTS, ROOT, replaced
from common.errors import UserError, exit_status
from common.files import write_json
from dataset.corruptions import STRENGTHS
from evaluation.result import read_result

FILE = RESULTS / "corruptions-demo.json"
MARKS = ("<!-- worse pictures: begin -->", "<!-- worse pictures: end -->")
RUNS = ("plain", "augmented")
WORDS: dict[str, dict[str, str]] = {
    "docs/baselines.md": {
        "strength": "strength",
        "occlusion": "hidden at random",
        "most looked at": "hidden where it looks most",
    },
    "docs/baselines.zh-CN.md": {
        **{"strength": "强度", "plain": "普通", "augmented": "增强", "noise": "噪声", "blur": "模糊"},
        **{"occlusion": "随机遮挡", "low resolution": "低分辨率", "most looked at": "遮挡最受关注处"},
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in RUNS:
        parser.add_argument(f"--{name}", nargs="+", default=[], type=Path, metavar="FILE", help="results of such runs")
    parser.add_argument("--output", type=Path, default=FILE, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help="put the table into the docs")
    args = parser.parse_args()
    return exit_status(lambda: make_table(args), "stopped")


def make_table(args: argparse.Namespace) -> None:
    """Write the results file if there are results, print the tables, and put them into the docs if that is wanted."""
    if args.plain and args.augmented:
        runs = {name: [corruptions_of(path) for path in getattr(args, name)] for name in RUNS}
        write_json(args.output, {"date": time.strftime("%Y-%m-%d"), "runs": runs})
    found = json.loads(args.output.read_text(encoding="utf-8"))
    for name, words in WORDS.items():
        print(text := table(found["runs"], words))
        if args.write:
            file = ROOT / name
            file.write_text(replaced(file.read_text(encoding="utf-8"), text, MARKS), encoding="utf-8")


def corruptions_of(path: Path) -> dict[str, Any]:
    """The scores of a result. Raises UserError if it has none."""
    result = read_result(path)
    if "corruptions" not in result:
        raise UserError(f"{path}: no scores of worse pictures; add them with evaluate.py --resume --corrupt")
    return result["corruptions"]


def table(runs: dict[str, list[dict[str, Any]]], words: dict[str, str]) -> str:
    """The mean scores in Markdown: a row for each kind, strength 0 (unchanged) to 3 of each sort of run."""
    levels = range(len(STRENGTHS) + 1)
    heads = [f"{words.get(name, name)} {level}" if level == 0 else str(level) for name in RUNS for level in levels]
    lines = [f"| {words['strength']} | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for number, row in enumerate(runs[RUNS[0]][0]["kinds"]):
        means = [
            statistics.mean(run["kinds"][number]["scores"][level]["mean"] for run in runs[name])
            for name in RUNS
            for level in levels
        ]
        lines.append(f"| {words.get(row['kind'], row['kind'])} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

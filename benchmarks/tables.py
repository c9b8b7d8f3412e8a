"""The README's table of GPU figures, made from benchmarks/results/*.json.

    python -m benchmarks.tables            # print it
    python -m benchmarks.tables --write    # put it between its two marks in README.md and README.zh-CN.md

A result is what ``python -m benchmarks.gpu`` wrote as CARD-DATE.json; of each card the newest counts. A test fails when
a number between the marks is not in a result.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- gpu figures: begin -->", "<!-- gpu figures: end -->"
READMES = ("README.md", "README.zh-CN.md")
COLUMNS = {"questions/s": "questions/s", "real tokens/s": "tokens/s", "peak GiB": "peak GiB", "MFU %": "MFU, 4N alone"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into the READMEs")
    args = parser.parse_args()
    text = "\n\n".join(map(table, newest(RESULTS).values())) or "No GPU figures yet."
    print(text)
    for name in READMES if args.write else ():
        file = ROOT / name
        file.write_text(replaced(file.read_text(encoding="utf-8"), text), encoding="utf-8")


def newest(folder: Path) -> dict[str, dict]:
    """The newest result of each card."""
    found: dict[str, dict] = {}
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        if "card" not in result:  # not of a GPU: benchmarks.baselines
            continue
        if result["card"] not in found or result["date"] >= found[result["card"]]["date"]:
            found[result["card"]] = result
    return found


def table(result: dict) -> str:
    """A card's training and answering figures in Markdown."""
    lines = [f"{result['card']}, {result['date']}, torch {result['versions']['torch']}, commit {result['commit']}:", ""]
    lines += ["| training | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for record in result["measurements"]:
        if record["part"] == "training" and record["status"] == "ok" and "questions/s" in record:
            lines.append(f"| {record['name']} | " + " | ".join(figures(record)) + " |")
    return "\n".join(lines)


def figures(record: dict) -> list[str]:
    """The cells of one measurement."""
    cells = []
    for title, key in COLUMNS.items():
        value = record.get(key)
        scale = 100 if title.endswith("%") else 1
        cells.append("" if value is None else written(scale * value))
    return cells


def written(value: float) -> str:
    """A number as the table has it: whole from 100 on, else one decimal."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def replaced(text: str, table_text: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """``text`` with another table between the marks."""
    begin, end = text.index(marks[0]) + len(marks[0]), text.index(marks[1])
    return f"{text[:begin]}\n{table_text}\n{text[end:]}"


def unfounded(readme: str, results: dict[str, dict]) -> list[str]:
    """Lines between the marks that no result supports; empty where there are no marks."""
    if BEGIN not in readme:
        return []
    inside = readme[readme.index(BEGIN) + len(BEGIN) : readme.index(END)]
    made = {line for result in results.values() for line in table(result).splitlines()}
    return [line for line in inside.splitlines() if re.search(r"\d", line) and line not in made]


if __name__ == "__main__":
    main()

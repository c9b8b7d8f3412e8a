"""The README's tables of GPU figures and of architectures, and docs/architectures.md's, from benchmarks/results/*.json.

    python -m benchmarks.tables            # print them
    python -m benchmarks.tables --write    # put them between their marks in the READMEs and docs, in both languages

A result is what ``python -m benchmarks.gpu`` wrote as CARD-DATE.json; of each card the newest counts. A test fails when
a number between the marks is not in a result. architectures.json is what ``python -m benchmarks.architectures`` wrote.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- gpu figures: begin -->", "<!-- gpu figures: end -->"
READMES = ("README.md", "README.zh-CN.md")
ARCHITECTURES = RESULTS / "architectures.json"
MARKS = "<!-- architectures: begin -->", "<!-- architectures: end -->"
PAGES = ("docs/architectures.md", "docs/architectures.zh-CN.md")
SHORT = ("", "visual tokens", "trained", "exact match")
NUMBERS = {
    "tokens/s": "tokens_per_second",
    "text tokens/s": "text_tokens_per_second",
    "MiB": "memory_mib",
    "first token ms": "first_token_ms",
}
ANSWERING = {
    "first token ms": "first, first token ms",
    "of a follow-up ms": "follow-up, first token ms",
    "tokens/s": "tokens/s",
    "memory bandwidth %": "share of the copy's bandwidth",
}
COLUMNS = {"questions/s": "questions/s", "real tokens/s": "tokens/s", "peak GiB": "peak GiB", "MFU %": "MFU, 4N alone"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into the READMEs")
    args = parser.parse_args()
    text = "\n\n".join(map(table, newest(RESULTS).values())) or "No GPU figures yet."
    compared = json.loads(ARCHITECTURES.read_text(encoding="utf-8"))
    print(f"{text}\n\n{architecture_table(compared)}")
    if args.write:
        write(READMES, text, (BEGIN, END))
        write(READMES, short_table(compared), MARKS)
        write(PAGES, architecture_table(compared), MARKS)


def write(names: Iterable[str], text: str, marks: tuple[str, str]) -> None:
    """Put ``text`` between the marks in each of the files."""
    for file in (ROOT / name for name in names):
        file.write_text(replaced(file.read_text(encoding="utf-8"), text, marks), encoding="utf-8")


def newest(folder: Path) -> dict[str, dict]:
    """The newest result of each card."""
    found: dict[str, dict] = {}
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        if "card" not in result:  # not of a GPU
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
    lines += ["", "| answering | " + " | ".join(ANSWERING) + " |", "|---" * (1 + len(ANSWERING)) + "|"]
    for record in result["measurements"]:
        if record["part"] == "answering" and record["status"] == "ok" and "tokens/s" in record:
            name = record["name"].removesuffix(", first question and follow-up")
            lines.append(f"| {name} | " + " | ".join(figures(record, ANSWERING)) + " |")
    return "\n".join(lines)


def figures(record: dict, columns: dict[str, str] = COLUMNS) -> list[str]:
    """The cells of one measurement."""
    cells = []
    for title, key in columns.items():
        value = record.get(key)
        scale = 100 if title.endswith("%") else 1
        cells.append("" if value is None else written(scale * value))
    return cells


def written(value: float) -> str:
    """A number as the table has it: whole from 100 on, else one decimal."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def architecture_table(result: dict) -> str:
    """Connectors, adapters and recipes in Markdown: means over the seeds, and the deviation of the exact match."""
    titles = [*SHORT, "other picture", "no picture", *NUMBERS]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for rows in by_variant(result):
        cells = short_cells(rows)
        cells += [f"{_mean(row['floors'][floor] for row in rows):.2f}" for floor in ("other_picture", "no_picture")]
        cells += [f"{_mean(row[key] for row in rows):,.0f}" for key in NUMBERS.values()]
        lines.append("| " + " | ".join(cells) + " |")
    processor = "speeds are per second of processor time, " if result["device"].startswith("CPU") else ""
    return "\n".join([*lines, "", f"{conditions(result)}; {processor}torch {result['torch']}, {result['date']}"])


def short_table(result: dict) -> str:
    """The table of the READMEs: without floors, speeds and memory."""
    lines = ["| " + " | ".join(SHORT) + " |", "|---" * len(SHORT) + "|"]
    lines += ["| " + " | ".join(short_cells(rows)) + " |" for rows in by_variant(result)]
    return "\n".join([*lines, "", conditions(result)])


def by_variant(result: dict) -> list[list[dict]]:
    """The rows of each variant, one for each seed."""
    found: dict[str, list[dict]] = {}
    for row in result["rows"]:
        found.setdefault(row["variant"], []).append(row)
    return list(found.values())


def short_cells(rows: list[dict]) -> list[str]:
    """A variant, what it costs and what it answers: the mean, the standard deviation and the number of seeds."""
    scores = [row["score"] for row in rows]
    spread = f" ± {statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    trained = ", ".join(f"{count:,}" for count in rows[0]["trained"])
    score = f"{statistics.mean(scores):.2f}{spread} ({len(scores)})"
    return [rows[0]["variant"], str(rows[0]["visual_tokens"]), trained, score]


def conditions(result: dict) -> str:
    """What all lines have in common."""
    floors = result["rows"][0]["floors"]
    return (
        f"{result['steps']} steps, {result['questions']} questions; majority answer {floors['majority']:.2f}, "
        f"best answer per question text {floors['question_only']:.2f}; {result['device']}"
    )


def _mean(values: Iterable[float]) -> float:
    return statistics.mean(values)


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

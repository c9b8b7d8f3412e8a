"""The page of two runs: their scores beside each other, and the questions that they answer differently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from evaluation.html.choosing import MOST_BYTES, choose
from evaluation.html.content import details, is_right, question, run_name
from evaluation.html.page import write_page
from evaluation.html.texts import TEXTS
from evaluation.result import Difference, Differences, Prediction

Pairs = Sequence[tuple[Prediction, Prediction]]  # the same question in a and in b


def write_comparison(a: Mapping, b: Mapping, pairs: Pairs, differences: Differences, file: Path) -> Path:
    """Write the page of two results (result.Result) as ``file`` and return its path. Raises UserError if that fails.

    Args:
        pairs: the questions that both were asked, as from compare.paired.
        differences: of their scores, as from compare.differences.
    """
    return write_page(comparison_content(a, b, pairs, differences), file)


def comparison_content(a: Mapping, b: Mapping, pairs: Pairs, differences: Differences) -> dict:
    """The content of the page, for :func:`evaluation.html.page.render`."""
    changed = [(x, y) for x, y in pairs if (x["prediction"], x["score"]) != (y["prediction"], y["score"])]
    lines = [line for line, _ in changed]
    max_pixels = max(a["max_pixels"], b["max_pixels"])
    pictures, questions = choose(lines, [both(*pair) for pair in changed], max_pixels, MOST_BYTES)
    runs = [run_name(result["checkpoint"]) for result in (a, b)]
    return {
        "kind": "comparison",
        "texts": TEXTS,
        "title": " → ".join(dict.fromkeys(runs)),
        "subtitle": b["data"],
        "runs": runs,
        "difference": differences["overall"],
        "baselines": [],
        "answers": ["a", "b"],
        "rows": list(rows(differences)),
        "captions": [
            {"source": name, "language": language, **scores}
            for language, written in differences["captions"].items()
            for name, scores in zip("AB", written, strict=True)
        ],
        "counts": {
            "complete": a["complete"] and b["complete"],
            "questions": min(a["questions"], b["questions"]),
            "answered": min(a["answered"], b["answered"]),
            "listed": len(changed),
            "gained": sum(is_right(new["score"]) and not is_right(old["score"]) for old, new in changed),
            "lost": sum(is_right(old["score"]) and not is_right(new["score"]) for old, new in changed),
        },
        "details": [(f"{key} {run}", value) for run, result in (("A", a), ("B", b)) for key, value in details(result)],
        "pictures": pictures,
        "questions": questions,
    }


def rows(differences: Differences) -> Iterator[dict]:
    """The rows of the table of scores. A group without any score has none."""
    yield from _row("all", "", differences["overall"])
    for kind in ("type", "language", "source"):
        for name, row in differences[f"by_{kind}"].items():  # type: ignore[literal-required]
            yield from _row(kind, name, row)


def _row(kind: str, name: str, row: Difference) -> Iterator[dict]:
    if row["difference"] is None:
        return
    yield {
        "kind": kind,
        "name": name,
        "n": row["a"]["n"],
        "images": row["images"],
        "series": [{"score": run["mean"], "error": run["standard_error"]} for run in (row["a"], row["b"])],
        "metrics": {},
        "baselines": {},
        "chance": None,
        "ceiling": None,
        "looks": None,
        "difference": {key: row[key] for key in ("difference", "standard_error", "clear")},
    }


def both(old: Prediction, new: Prediction) -> dict:
    """One question with the answers of both runs."""
    answers: list[dict] = [
        {"text": line["prediction"], "score": line["score"], "pictures": line.get("named", [])} for line in (old, new)
    ]
    return question(old) | {"answers": answers, "fitted": {}, "problem": old.get("problem") or new.get("problem")}

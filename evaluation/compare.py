"""Two results side by side: the difference of their scores, how sure it is, and which questions changed.

    python -m evaluation.compare before.json after.json --output comparison.html

Both are results of evaluate.py on the same questions. The standard error is that of the paired differences, clustered
by picture: two runs that are right on the same questions are told apart by far fewer questions than their own errors
suggest.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from evaluation.captions import caption_scores
from evaluation.html.comparison import write_comparison
from evaluation.report import table
from evaluation.result import Difference, Differences, Mean, Prediction, Result, read_result
from evaluation.significance import clearly_above, clustered_mean, finite, paired_difference

Pair = tuple[Prediction, Prediction]
SETTINGS = ("checkpoint", "data", "limit", "seed", "system", "generate", "max_pixels", "complete", "normalisation")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evaluation.compare", description="Compare two results.")
    parser.add_argument("a", type=Path, metavar="A.json", help="what evaluate.py wrote")
    parser.add_argument("b", type=Path, metavar="B.json", help="the same for another checkpoint or other settings")
    parser.add_argument("--changed", type=int, default=10, metavar="N", help="questions to list (default: %(default)s)")
    page = "the page of the changed questions and their pictures (default: %(default)s)"
    parser.add_argument("--output", type=Path, default=Path("comparison.html"), metavar="FILE", help=page)
    args = parser.parse_args(argv)
    try:
        a, b = read_result(args.a), read_result(args.b)
        pairs = paired(a, b)
        print(show(a, b, pairs, args.changed))
        print(f"\n{write_comparison(a, b, pairs, differences(pairs), args.output)} shows them with their pictures.")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def paired(a: Result, b: Result) -> list[Pair]:
    """The questions that both were asked, in the order of ``a``.

    Raises:
        UserError: none is in both, or one with the same id differs in its words, its references or its metric.
    """
    others = {line["id"]: line for line in b["predictions"]}
    pairs = [(line, others[line["id"]]) for line in a["predictions"] if line["id"] in others]
    if not pairs:
        raise UserError("the two results have no question in common; evaluate both on the same data")
    for old, new in pairs:
        for key in ("question", "references", "metric"):
            if old[key] != new[key]:
                raise UserError(
                    f"question {old['id']}: {key} = {old[key]!r} in the one result and {new[key]!r} in the other; "
                    "evaluate both on the same data with the same metrics"
                )
    return pairs


def differences(pairs: Sequence[Pair]) -> Differences:
    """The difference of the scores in all, and by type, language and source; the scores of the captions of both."""
    groups: dict[str, dict[str, list[Pair]]] = {field: defaultdict(list) for field in ("type", "language", "source")}
    for pair in pairs:
        for field, by_value in groups.items():
            by_value[pair[0][field]].append(pair)  # type: ignore[literal-required]
    found = {f"by_{field}": {name: difference(by[name]) for name in sorted(by)} for field, by in groups.items()}
    return {"overall": difference(pairs), **found, "captions": caption_pairs(pairs)}  # type: ignore[typeddict-item]


def caption_pairs(pairs: Sequence[Pair]) -> dict[str, list[dict[str, float | None]]]:
    """The scores of a and of b in each language, over the captions that both have written."""
    by_language: dict[str, list[Pair]] = defaultdict(list)
    for old, new in pairs:
        if old["type"] == "caption" and old["prediction"] is not None and new["prediction"] is not None:
            by_language[old["language"]].append((old, new))
    return {
        language: [
            caption_scores(
                [line["prediction"] or "" for line in lines], [old["references"] for old, _ in both], language
            )
            for lines in zip(*both, strict=True)
        ]
        for language, both in sorted(by_language.items())
    }


def difference(pairs: Sequence[Pair]) -> Difference:
    """Of the questions that both have a score for: captions and questions that one could not be asked are left out."""
    both = [(old["score"], new["score"], old["group"]) for old, new in pairs]
    known = [(x, y, group) for x, y, group in both if x is not None and y is not None]
    first, second, clusters = [x for x, _, _ in known], [y for _, y, _ in known], [group for _, _, group in known]
    if not known:
        none: Mean = {"n": 0, "mean": None, "standard_error": None}
        return {"images": 0, "a": none, "b": none, "difference": None, "standard_error": None, "clear": False}
    change, error = paired_difference(second, first, clusters)
    return {
        "images": len(set(clusters)),
        "a": _mean(first, clusters),
        "b": _mean(second, clusters),
        "difference": change,
        "standard_error": finite(error),
        "clear": clearly_above(abs(change), error),
    }


def _mean(scores: Sequence[float], clusters: Sequence[str]) -> Mean:
    mean, error = clustered_mean(scores, clusters)
    return {"n": len(scores), "mean": mean, "standard_error": finite(error)}


def other_settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    """What the results were not made with alike, a line each."""
    for name in SETTINGS:
        one, other = a.get(name), b.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
            if one and other:
                yield from (f"{name}.{key}: {one.get(key)} / {other.get(key)}" for key in keys)
            elif keys:
                yield f"{name}: {'A' if one else 'B'} has settings of it, the other has none"
        elif one != other:
            yield f"{name}: {one} / {other}"


# ---------------------------------------------------------------------------------------------- the terminal


def show(a: Result, b: Result, pairs: Sequence[Pair], most: int) -> str:
    """The comparison as a table and sentences for a terminal, with at most so many changed questions."""
    found = differences(pairs)
    rows = {"all": found["overall"]}
    for field in ("type", "language", "source"):
        rows |= {f"{field} {name}": row for name, row in found[f"by_{field}"].items()}  # type: ignore[literal-required]
    headings = {"n": "n", "a": "A", "b": "B", "difference": "B - A", "standard_error": "+-", "clear": "clear"}
    lines = [f"A: {a['checkpoint']}", f"B: {b['checkpoint']}"]
    cells = {name: _cells(row) for name, row in rows.items() if row["a"]["n"]}
    lines += ["", *table(cells, headings)] if cells else []
    captions = {
        f"{name} captions ({language})": scores
        for language, both in found["captions"].items()
        for name, scores in zip("AB", both, strict=True)
    }
    lines += ["", *table(captions, {key: key for key in next(iter(captions.values()))})] if captions else []
    lines += ["", _sentence(found["overall"])]
    lines += [f"not alike in the two: {text}" for text in other_settings(a, b) if not text.startswith("checkpoint")]
    for name, result in (("A", a), ("B", b)):
        if alone := len(result["predictions"]) - len(pairs):
            lines.append(f"{alone} questions are in {name} only and are left out.")
    return "\n".join([*lines, "", *_changes(pairs, most)])


def _cells(row: Difference) -> dict:
    return {
        "n": row["a"]["n"],
        "a": row["a"]["mean"],
        "b": row["b"]["mean"],
        "difference": row["difference"],
        "standard_error": row["standard_error"],
        "clear": "yes" if row["clear"] else "no",
    }


def _sentence(row: Difference) -> str:
    if row["difference"] is None:
        return "No question with a short answer has a score in both results."
    if row["standard_error"] is None:
        return "Whether they differ cannot be told from a single picture."
    error = f"{row['difference']:+.3f}, standard error {row['standard_error']:.3f}, {row['images']} pictures"
    if not row["clear"]:
        return f"A and B do not clearly differ ({error})."
    return f"{'B' if row['difference'] > 0 else 'A'} is clearly better ({error})."


def _changes(pairs: Sequence[Pair], most: int) -> Iterator[str]:
    """How many questions were answered better and worse, and the first of them."""
    scored = [(old, new, (new["score"] or 0.0) - (old["score"] or 0.0)) for old, new in pairs]
    better, worse = sum(change > 0 for *_, change in scored), sum(change < 0 for *_, change in scored)
    same = sum(not change and old["prediction"] != new["prediction"] for old, new, change in scored)
    yield f"{better} questions are answered better by B, {worse} worse, {same} otherwise with the same score."
    changed = [item for item in scored if item[2]]
    for old, new, change in changed[: max(most, 0)]:
        yield f"{'better' if change > 0 else 'worse '}  {old['id']}  {old['question']}"
        yield f"        {old['prediction']!r} -> {new['prediction']!r}, reference {old['references'][0]!r}"
    if len(changed) > most:
        yield f"... and {len(changed) - most} more; --changed {len(changed)} lists all"


if __name__ == "__main__":
    sys.exit(main())

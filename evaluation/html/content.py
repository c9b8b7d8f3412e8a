"""The report of one result: its verdict, the scores of each group, and the questions with their pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath

from dataset.boxes import boxes_in, picture_asked_about, without_boxes
from evaluation.baselines import BASELINES, PROBES
from evaluation.html.choosing import MOST_BYTES, choose
from evaluation.html.page import write_page
from evaluation.html.texts import TEXTS
from evaluation.result import Group, Prediction
from evaluation.verdict import FEW_IMAGES

DETAILS = (
    "verdict checkpoint data device tokens system generate metrics recall history baselines_fitted_on normalisation "
    "caption_words segmenter limit seed versions unreadable_images"
).split()


def write_report(result: Mapping, output: Path, most_bytes: int = MOST_BYTES) -> Path:
    """Write result.html beside ``output``, the result file, and return its path; ``result`` is a result.Result.

    Raises:
        UserError: the file cannot be written.
    """
    return write_page(report_content(result, most_bytes), output.with_suffix(".html"))


def report_content(result: Mapping, most_bytes: int = MOST_BYTES) -> dict:
    """The content of the page, for :func:`evaluation.html.page.render`."""
    lines = result["predictions"]
    pictures, questions = choose(lines, [question(line) for line in lines], result["max_pixels"], most_bytes)
    scores = [line["score"] for line in lines]
    few = min((row["images"] for row in result["comparisons"].values()), default=0)
    return {
        "kind": "report",
        "texts": TEXTS,
        "title": run_name(result["checkpoint"]),
        "subtitle": result["data"],
        "looks": result["looks_at_the_picture"],
        "probed": PROBES.keys() <= result["comparisons"].keys(),
        "few_images": few if 0 < few < FEW_IMAGES else None,
        "floor_wrong": result["floor_wrong"],
        "weak_forms": result["weak_forms"],
        "comparisons": result["comparisons"],
        "baselines": list(BASELINES),
        "answers": ["model", *PROBES],
        "rows": list(rows(result)),
        "captions": captions(result),
        "corruptions": result.get("corruptions"),
        "counts": {
            "complete": result["complete"],
            "questions": result["questions"],
            "answered": result["answered"],
            "unasked": result["unasked"],
            "listed": len(lines),
            "wrong": sum(score is not None and not is_right(score) for score in scores),
            "long_references": result["long_references"],
        },
        "details": details(result),
        "crop": result.get("crop"),
        "pictures": pictures,
        "questions": questions,
    }


def details(result: Mapping) -> list[tuple[str, object]]:
    """How the numbers were made: (key, value) of the result."""
    return [(key, result[key]) for key in DETAILS if result.get(key)]


def is_right(score: float | None) -> bool:
    """Whether a score counts as right where answers are right or wrong: from one half on."""
    return score is not None and score >= 0.5


def run_name(checkpoint: str) -> str:
    """The last two folders of a checkpoint's path: the run and the step."""
    return " / ".join(PurePath(checkpoint).parts[-2:])


# ---------------------------------------------------------------------------------------------- scores


def groups(scores: Mapping) -> Iterator[tuple[str, str, Group]]:
    """(kind, name, scores) of all questions and of each type, language and source."""
    yield "all", "", scores["overall"]
    for kind in ("type", "language", "source"):
        for name, group in scores[f"by_{kind}"].items():
            yield kind, name, group


def rows(result: Mapping) -> Iterator[dict]:
    """The rows of the table of scores. A group without any score has none."""
    for kind, name, group in groups(result["scores"]):
        if group["score"] is None:
            continue
        ceiling = group["ceiling"]
        by_type = result["verdict_by_type"].get(name) if kind == "type" else None
        yield {
            "kind": kind,
            "name": name,
            "n": group["n"],
            "images": group["images"],
            "series": [{"score": group["score"], "error": group["standard_error"]}],
            "metrics": {metric: [mean] for metric, mean in group["metrics"].items()},
            "baselines": {key: mean["mean"] for key, mean in group["baselines"].items()},
            "chance": group["chance"],
            "ceiling": ceiling if ceiling is not None and ceiling < 1 else None,
            "looks": by_type["looks_at_the_picture"] if by_type else None,
        }


def captions(result: Mapping) -> list[dict]:
    """A row for each source and language that has captions; the first are those of all sources."""
    found = []
    for kind, name, group in groups(result["scores"]):
        if kind in ("all", "source"):
            found += [{"source": name, "language": key, **scores} for key, scores in group["captions"].items()]
    several = len({row["source"] for row in found}) > 2
    return [row for row in found if several or not row["source"]]


# ---------------------------------------------------------------------------------------------- questions


def question(line: Prediction) -> dict:
    """One question as the page shows it, with the paths of its pictures."""
    baselines = line["baselines"]
    return {
        "id": line["id"],
        "text": without_boxes(line["question"]),
        "boxes": {
            "asked": boxes_in(line["question"]),
            "reference": [box for text in line["references"][:1] for box in boxes_in(text)],
            "answer": boxes_in(line["prediction"] or ""),
        },
        "box_picture": (picture_asked_about(line["question"]) or len(line["images"])) - 1,
        "options": line["options"],
        "references": line["references"],
        "pictures": line["images"],
        "type": line["type"],
        "language": line["language"],
        "source": line["source"],
        "answers": [
            {"text": line["prediction"], "score": line["score"], "pictures": line.get("named", [])},
            *(
                {"text": given["answer"], "score": given["score"], "pictures": given.get("images", [])}
                for given in (baselines.get(name, {"answer": None, "score": None}) for name in PROBES)
            ),
        ],
        "fitted": {
            name: given["answer"] for name, given in baselines.items() if name not in PROBES and given["answer"]
        },
        "problem": line.get("problem"),
    }

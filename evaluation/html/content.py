"""What the report shows, gathered from the result: the scores of each group, and the questions with their pictures.

A file has a limit (:data:`MOST_BYTES`). Where not all questions fit, whole pictures with all their questions are drawn
at random, so that the share of wrong answers among those shown is near that of all. The scores are always of all.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from common.errors import UserError
from common.files import write_text
from evaluation.baselines import BASELINES, PROBES
from evaluation.html.page import json_for_html, render
from evaluation.html.texts import TEXTS
from evaluation.html.thumbnails import Thumbnails, edge_for
from evaluation.result import Group, Prediction
from evaluation.verdict import FEW_IMAGES

MOST_BYTES = 20_000_000  # a mail may have 25 MB, and page and scores need some
DETAILS = (
    "verdict checkpoint data device system generate metrics history baselines_fitted_on normalisation caption_words "
    "segmenter limit seed versions unreadable_images"
).split()


def write_report(result: Mapping, output: Path, max_pixels: int, most_bytes: int = MOST_BYTES) -> Path:
    """Write result.html beside ``output``, the result file, and return its path; ``result`` is a result.Result.

    Args:
        max_pixels: the largest picture that is read, as in ``data.max_pixels``.

    Raises:
        UserError: the file cannot be written.
    """
    file = output.with_suffix(".html")
    try:
        write_text(file, render(report_content(result, max_pixels, most_bytes)))
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror or error}") from error
    return file


def report_content(result: Mapping, max_pixels: int, most_bytes: int = MOST_BYTES) -> dict:
    """The content of the page, for :func:`evaluation.html.page.render`."""
    pictures, questions = choose(
        result["predictions"], [question(line) for line in result["predictions"]], max_pixels, most_bytes
    )
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
        "counts": {
            "complete": result["complete"],
            "questions": result["questions"],
            "answered": result["answered"],
            "unasked": result["unasked"],
            "listed": len(result["predictions"]),
            "long_references": result["long_references"],
        },
        "details": [[key, result[key]] for key in DETAILS if result.get(key)],
        "pictures": pictures,
        "questions": questions,
    }


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
            "ceiling": group["ceiling"],
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
        "text": line["question"],
        "options": line["options"],
        "references": line["references"],
        "pictures": line["images"],
        "type": line["type"],
        "language": line["language"],
        "source": line["source"],
        "answers": [
            {"text": line["prediction"], "score": line["score"], "pictures": []},
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


def choose(
    predictions: Sequence[Prediction], questions: Sequence[dict], max_pixels: int, most_bytes: int
) -> tuple[list[dict], list[dict]]:
    """The pictures and the questions that fit into ``most_bytes``, in their order.

    Args:
        questions: what the page shows of each of ``predictions``, with the paths of pictures.

    Returns:
        Pictures with ``name`` and ``src`` or ``problem``; questions with the positions of their pictures in that list.
        A picture that was only shown instead of another one, and is not among the chosen, has neither.
    """
    by_picture: dict[str, list[int]] = defaultdict(list)
    for i, line in enumerate(predictions):
        by_picture[line["group"]].append(i)
    order = list(by_picture.values())
    random.Random(0).shuffle(order)
    shrink = Thumbnails(
        edge_for(len({path for line in predictions for path in line["images"]}), most_bytes), max_pixels
    )
    chosen: list[int] = []
    paths: set[str] = set()
    size = 0
    for together in order:
        new = {path for i in together for path in questions[i]["pictures"]} - paths
        size += sum(len(json_for_html(questions[i]).encode()) for i in together)
        size += sum(len(json_for_html(shrink(path)).encode()) + len(path.encode(errors="replace")) + 20 for path in new)
        if size > most_bytes:
            break
        chosen += together
        paths |= new
    return _numbered([questions[i] for i in sorted(chosen)], paths, shrink)


def _numbered(questions: Sequence[dict], paths: set[str], shrink: Thumbnails) -> tuple[list[dict], list[dict]]:
    """The list of all pictures that the questions name, and the questions with positions in it instead of paths."""
    named = (path for q in questions for path in [*q["pictures"], *(p for a in q["answers"] for p in a["pictures"])])
    number = {path: i for i, path in enumerate(dict.fromkeys(named))}
    pictures = [{"name": path, **(shrink(path) if path in paths else {})} for path in number]
    return pictures, [
        q
        | {"pictures": [number[path] for path in q["pictures"]]}
        | {"answers": [a | {"pictures": [number[path] for path in a["pictures"]]} for a in q["answers"]]}
        for q in questions
    ]

"""Which questions and pictures a page shows, and the pictures in it.

A file has a limit (:data:`MOST_BYTES`). Where not all questions fit, whole pictures with all their questions are drawn
at random, so that the share of wrong answers among those shown is near that of all.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from evaluation.html.page import json_for_html
from evaluation.html.thumbnails import Thumbnails, edge_for
from evaluation.result import Prediction

MOST_BYTES = 20_000_000  # a mail may have 25 MB, and page and scores need some


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

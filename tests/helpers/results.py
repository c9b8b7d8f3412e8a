"""Results as evaluate.py writes them, without a model: what the HTML report and its tests read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from evaluation.result import Group, Mean, Prediction, Result

BASELINES = ("majority", "question_only", "other_picture", "no_picture")


def line(number: int, images: Sequence[str] = (), **fields) -> Prediction:
    """One question: the model says "red", which is right; another picture gives "blue", none gives "red"."""
    baselines = {
        "majority": {"answer": "no", "score": 0.0},
        "question_only": {"answer": "blue", "score": 0.0},
        "other_picture": {"answer": "blue", "score": 0.0, "images": []},
        "no_picture": {"answer": "red", "score": 1.0},
    }
    own: dict = {
        "id": f"s/{number}",
        "group": images[0] if images else f"s/{number}",
        "question": f"What color is thing {number}?",
        "asked": "?",
        "options": [],
        "references": ["red"],
        "images": list(images),
        "source": "shapes",
        "language": "en",
        "type": "color",
        "metric": "exact_match",
        "prediction": "red",
        "score": 1.0,
        "scores": {"exact_match": 1.0},
        "baselines": baselines,
    }
    return {**own, **fields}  # type: ignore[typeddict-item]


def wrong(number: int, images: Sequence[str] = (), **fields) -> Prediction:
    return line(number, images, prediction="green", score=0.0, **fields)


def mean(n: int, value: float | None, error: float | None = 0.01) -> Mean:
    return {"n": n, "mean": value, "standard_error": error}


def group(lines: Sequence[Prediction]) -> Group:
    scored = [one["score"] for one in lines if one["score"] is not None]
    score = sum(scored) / len(scored) if scored else None
    return {
        "n": len(scored),
        "images": len({path for one in lines for path in one["images"]}),
        "score": score,
        "standard_error": 0.01 if scored else None,
        "metrics": {"exact_match": mean(len(scored), score)},
        "baselines": {name: mean(len(scored), 0.1 * i) for i, name in enumerate(BASELINES)} if scored else {},
        "chance": None,
        "ceiling": None,
        "captions": {},
    }


def result(lines: Sequence[Prediction], **fields) -> Result:
    """A result with these questions. The scores of the groups are means, the baselines' are 0, 0.1, 0.2 and 0.3."""
    comparison = {"n": len(lines), "images": 20, "model": 0.9, "baseline": 0.3, "difference": 0.6}
    comparisons = {name: {**comparison, "standard_error": 0.02, "clearly_above": True} for name in BASELINES}
    verdict = {
        "looks_at_the_picture": True,
        "verdict": "The model looks at the picture.",
        "comparisons": comparisons,
        "floor_wrong": mean(3, 0.8),
        "floor_right": mean(1, 1.0),
        "weak_forms": [],
    }

    def by(field: str) -> dict[str, Group]:
        names = dict.fromkeys(one[field] for one in lines)  # type: ignore[literal-required]
        return {name: group([one for one in lines if one[field] == name]) for name in names}  # type: ignore[literal-required]

    by_type = by("type")
    content = {
        "complete": True,
        "checkpoint": "checkpoints/demo/checkpoint-7",
        "device": "cpu",
        "data": "data/annotations.json (test)",
        "limit": None,
        "seed": 0,
        "max_pixels": 1_000_000,
        "system": "Be brief.",
        "generate": {"max_new_tokens": 8},
        "metrics": {"shapes": "exact_match"},
        "history": "none",
        "versions": {"python": "3.11"},
        "normalisation": {"en": "lower case"},
        "caption_words": {},
        "segmenter": None,
        "baselines_fitted_on": "the training split",
        "questions": len(lines),
        "answered": len(lines),
        "unasked": 0,
        "first_problem": None,
        "unreadable_images": {},
        "long_references": 0,
        "seconds": 1.5,
        "scores": {
            "overall": group(lines),
            "by_type": by_type,
            "by_language": by("language"),
            "by_source": by("source"),
        },
        **verdict,
        "verdict_by_type": {name: verdict for name in by_type},
        "types_that_do_not_look": [],
        "predictions": list(lines),
    }
    return {**content, **fields}  # type: ignore[typeddict-item, return-value]


def draw(folder: Path, count: int, size: int = 48) -> list[str]:
    """Plain pictures of different colours, and their paths."""
    paths = []
    for number in range(count):
        path = folder / f"{number:03}.png"
        Image.new("RGB", (size, size), (37 * number % 256, 90, 255 - 37 * number % 256)).save(path)
        paths.append(path.as_posix())
    return paths

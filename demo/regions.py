"""Where the objects of the demo's pictures are: questions that ask for a box, and questions about a box.

    python -m demo.regions --output data/demo/raw

writes ``regions_zh.json`` and ``regions_en.json``, in LLaVA's format with boxes in pixels, for the pictures that
``python -m demo.scenes`` wrote with the same numbers and seed. Pictures, other questions and splits stay as they are.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from demo.scenes import COLORS, PICTURE_SIZE, SHAPES, Placed, Thing, arrange, drawn_scenes, outline

FIND = {"en": "Draw a box around {}.", "zh": "请框出{}。"}
ABOUT = {"en": {"color": "What color is this?", "shape": "What shape is this?"}}
ABOUT["zh"] = {"color": "这是什么颜色？", "shape": "这是什么形状？"}


def box_of(placed: Placed) -> tuple[float, float, float, float]:
    """The box around an object: left, top, right, bottom in pixels."""
    corners = outline(placed.thing.shape, placed.x, placed.y, placed.radius)
    columns, rows = zip(*corners, strict=True)
    left, top, right, bottom = (min(max(number, 0.0), float(PICTURE_SIZE)) for number in _sides(columns, rows))
    return left, top, right, bottom


def _sides(columns: tuple[float, ...], rows: tuple[float, ...]) -> tuple[float, float, float, float]:
    return min(columns), min(rows), max(columns), max(rows)


def name_of(thing: Thing, others: list[Thing], chinese: bool, rng: random.Random) -> str:
    """A name that fits one object only: by its shape or its colour where that is enough, else by both."""
    by = rng.choice(("shape", "color"))
    alone = all(getattr(other, by) != getattr(thing, by) for other in others)
    if chinese:
        color = COLORS[thing.color] + "的"
        return {"shape": SHAPES[thing.shape], "color": f"{color}图形"}[by] if alone else color + SHAPES[thing.shape]
    if not alone:
        return f"the {thing.color} {thing.shape}"
    return f"the {thing.shape}" if by == "shape" else f"the {thing.color} object"


def records(name: str, placed: list[Placed], language: str, rng: random.Random) -> list[dict]:
    """One question that asks for a box, and one about a box; of two objects that are alike, only the second."""
    one = rng.choice(placed)
    others = [other.thing for other in placed if other is not one]
    alike = any((other.color, other.shape) == (one.thing.color, one.thing.shape) for other in others)
    found = []
    if not alike:
        called = name_of(one.thing, others, language == "zh", rng)
        answer = f"<ref>{called}</ref>{_written(one)}"
        found.append(_record(name, "grounding", FIND[language].format(called), answer))
    other, attribute = rng.choice(placed), rng.choice(("color", "shape"))
    value = getattr(other.thing, attribute)
    said = value if language == "en" else {"color": COLORS, "shape": SHAPES}[attribute][value]
    return [*found, _record(name, "region", f"{_written(other)} {ABOUT[language][attribute]}", said)]


def _written(placed: Placed) -> str:
    return "<box>({:.2f},{:.2f}),({:.2f},{:.2f})</box>".format(*box_of(placed))


def _record(name: str, kind: str, question: str, answer: str) -> dict:
    messages = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": f"{Path(name).stem}/{kind}", "image": name, "conversations": messages}


def write_regions(output: Path, train: int = 3000, validation: int = 100, test: int = 300, seed: int = 0) -> None:
    """The same numbers and seed as those of :func:`demo.scenes.write_raw` give the boxes of its pictures."""
    found: dict[str, list[dict]] = {"ali": [], "coco": []}
    for _, source, name, scene, rng in drawn_scenes({"train": train, "validation": validation, "test": test}, seed):
        _, placed = arrange(scene, rng)
        language = "zh" if source == "ali" else "en"
        found[source] += records(name, placed, language, random.Random(f"regions:{seed}:{name}"))
    for source, file in (("ali", "regions_zh.json"), ("coco", "regions_en.json")):
        text = json.dumps(found[source], ensure_ascii=False, indent=1) + "\n"
        (output / file).write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="that of demo.scenes")
    parser.add_argument("--train", type=int, default=3000, metavar="N", help="training pictures (default: 3000)")
    parser.add_argument("--validation", type=int, default=100, metavar="N", help="validation pictures (default: 100)")
    parser.add_argument("--test", type=int, default=300, metavar="N", help="test pictures (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="that of demo.scenes (default: 0)")
    args = parser.parse_args()
    try:
        write_regions(args.output, args.train, args.validation, args.test, args.seed)
    except OSError as error:
        parser.error(f"cannot write to {args.output}: {error.strerror or error}")


if __name__ == "__main__":
    main()

"""A small world of shapes: scenes, their pictures, captions in two languages, questions and answers.

    python -m demo.scenes --output data/demo/raw

renders the demo's pictures and writes raw annotations in both source formats (AI Challenger and LLaVA), which
``process_image.py`` reads as it reads real ones.

A scene is one or two objects, each with a shape, a colour, a size and a place. A hash of its content puts each scene
into one of ten folds. Fold 0 is the demo's test split and fold 1 its validation split: neither the
backbones nor the demo's model is trained on a scene of these.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw
from tqdm import tqdm

SHAPES = {"circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "五角星"}
COLORS = {"red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色", "purple": "紫色", "black": "黑色"}
SIZES = {"large": "大", "small": "小"}
# In reading order, which is also the order in which captions name the objects.
PLACES = {
    "top left": "左上角",
    "top right": "右上角",
    "center": "中央",
    "bottom left": "左下角",
    "bottom right": "右下角",
}

RGB = {
    "red": (214, 40, 40),
    "green": (40, 160, 70),
    "blue": (40, 80, 210),
    "yellow": (240, 205, 30),
    "purple": (140, 60, 170),
    "black": (25, 25, 25),
}
CENTERS = {
    "top left": (24, 24),
    "top right": (88, 24),
    "center": (56, 56),
    "bottom left": (24, 88),
    "bottom right": (88, 88),
}
RADIUS = {"large": 17, "small": 9}
PICTURE_SIZE = 112  # pixels: 8 x 8 patches of 14
TEST_FOLD, VALIDATION_FOLD, FOLDS = 0, 1, 10
MOST_OBJECTS = 2
KINDS = ("color", "shape", "size", "place", "count", "yes/no")


@dataclass(frozen=True)
class Thing:
    """One object of a scene. The four values are keys of SHAPES, COLORS, SIZES and PLACES."""

    shape: str
    color: str
    size: str
    place: str


Scene = tuple[Thing, ...]  # in reading order
Asked = tuple[str, str] | None  # a question and its answer; None if a scene has no such question


@dataclass(frozen=True)
class QA:
    """A question about a scene, its answer and its kind, one of KINDS."""

    kind: str
    question: str
    answer: str


def draw_scene(
    rng: random.Random, most: int = MOST_OBJECTS, folds: Sequence[int] = range(2, FOLDS), fewest: int = 1
) -> Scene:
    """A random scene of ``fewest`` to ``most`` objects whose fold is in ``folds``."""
    while True:
        places = rng.sample(list(PLACES), rng.randint(fewest, most))
        scene = tuple(
            Thing(rng.choice(list(SHAPES)), rng.choice(list(COLORS)), rng.choice(list(SIZES)), place)
            for place in PLACES
            if place in places
        )
        if fold_of(scene) in folds:
            return scene


def fold_of(scene: object) -> int:
    """0 to 9, from what a scene prints as alone, so that it is the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(scene).encode()).digest()[:4], "big") % FOLDS


# ---------------------------------------------------------------------------------------------- pictures


class Placed(NamedTuple):
    """An object in one picture: its center and radius in pixels, and its colour."""

    thing: Thing
    x: float
    y: float
    radius: float
    color: tuple[int, ...]


def arrange(scene: Scene, rng: random.Random) -> tuple[tuple[int, int, int], list[Placed]]:
    """The paper and the objects of one picture. Places, sizes, colours and paper vary, so that no two are equal."""
    paper = (rng.randint(215, 255), rng.randint(215, 255), rng.randint(215, 255))
    placed = []
    for thing in scene:
        x, y = (c + rng.uniform(-3, 3) for c in CENTERS[thing.place])
        radius = RADIUS[thing.size] + rng.uniform(-1.5, 1.5)
        color = tuple(min(255, max(0, c + rng.randint(-14, 14))) for c in RGB[thing.color])
        placed.append(Placed(thing, x, y, radius, color))
    return paper, placed


def render(scene: Scene, rng: random.Random) -> Image.Image:
    """Draw a scene, 112 x 112 RGB."""
    scale = 4  # drawn at four times the size and reduced, for smooth edges
    paper, placed = arrange(scene, rng)
    picture = Image.new("RGB", (PICTURE_SIZE * scale,) * 2, paper)
    draw = ImageDraw.Draw(picture)
    for thing, x, y, radius, color in placed:
        corners = outline(thing.shape, x * scale, y * scale, radius * scale)
        if thing.shape == "circle":
            draw.ellipse(corners, fill=color)
        elif thing.shape == "square":
            draw.rectangle(corners, fill=color)
        else:
            draw.polygon(corners, fill=color)
    return picture.resize((PICTURE_SIZE,) * 2, Image.Resampling.BOX)


def outline(shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """The corners of a triangle or a star; two opposite ones of a square, or of the square around a circle."""
    if shape in ("circle", "square"):
        half = radius if shape == "circle" else radius * 0.9
        return [(x - half, y - half), (x + half, y + half)]
    points, inner = (3, 1.0) if shape == "triangle" else (5, 0.42)
    steps = points if shape == "triangle" else 2 * points
    return [
        (
            x + math.sin(2 * math.pi * k / steps) * radius * 1.15 * (inner if k % 2 and steps == 10 else 1.0),
            y - math.cos(2 * math.pi * k / steps) * radius * 1.15 * (inner if k % 2 and steps == 10 else 1.0),
        )
        for k in range(steps)
    ]


# ---------------------------------------------------------------------------------------------- words


def at(place: str) -> str:
    return "in the center" if place == "center" else f"at the {place}"


def caption(scene: Scene, language: str, style: int = 0) -> str:
    """One full description of a scene, in one of two styles (0: object first, 1: place first)."""
    if language == "en":
        if style == 0:
            parts = [f"a {t.size} {t.color} {t.shape} {at(t.place)}" for t in scene]
            return "There is " + " and ".join(parts) + "."
        return "; ".join(f"{at(t.place)} is a {t.size} {t.color} {t.shape}" for t in scene).capitalize() + "."
    if style == 0:
        parts = [f"一个{SIZES[t.size]}的{COLORS[t.color]}{SHAPES[t.shape]}在{PLACES[t.place]}" for t in scene]
        return "图中有" + "，".join(parts) + "。"
    return (
        "，".join(f"{PLACES[t.place]}有一个{SIZES[t.size]}的{COLORS[t.color]}{SHAPES[t.shape]}" for t in scene) + "。"
    )


def ask(scene: Scene, language: str, rng: random.Random, kinds: Sequence[str] = KINDS) -> QA:
    """A random question with exactly one right answer. A kind is drawn from ``kinds``, and again if it does not fit."""
    while True:
        kind = rng.choice(kinds)
        pair = _QUESTIONS[kind](scene, language == "zh", rng)
        if pair is not None:
            return QA(kind, *pair)


def _only(scene: Scene, **want: str) -> bool:
    """Whether exactly one object has these attributes, so that "the circle" is unambiguous."""
    return sum(all(getattr(t, k) == v for k, v in want.items()) for t in scene) == 1


def _named(scene: Scene, zh: bool, rng: random.Random, by: tuple[str, ...]) -> tuple[Thing, str, str] | None:
    """A random object, a name for it, and the attribute it is named by; None if the name also fits another object."""
    thing, attribute = rng.choice(scene), rng.choice(by)
    if not _only(scene, **{attribute: getattr(thing, attribute)}):
        return None
    if attribute == "shape":
        return thing, SHAPES[thing.shape] if zh else f"the {thing.shape}", attribute
    if attribute == "color":
        return thing, f"{COLORS[thing.color]}的图形" if zh else f"the {thing.color} object", attribute
    return thing, f"{PLACES[thing.place]}的图形" if zh else f"the object {at(thing.place)}", attribute


def _color(scene: Scene, zh: bool, rng: random.Random) -> Asked:
    if (named := _named(scene, zh, rng, ("shape", "place"))) is None:
        return None
    thing, name, _ = named
    return (f"{name}是什么颜色？", COLORS[thing.color]) if zh else (f"What color is {name}?", thing.color)


def _shape(scene: Scene, zh: bool, rng: random.Random) -> Asked:
    if (named := _named(scene, zh, rng, ("color", "place"))) is None:
        return None
    thing, name, _ = named
    return (f"{name}是什么形状？", SHAPES[thing.shape]) if zh else (f"What shape is {name}?", thing.shape)


def _size(scene: Scene, zh: bool, rng: random.Random) -> Asked:
    if (named := _named(scene, zh, rng, ("shape", "color", "place"))) is None:
        return None
    thing, name, _ = named
    return (f"{name}是大还是小？", SIZES[thing.size]) if zh else (f"Is {name} large or small?", thing.size)


def _place(scene: Scene, zh: bool, rng: random.Random) -> Asked:
    if (named := _named(scene, zh, rng, ("shape", "color"))) is None:
        return None
    thing, name, _ = named
    return (f"{name}在哪里？", PLACES[thing.place]) if zh else (f"Where is {name}?", thing.place)


def _count(scene: Scene, zh: bool, rng: random.Random) -> Asked:
    by = rng.choice(("all", "shape", "color"))
    if by == "all":
        return ("图中有几个图形？" if zh else "How many objects are there?"), str(len(scene))
    # Mostly something that is in the picture: otherwise "0" would be the best guess.
    value = (
        getattr(rng.choice(scene), by) if rng.random() < 0.75 else rng.choice(list(SHAPES if by == "shape" else COLORS))
    )
    number = str(sum(getattr(t, by) == value for t in scene))
    if by == "shape":
        return (f"图中有几个{SHAPES[value]}？" if zh else f"How many {value}s are there?"), number
    return (f"图中有几个{COLORS[value]}的图形？" if zh else f"How many {value} objects are there?"), number


def _yes_no(scene: Scene, zh: bool, rng: random.Random) -> Asked:
    """Half yes, half no. A wrong colour is that of another object in the scene, if there is one."""
    yes = rng.random() < 0.5
    while True:
        form, thing, other = rng.choice(("pair", "shape", "is")), rng.choice(scene), rng.choice(scene)
        shape, color = thing.shape, thing.color
        if form == "is" and not _only(scene, shape=shape):
            continue
        if not yes and form == "shape":
            shape = rng.choice(list(SHAPES))
        elif not yes:
            color = other.color if other.color != color else rng.choice(list(COLORS))
        truth = any(t.shape == shape and (form == "shape" or t.color == color) for t in scene)
        if truth == yes:
            break
    if not zh:
        texts = {
            "pair": f"Is there a {color} {shape}?",
            "shape": f"Is there a {shape}?",
            "is": f"Is the {shape} {color}?",
        }
        return texts[form], "yes" if yes else "no"
    color, shape = COLORS[color], SHAPES[shape]
    texts = {"pair": f"图中有{color}的{shape}吗？", "shape": f"图中有{shape}吗？", "is": f"{shape}是{color}的吗？"}
    return texts[form], ("是" if yes else "不是") if form == "is" else ("有" if yes else "没有")


_QUESTIONS: dict[str, Callable[[Scene, bool, random.Random], Asked]] = {
    "color": _color,
    "shape": _shape,
    "size": _size,
    "place": _place,
    "count": _count,
    "yes/no": _yes_no,
}
DESCRIBE = {
    "en": ("Describe the picture.", "What can you see in the picture?"),
    "zh": ("请描述这张图片。", "图中有什么？"),
}


# ---------------------------------------------------------------------------------------------- raw data

TALKS = (3, 2, 1, 1, 1)  # questions in each conversation about a picture
FOLDS_OF = {"train": tuple(range(2, FOLDS)), "validation": (VALIDATION_FOLD,), "test": (TEST_FOLD,)}
MOST_TESTED = 20_000  # pictures of a fold, which has about 110,000 scenes; no two test pictures have the same


def write_raw(
    output: Path, train: int = 3000, validation: int = 100, test: int = 300, seed: int = 0, progress: bool = True
) -> None:
    """Draw the pictures and write raw annotations of both formats. The same seed gives the same bytes.

    Every second picture is in AI Challenger's format (``ali_images``, ``ali_annotations.json``, in Chinese), the others
    are in LLaVA's (``coco_images``, ``coco_conversations.json``, in English). ``validation.txt`` and ``test.txt`` list
    the pictures of these splits, whose scenes are all different: those of the test are from fold 0, the others from
    fold 1.
    """
    records: dict[str, list[dict]] = {"ali": [], "coco": []}
    for source in records:
        (output / f"{source}_images").mkdir(parents=True, exist_ok=True)
    names: dict[str, list[str]] = {split: [] for split in FOLDS_OF}
    sizes = {"train": train, "validation": validation, "test": test}
    pictures = drawn_scenes(sizes, seed)
    bar = tqdm(pictures, desc="drawing pictures", unit="picture", total=sum(sizes.values()), disable=not progress)
    for split, source, name, scene, rng in bar:
        render(scene, rng).save(output / f"{source}_images" / name)
        write = _ali_records if source == "ali" else _coco_records
        records[source] += write(name, scene, rng)
        names[split].append(name)
    for file, content in (("ali_annotations.json", records["ali"]), ("coco_conversations.json", records["coco"])):
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        (output / file).write_text(text, encoding="utf-8", newline="\n")
    for split in ("validation", "test"):
        text = "".join(f"{name}\n" for name in names[split])
        (output / f"{split}.txt").write_text(text, encoding="utf-8", newline="\n")


def drawn_scenes(sizes: Mapping[str, int], seed: int) -> Iterator[tuple[str, str, str, Scene, random.Random]]:
    """Split, source ("ali" or "coco"), file name, scene of each picture, and the generator that then renders it."""
    taken: set[Scene] = set()
    for split, size in sizes.items():
        for number in range(size):
            rng = random.Random(f"{seed}:{split}:{number}")
            scene = draw_scene(rng, folds=FOLDS_OF[split])
            while scene in taken:
                scene = draw_scene(rng, folds=FOLDS_OF[split])
            source = ("ali", "coco")[number % 2]
            yield split, source, f"{source}_{split}_{number:05d}.png", scene, rng
            if split != "train":
                taken.add(scene)


def _ali_records(name: str, scene: Scene, rng: random.Random) -> list[dict]:
    described = {"url": "", "image_id": name, "caption": [caption(scene, "zh", style) for style in (0, 1)]}
    asked = [{"url": "", "image_id": name, "conversations": messages} for messages in _messages(scene, "zh", rng)]
    return [described, *asked]


def _coco_records(name: str, scene: Scene, rng: random.Random) -> list[dict]:
    talks = [_talk((rng.choice(DESCRIBE["en"]), caption(scene, "en"))), *_messages(scene, "en", rng)]
    for messages in talks:
        messages[0]["value"] = "<image>\n" + messages[0]["value"]
    return [{"id": Path(name).stem, "image": name, "conversations": messages} for messages in talks]


def _messages(scene: Scene, language: str, rng: random.Random) -> list[list[dict]]:
    """Conversations in LLaVA's format, with as many questions as TALKS says. No question occurs twice.

    Five questions of eight are first in their conversation, where only the picture answers them. A later one could be
    answered from the answers before it. Three are later, so that the model learns to follow up: of 800 test
    questions asked third, 0.85 were answered correctly, and 0.77 by a model that was taught each question alone.
    """
    asked: dict[str, str] = {}
    while len(asked) < sum(TALKS):
        qa = ask(scene, language, rng)
        asked[qa.question] = qa.answer
    pairs = iter(asked.items())
    return [_talk(*itertools.islice(pairs, size)) for size in TALKS]


def _talk(*pairs: tuple[str, str]) -> list[dict]:
    return [{"from": who, "value": text} for pair in pairs for who, text in zip(("human", "gpt"), pair, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to write, e.g. data/demo/raw")
    parser.add_argument("--train", type=int, default=3000, metavar="N", help="training pictures (default: 3000)")
    parser.add_argument("--validation", type=int, default=100, metavar="N", help="validation pictures (default: 100)")
    parser.add_argument("--test", type=int, default=300, metavar="N", help="test pictures (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    args = parser.parse_args()
    if args.train < 0 or not all(0 <= size <= MOST_TESTED for size in (args.validation, args.test)):
        parser.error(f"--train must be 0 or more, --validation and --test 0 to {MOST_TESTED}")
    try:
        write_raw(args.output, args.train, args.validation, args.test, args.seed, progress=not args.no_progress)
    except OSError as error:
        parser.error(f"cannot write to {args.output}: {error.strerror or error}")


if __name__ == "__main__":
    main()

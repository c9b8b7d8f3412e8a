"""Two drawn worlds that test whether the demo's backbones travel. No pretraining has their words, shapes or styles.

    python -m demo.elsewhere signs --output data/signs        # or: kitchen; --train 9600 for more pictures
    python process_image.py --config data/signs/config.yaml
    python train.py --config data/signs/config.yaml           # language.train=full for the comparison
    python evaluate.py --checkpoint checkpoints/signs --output signs.json

demo/backbones/README.md has what they gave.

Each picture shows one object. Questions ask for its name, colour, pattern and position, or name two of these and want
yes or no. Combinations of the four are split as scenes are in demo/scenes.py: those of the test are in no training
picture.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFilter

from demo.scenes import FOLDS_OF, fold_of

CANVAS = 320  # pixels; pictures are drawn at this size and reduced
Point = tuple[float, float]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Sight:
    """What one picture shows: a key of each of a world's four tables of words."""

    thing: str
    color: str
    fill: str
    place: str


@dataclass(frozen=True)
class World:
    """Words (English: Chinese) of each attribute, and the forms of questions in both languages."""

    words: dict[str, dict[str, str]]
    rgb: dict[str, Color]
    ask: dict[str, tuple[Sequence[str], Sequence[str]]]
    check: tuple[str, str]  # a question for yes or no, with {color} and {thing}
    draw: Callable[[Sight, random.Random], Image.Image]
    suffix: str  # of the pictures' files


# ---------------------------------------------------------------------------------------------- shapes

# Outlines in a box from -1 to 1, y downwards.
OUTLINES: dict[str, Sequence[Point]] = {
    "arrow": [(-1, -0.3), (0.1, -0.3), (0.1, -0.9), (1, 0), (0.1, 0.9), (0.1, 0.3), (-1, 0.3)],
    "cross": [
        (x * sign_x, y * sign_y)
        for sign_x, sign_y, corner in ((1, -1, 1), (1, 1, -1), (-1, 1, 1), (-1, -1, -1))
        for x, y in [(0.33, 1), (0.33, 0.33), (1, 0.33)][::corner]
    ],
    "heart": [
        (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
        for t in (k * math.pi / 30 for k in range(60))
    ],
    "crescent": [(math.cos(t), math.sin(t)) for t in (0.9 + k * (2 * math.pi - 1.8) / 40 for k in range(41))]
    + [
        (0.5 + 0.79 * math.cos(t), 0.79 * math.sin(t)) for t in (-1.4 - k * (2 * math.pi - 2.8) / 40 for k in range(41))
    ],
    "hexagon": [(math.cos(k * math.pi / 3), math.sin(k * math.pi / 3)) for k in range(6)],
    "anchor": [
        (-0.12, -1),
        (0.12, -1),
        (0.12, -0.6),
        (0.5, -0.6),
        (0.5, -0.35),
        (0.12, -0.35),
        (0.12, 0.6),
        (0.6, 0.4),
        (0.5, 0.15),
        (1, 0.1),
        (0.9, 0.6),
        (0.7, 0.55),
        (0, 1),
        (-0.7, 0.55),
        (-0.9, 0.6),
        (-1, 0.1),
        (-0.5, 0.15),
        (-0.6, 0.4),
        (-0.12, 0.6),
        (-0.12, -0.35),
        (-0.5, -0.35),
        (-0.5, -0.6),
        (-0.12, -0.6),
    ],
    "house": [
        (-0.8, 1),
        (-0.8, -0.1),
        (-1, -0.1),
        (0, -1),
        (1, -0.1),
        (0.8, -0.1),
        (0.8, 1),
        (0.25, 1),
        (0.25, 0.3),
        (-0.25, 0.3),
        (-0.25, 1),
    ],
    "tree": [
        (-0.2, 1),
        (-0.2, 0.6),
        (-0.9, 0.6),
        (-0.4, 0),
        (-0.7, 0),
        (0, -1),
        (0.7, 0),
        (0.4, 0),
        (0.9, 0.6),
        (0.2, 0.6),
        (0.2, 1),
    ],
    "fish": [(-1, -0.6), (-0.5, -0.1), (0, -0.5), (0.5, -0.45), (1, 0), (0.5, 0.45), (0, 0.5), (-0.5, 0.1), (-1, 0.6)],
    "cup": [(-0.8, -0.8), (0.5, -0.8), (0.5, -0.5), (1, -0.5), (1, 0.3), (0.42, 0.3), (0.3, 0.9), (-0.6, 0.9)],
    "boat": [(-1, 0.3), (-0.1, 0.3), (-0.1, -1), (0.8, 0.1), (0.1, 0.1), (0.1, 0.3), (1, 0.3), (0.6, 0.9), (-0.6, 0.9)],
    "bottle": [(-0.2, -1), (0.2, -1), (0.2, -0.45), (0.5, -0.15), (0.5, 1), (-0.5, 1), (-0.5, -0.15), (-0.2, -0.45)],
}


def _placed(thing: str, x: float, y: float, radius: float, angle: float) -> list[Point]:
    """The outline of a thing, turned by ``angle`` radians, in pixels of the canvas."""
    cos, sin = math.cos(angle) * radius, math.sin(angle) * radius
    return [(x + cos * px - sin * py, y + sin * px + cos * py) for px, py in OUTLINES[thing]]


def _varied(color: Color, rng: random.Random, by: int) -> Color:
    red, green, blue = (min(255, max(0, c + rng.randint(-by, by))) for c in color)
    return red, green, blue


# ---------------------------------------------------------------------------------------------- signs


def draw_sign(sight: Sight, rng: random.Random) -> Image.Image:
    """A sign on a dark board that is lighter at the top; filled, or hollow with a thick rim. 180 px."""
    low, high = rng.randint(15, 35), rng.randint(50, 80)
    board = Image.linear_gradient("L").resize((CANVAS, CANVAS)).point(lambda v: high + (low - high) * v // 255)
    picture = Image.merge("RGB", (board, board, board.point(lambda v: v + 12)))
    draw = ImageDraw.Draw(picture)
    x = {"left": 0.25, "middle": 0.5, "right": 0.75}[sight.place] * CANVAS + rng.uniform(-8, 8)
    corners = _placed(sight.thing, x, rng.uniform(0.35, 0.65) * CANVAS, rng.uniform(56, 72), rng.uniform(-0.25, 0.25))
    color = _varied(SIGNS.rgb[sight.color], rng, 12)
    if sight.fill == "filled":
        draw.polygon(corners, fill=color)
    else:
        draw.line([*corners, *corners[:2]], fill=color, width=rng.randint(13, 16), joint="curve")
    return picture.resize((180, 180), Image.Resampling.BOX)


SIGNS = World(
    words={
        "thing": {
            "arrow": "箭头",
            "cross": "十字",
            "heart": "爱心",
            "crescent": "月牙",
            "hexagon": "六边形",
            "anchor": "船锚",
        },
        "color": {
            "orange": "橙色",
            "pink": "粉色",
            "teal": "青色",
            "brown": "棕色",
            "silver": "银色",
            "olive": "橄榄色",
        },
        "fill": {"filled": "实心", "hollow": "空心"},
        "place": {"left": "左边", "middle": "正中", "right": "右边"},
    },
    rgb={
        "orange": (240, 125, 20),
        "pink": (250, 150, 195),
        "teal": (0, 150, 150),
        "brown": (140, 80, 40),
        "silver": (195, 195, 200),
        "olive": (130, 140, 30),
    },
    ask={
        "thing": (("Which symbol is on the board?", "Name the symbol."), ("牌子上画着哪种符号？", "说出符号的名称。")),
        "color": (("Which paint was used?", "Name the paint of the symbol."), ("用了哪种颜料？", "符号涂成什么样？")),
        "fill": (("Is the symbol filled or hollow?",), ("符号是实心还是空心？",)),
        "place": (("Which side is the symbol on?", "On what side do you find it?"), ("符号靠哪边？", "它画在哪一侧？")),
    },
    check=("Does the board show a symbol like this: {color} {thing}?", "牌子上画的是{color}{thing}吗？"),
    draw=draw_sign,
    suffix=".png",
)


# ---------------------------------------------------------------------------------------------- kitchen


def draw_kitchen(sight: Sight, rng: random.Random) -> Image.Image:
    """A thing on noisy paper with shelves; plain, striped or dotted, with a dark rim. 72 px, saved as JPEG."""
    paper = _varied((235, 225, 205), rng, 12)
    picture = Image.new("RGB", (CANVAS, CANVAS), paper)
    draw = ImageDraw.Draw(picture)
    for y in (108, 212):
        draw.line((0, y, CANVAS, y), fill=_varied((150, 140, 125), rng, 10), width=5)
    x, shelf = rng.uniform(0.25, 0.75) * CANVAS, {"top": 54, "centre": 160, "bottom": 266}[sight.place]
    corners = _placed(sight.thing, x, shelf + rng.uniform(-5, 5), rng.uniform(46, 52), rng.uniform(-0.15, 0.15))
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    picture.paste(_cloth(_varied(KITCHEN.rgb[sight.color], rng, 10), sight.fill, rng), mask=mask)
    draw.line([*corners, *corners[:2]], fill=(50, 45, 40), width=4, joint="curve")
    grain = np.random.default_rng(rng.getrandbits(32)).normal(128, 60, (CANVAS, CANVAS)).clip(0, 255)
    noise = Image.fromarray(grain.astype(np.uint8)).filter(ImageFilter.GaussianBlur(2)).convert("RGB")
    return Image.blend(picture, noise, rng.uniform(0.05, 0.15)).resize((72, 72), Image.Resampling.BOX)


def _cloth(color: Color, fill: str, rng: random.Random) -> Image.Image:
    """The canvas in one colour, with white stripes or dots 26 pixels apart."""
    cloth = Image.new("RGB", (CANVAS, CANVAS), color)
    draw, shift = ImageDraw.Draw(cloth), rng.randint(0, 25)
    for a in range(shift - 26, CANVAS, 26):
        if fill == "striped":
            draw.line((0, a, CANVAS, a), fill=(250, 250, 250), width=10)
        for b in range(shift - 26, CANVAS, 26) if fill == "dotted" else ():
            draw.ellipse((b, a, b + 14, a + 14), fill=(250, 250, 250))
    return cloth


KITCHEN = World(
    words={
        "thing": {"house": "房子", "tree": "树", "fish": "鱼", "cup": "杯子", "boat": "小船", "bottle": "瓶子"},
        "color": {
            "crimson": "绯红",
            "turquoise": "碧蓝",
            "ochre": "赭黄",
            "navy": "藏青",
            "lavender": "淡紫",
            "jade": "翠绿",
        },
        "fill": {"plain": "素面", "striped": "条纹", "dotted": "圆点"},
        "place": {"top": "上层", "centre": "中层", "bottom": "下层"},
    },
    rgb={
        "crimson": (175, 15, 55),
        "turquoise": (60, 205, 195),
        "ochre": (205, 130, 35),
        "navy": (25, 35, 95),
        "lavender": (175, 150, 225),
        "jade": (20, 150, 85),
    },
    ask={
        "thing": (("What is kept on the shelves?", "Name this thing."), ("架子上放着什么东西？", "这件东西叫什么？")),
        "color": (("What dye does it have?", "Give me its dye."), ("它染成了什么？", "说说它的染料。")),
        "fill": (("What pattern has been printed?", "How is it printed?"), ("印着什么花样？", "它的花样如何？")),
        "place": (("On which shelf?", "Which shelf holds it?"), ("放在哪层？", "哪层架子放着它？")),
    },
    check=("Do the shelves hold this: {color}, {thing}?", "架子上的东西是{color}的{thing}吗？"),
    draw=draw_kitchen,
    suffix=".jpg",
)
WORLDS = {"signs": SIGNS, "kitchen": KITCHEN}


# ---------------------------------------------------------------------------------------------- raw data


def draw_sight(world: World, rng: random.Random, folds: Sequence[int]) -> Sight:
    """A random combination of the world's words whose fold is in ``folds``."""
    while True:
        sight = Sight(**{name: rng.choice(list(table)) for name, table in world.words.items()})
        if fold_of(sight) in folds:
            return sight


def questions(world: World, sight: Sight, zh: bool, rng: random.Random) -> list[tuple[str, str]]:
    """One question for each attribute and two for yes or no, with their answers."""

    def word(attribute: str, key: str) -> str:
        return world.words[attribute][key] if zh else key

    pairs = [(rng.choice(forms[zh]), word(name, getattr(sight, name))) for name, forms in world.ask.items()]
    for _ in range(2):
        thing, color = sight.thing, sight.color
        if wrong := rng.random() < 0.5:
            thing, color = rng.choice(
                [(t, c) for t in world.words["thing"] for c in world.words["color"] if (t == thing) != (c == color)]
            )
        asked = world.check[zh].format(color=word("color", color), thing=word("thing", thing))
        pairs.append((asked, ("不是" if wrong else "是") if zh else ("no" if wrong else "yes")))
    return pairs


def write_world(name: str, output: Path, train: int = 2400, validation: int = 60, test: int = 400) -> None:
    """Draw the pictures of a world; write LLaVA's annotations, the lists of the splits, and a config."""
    world = WORLDS[name]
    (output / "images").mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for split, size in (("train", train), ("validation", validation), ("test", test)):
        files = [f"{split}_{number:05d}{world.suffix}" for number in range(size)]
        for number, file in enumerate(files):
            rng = random.Random(f"{name}:{split}:{number}")
            sight = draw_sight(world, rng, FOLDS_OF[split])
            encoded = io.BytesIO()
            world.draw(sight, rng).save(encoded, "JPEG" if world.suffix == ".jpg" else "PNG", quality=70)
            (output / "images" / file).write_bytes(encoded.getvalue())
            for question, answer in dict(questions(world, sight, bool(number % 2), rng)).items():
                talk = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
                records.append({"image": file, "conversations": talk})
        if split != "train":
            (output / f"{split}.txt").write_text("".join(f"{file}\n" for file in files), encoding="utf-8")
    (output / "annotations.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    (output / "config.yaml").write_text(yaml.safe_dump(world_config(name, output, train), sort_keys=False), "utf-8")


def world_config(name: str, output: Path, train: int) -> dict[str, Any]:
    """demo.yaml with the world's data, one pass over its pictures, and no evaluation before the end.

    An answer belongs to all of a picture with one object, so the projector is aligned first. On signs, 600 steps then
    came to 0.979 instead of 0.719.
    """
    config = yaml.safe_load((Path(__file__).parent.parent / "demo.yaml").read_text(encoding="utf-8"))
    folder = output.as_posix()
    source = {"name": name, "format": "llava", "annotations": f"{folder}/annotations.json", "language": "auto"}
    config["data"] = {
        "sources": [{**source, "images": f"{folder}/images"}],
        **{key: f"{folder}/processed/{key}.json" for key in ("image_map", "annotations", "skipped")},
        **{split: f"{folder}/{split}.txt" for split in ("validation", "test")},
    }
    config["projector"] |= {"align_steps": 300, "learning_rate": 1e-4}
    steps = train // config["train"]["per_device_train_batch_size"]
    config["train"] |= {"run": name, "max_steps": steps, "eval_steps": steps, "save_steps": steps}
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to write, e.g. data/signs")
    parser.add_argument("--train", type=int, default=2400, metavar="N", help="training pictures (default: 2400)")
    args = parser.parse_args()
    write_world(args.world, args.output, args.train)


if __name__ == "__main__":
    main()

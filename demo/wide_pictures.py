"""Pictures of random shapes in random styles, on which the vision tower is trained after the demo's own.

The tower saw four shapes and six colours on light paper. Here are polygons, stars, curves, blocks, arcs of rings and
unions of parts, in any colour and six fills, on plain and patterned backgrounds, with noise and JPEG, saved with 32 to
256 pixels in a row.
No generator aims at a shape of demo/elsewhere.py, whose worlds test how far the tower's sight reaches.
"""

from __future__ import annotations

import colorsys
import io
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from dataset.prompt import IGNORE_INDEX
from demo.scenes import PICTURE_SIZE as SIZE
from demo.vision import PATCH

FILLS = ("solid", "outline", "stripes", "dots", "checks", "gradient")
PLAIN = ("solid", "outline", "gradient")  # those without a period
# Stripes and dots twice: fills were the attribute that a probe read worst, and these two look most alike.
USUAL = (*FILLS, "solid", "stripes", "dots")
SIDE = SIZE // PATCH  # 8 patches
CELLS = 10  # in a row of a silhouette
MASK = 4 * SIDE  # cells in a row of the mask: 4 in a row of a patch
EASY = 0.2  # share of easy pictures among the pairs
MOST = 2  # objects in a picture

Array = NDArray[np.floating]
Shape = list[Array]  # polygons [n, 2] of x and y, in a box from -1 to 1, y downwards; drawn together
Square = tuple[float, float, float]  # x and y of the center, and half of the side, in pixels

ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE].astype(np.float32) - SIZE / 2


@dataclass(frozen=True)
class Pictures:
    """Pictures, and what each tells about its one or two objects. ``*`` is empty for one picture, else their number.

    Shares are in 255ths. If there is no second object, its numbers are 0.
    """

    pixels: torch.Tensor  # [*, 3, 112, 112] uint8
    cover: torch.Tensor  # [*, 2, 8, 8] uint8, the share of each patch that an object covers
    silhouettes: torch.Tensor  # [*, 2, 10, 10] uint8, its shape, drawn as large as fits and in the middle
    mask: torch.Tensor  # [*, 32, 32] uint8, all objects where they are
    fills: torch.Tensor  # [*, 2] int64, index into FILLS
    boxes: torch.Tensor  # [*, 2, 4] float, x, y, radius, log(height / width); all scaled to about -1 .. 1
    colors: torch.Tensor  # [*, 2, 3] float, red, green and blue from -1 to 1
    names: torch.Tensor  # [*, 2] int64, number of its shape in a fixed list, or IGNORE_INDEX

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int | slice | torch.Tensor) -> Pictures:
        return Pictures(*(values[index] for values in vars(self).values()))

    def to(self, device: str) -> Pictures:
        return Pictures(*(values.to(device) for values in vars(self).values()))

    def put(self, number: int, picture: Pictures) -> None:
        """Make a single picture number ``number`` of these."""
        for name, values in vars(picture).items():
            getattr(self, name)[number] = values


# ---------------------------------------------------------------------------------------------- shapes


def _polar(radii: float | Array, angles: Array) -> Array:
    """Corners at these distances from the center. Angle 0 is up; angles grow clockwise."""
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _turned(corners: Array, quarters: int) -> Array:
    """Corners turned clockwise by quarters of a full turn."""
    for _ in range(quarters):
        corners = np.stack([-corners[:, 1], corners[:, 0]], axis=1)
    return corners


def _regular(rng: random.Random) -> Shape:
    """A regular polygon; with 32 corners, a disc. None has six: the hexagon is a shape of demo/elsewhere.py."""
    count = rng.choice((3, 4, 5, 5, 7, 8, 32))
    return [_polar(1, rng.choice((0, math.pi / count)) + 2 * math.pi / count * np.arange(count))]


def _star(rng: random.Random) -> Shape:
    points = rng.randint(3, 9)
    return [_polar(np.tile([1, rng.uniform(0.3, 0.75)], points), math.pi / points * np.arange(2 * points))]


def _curve(rng: random.Random) -> Shape:
    """A closed curve whose radius is a sum of four waves; six of ten are mirror images of themselves."""
    mirrored = rng.random() < 0.6
    angles = 2 * math.pi / 48 * np.arange(48)
    radii = np.full(48, 0.65)
    for waves in (2, 3, 4, 5):
        height, phase = rng.uniform(0, 0.3 / waves**0.5), rng.uniform(0, 2 * math.pi)
        radii += height * (np.cos(waves * angles) if mirrored else np.sin(waves * angles + phase))
    return [_polar(radii.clip(min=0.2), angles)]


def _jagged(rng: random.Random) -> Shape:
    """Four to nine corners at random angles and distances."""
    angles = sorted(rng.uniform(0, 2 * math.pi) for _ in range(rng.randint(4, 9)))
    return [_polar(np.array([rng.uniform(0.35, 1) for _ in angles]), np.array(angles))]


def _arc(rng: random.Random) -> Shape:
    """A ring with a gap."""
    gap, inner, start = rng.uniform(0.2, 1.4), rng.uniform(0.4, 0.8), rng.uniform(0, 2 * math.pi)
    angles = np.linspace(start + gap, start + 2 * math.pi - gap, 30)
    return [np.concatenate([_polar(1, angles), _polar(inner, angles[::-1])])]


def _blocks(rng: random.Random) -> Shape:
    """Connected cells of a grid of 3 x 3 or 4 x 4."""
    side = rng.choice((3, 3, 4))
    cells = {(rng.randrange(side), rng.randrange(side))}
    for _ in range(rng.randint(3, 2 * side)):
        x, y = rng.choice(sorted(cells))
        dx, dy = rng.choice(((0, 1), (1, 0), (0, -1), (-1, 0)))
        if 0 <= x + dx < side and 0 <= y + dy < side:
            cells.add((x + dx, y + dy))
    if rng.random() < 0.4:
        cells |= {(side - 1 - x, y) for x, y in cells}
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (1 / side + 0.01)  # larger than a cell: no seams
    return [square + (2 * np.array(cell) + 1) / side - 1 for cell in sorted(cells)]


def _part(rng: random.Random) -> Array:
    """A rectangle, triangle, trapezoid, kite, ellipse or half of one, turned by quarters."""
    kind = rng.choice(("rectangle", "triangle", "trapezoid", "kite", "ellipse", "half"))
    if kind == "ellipse":
        corners = _polar(1, np.linspace(0, 2 * math.pi, 20))
    elif kind == "half":
        corners = _polar(1, np.linspace(-math.pi / 2, math.pi / 2, 20)) * (1, 2) + (0, 1)
    elif kind == "kite":
        corners = np.array([(0, -1), (1, rng.uniform(-0.5, 0.5)), (0, 1), (-1, rng.uniform(-0.5, 0.5))])
    else:
        top = {"rectangle": 1.0, "triangle": 0.0, "trapezoid": rng.uniform(0.2, 0.8)}[kind]
        corners = np.array([(-top, -1), (top, -1), (1, 1), (-1, 1)])
    return _turned(corners, rng.choice((0, 0, 1, 2, 3)))


def _built(rng: random.Random) -> Shape:
    """Two to four overlapping parts, as large as fits. In six of ten, parts are in the middle or on both sides."""
    mirrored = rng.random() < 0.6
    parts: Shape = []
    for number in range(rng.randint(2, 4)):
        x = rng.uniform(-0.6, 0.6) if number else rng.choice((0, rng.uniform(-0.3, 0.3)))
        y = rng.uniform(-0.6, 0.6) if number else 0
        if mirrored and rng.random() < 0.6:
            x = 0
        parts.append(_part(rng) * (rng.uniform(0.12, 0.75), rng.uniform(0.12, 0.75)) + (x, y))
        if mirrored and x:
            parts.append(parts[-1] * (-1, 1))
    quarters = rng.randrange(4)
    return [_turned(part, quarters) for part in _fitted(parts)]


GENERATORS = (_regular, _star, _curve, _jagged, _arc, _blocks, _blocks, _built, _built, _built, _built)


def draw_shape(rng: random.Random) -> Shape:
    return rng.choice(GENERATORS)(rng)


def _extent(shape: Shape) -> tuple[Array, Array]:
    """The center and the width and height of the box around a shape."""
    corners = np.concatenate(shape)
    low, high = corners.min(0), corners.max(0)
    return (low + high) / 2, high - low


def _fitted(shape: Shape) -> Shape:
    """A shape moved and scaled so that its longer side is from -1 to 1."""
    center, sides = _extent(shape)
    return [2 * (part - center) / sides.max() for part in shape]


def _tilted(shape: Shape, rng: random.Random) -> Shape:
    """A shape scaled by 0.85 to 1.1 in each direction, then turned by a normal angle of 9 degrees' deviation."""
    angle = rng.gauss(0, 0.15)
    stretch = (rng.uniform(0.85, 1.1), rng.uniform(0.85, 1.1))
    rotation = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    return [(part * stretch) @ rotation for part in shape]


def filled(shape: Shape, square: Square, side: int, fine: int) -> Array:
    """[side, side], the share of each pixel that a shape covers, drawn ``fine`` times as large and reduced."""
    x, y, half = square
    picture = Image.new("L", (side * fine, side * fine))
    draw = ImageDraw.Draw(picture)
    for part in shape:
        draw.polygon(((part * half + (x, y)) * fine).ravel().tolist(), fill=255)
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX), np.float32) / 255


def silhouette(shape: Shape) -> Array:
    """[10, 10], the share of each cell that a shape covers, when it is drawn as large as fits and in the middle."""
    return filled(_fitted(shape), (CELLS / 2, CELLS / 2, CELLS / 2), CELLS, 4)


# ---------------------------------------------------------------------------------------------- paint


def _color(rng: random.Random) -> Array:
    """[3], levels from 0 to 255, of any hue and lightness; one in four is gray."""
    saturation = rng.choice((0.0, rng.uniform(0.15, 1), rng.uniform(0.5, 1), rng.uniform(0.5, 1)))
    return 255 * np.array(colorsys.hls_to_rgb(rng.random(), rng.uniform(0.08, 0.92), saturation), np.float32)


def _along(angle: float) -> Array:
    """[112, 112], how many pixels each pixel lies from the middle in a direction."""
    return COLUMNS * math.cos(angle) + ROWS * math.sin(angle)


def _background(color: Array, rng: random.Random) -> Array:
    """[112, 112, 3], a colour alone in four of ten; else with a ramp, waves, lines or spots of 4 to 30 levels."""
    kind, along = rng.random(), _along(rng.uniform(0, 2 * math.pi))
    pattern: Array = np.zeros((SIZE, SIZE), np.float32)
    if 0.4 <= kind < 0.6:
        pattern = along / (SIZE / 2)
    elif 0.6 <= kind < 0.75:
        pattern = np.sin(along / rng.uniform(1, 12))
    elif 0.75 <= kind < 0.85:
        pattern = 2 * _lines(rng)
    elif kind >= 0.85:
        count = rng.randint(4, 40)  # spots in a row
        spots = Image.frombytes("L", (count, count), rng.randbytes(count * count))
        pattern = np.asarray(spots.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32) / 128 - 1
    return color + rng.uniform(4, 30) * pattern[..., None]


def _lines(rng: random.Random) -> Array:
    """[112, 112], one to four lines of -1 or 1, of which seven in ten are horizontal."""
    pattern = np.zeros((SIZE, SIZE), np.float32)
    for _ in range(rng.randint(1, 4)):
        start, width, sign = rng.randrange(SIZE), rng.randint(1, 3), rng.choice((-1, 1))
        across = pattern if rng.random() < 0.7 else pattern.T
        across[start : start + width] = sign
    return pattern


def paint(fill: str, color: Array, period: float, rng: random.Random) -> Array:
    """[3] or [112, 112, 3], what an object is filled with: its colour, and with a pattern also a second colour.

    ``period`` is in pixels. Between the two colours is a ramp of about a pixel. With hard edges, fine stripes at an
    angle had stairs, which no photograph has.
    """
    if fill in ("solid", "outline"):
        return color
    angle, phase = rng.choice((0, math.pi / 2, rng.uniform(0, math.pi))), rng.uniform(0, 2 * math.pi)
    wave, across = (np.sin(2 * math.pi / period * _along(a) + phase) for a in (angle, angle + math.pi / 2))
    above = {
        "stripes": wave - rng.uniform(-0.3, 0.6),
        "dots": wave + across - rng.uniform(0.4, 1.2),
        "checks": wave * across,
    }
    share = (1 + wave) / 2 if fill == "gradient" else np.clip(0.5 + period / (2 * math.pi) * above[fill], 0, 1)
    return color + share.astype(np.float32)[..., None] * (_second_color(color, rng) - color)


def _second_color(color: Array, rng: random.Random) -> Array:
    """Half are the same colour, lighter or darker; one in five is nearly white or black; others are any colour.

    It differs from the first by 110 levels or more, in red, green and blue together.
    """
    while True:
        kind = rng.random()
        if kind < 0.5:
            second = (color + rng.choice((-1, 1)) * rng.uniform(40, 180)).clip(0, 255)
        elif kind < 0.7:
            second = np.full(3, rng.choice((rng.uniform(0, 25), rng.uniform(230, 255))), np.float32)
        else:
            second = _color(rng)
        if np.abs(second - color).sum() >= 110:
            return second


def _fill_and_period(radius: float, finest: float, rng: random.Random) -> tuple[str, float]:
    """A fill, and a period of which two fit into the object's square. If not even ``finest`` fits, a plain fill.

    A gradient has half of a period in the square. When it went once over the whole picture, an object of radius 9 had a
    sixth of it, often less than 10 levels, and could not be told from a solid one.
    """
    coarsest = 0.9 * radius
    fill = rng.choice(USUAL if coarsest > finest else PLAIN)
    return fill, 4 * radius if fill in PLAIN else finest * (coarsest / finest) ** rng.random()


def _rim(own: Array, width: float) -> Array:
    """[112, 112], the part of a mask that is less than about ``width`` pixels from its edge."""
    blurred = Image.fromarray((own * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(width))
    return own * np.clip((0.97 - np.asarray(blurred, np.float32) / 255) * 6, 0, 1)


def _paint_object(image: Array, own: Array, fill: str, painted: Array, thinnest: float, rng: random.Random) -> None:
    """Paint an object into ``image`` [112, 112, 3], where its mask ``own`` is; one filled in four gets a rim."""
    drawn = _rim(own, max(thinnest, rng.uniform(1.5, 3.5))) if fill == "outline" else own
    image += drawn[..., None] * (painted - image)
    if fill != "outline" and rng.random() < 0.25:
        edge = _color(rng) if rng.random() < 0.4 else np.float32(rng.choice((20, 50, 240)))
        image += _rim(own, rng.uniform(1, 2.6))[..., None] * (edge - image)


def _resolution(rng: random.Random) -> int:
    """The side in pixels that a picture was saved with: 112 in one of four, else 32 to 256, each octave as often."""
    return SIZE if rng.random() < 0.25 else round(32 * 8 ** rng.random())


def _degraded(image: Array, side: int, rng: random.Random) -> Array:
    """[112, 112, 3], as if it had been ``side`` pixels wide: half of the pictures by JPEG; three of ten get noise."""
    if side != SIZE or rng.random() < 0.5:
        saved = Image.fromarray(image.clip(0, 255).astype(np.uint8))
        saved = saved.resize((side, side), Image.Resampling.BOX if side < SIZE else Image.Resampling.BICUBIC)
        if side == SIZE or rng.random() < 0.5:
            encoded = io.BytesIO()
            saved.save(encoded, "JPEG", quality=rng.randint(50, 95))
            saved = Image.open(encoded).convert("RGB")
        image = np.asarray(saved.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
    if rng.random() < 0.3:
        grain = np.random.default_rng(rng.getrandbits(32)).standard_normal(image.shape, np.float32)
        image = image + rng.uniform(1, 10) * grain
    return image


# ---------------------------------------------------------------------------------------------- pictures


def draw_picture(
    shapes: Sequence[Shape], rng: random.Random, easy: bool = False, names: Sequence[int] = (IGNORE_INDEX,) * MOST
) -> Pictures:
    """One picture of one or two shapes. The second is left out if there is no room for it.

    An easy picture has a plain background, larger shapes that are solid, and full quality.
    """
    ground, side = _color(rng), SIZE if easy else _resolution(rng)
    # 3.5 pixels of the saved picture are a period, and a quarter of that an outline, that can be seen after JPEG.
    finest = max(4.0, 3.5 * SIZE / side)
    image = np.tile(ground, (SIZE, SIZE, 1)) if easy else _background(ground, rng)
    picture = blank(())
    everything = np.zeros((SIZE, SIZE), np.float32)
    squares: list[Square] = []
    for number, (shape, name) in enumerate(zip(shapes, names, strict=False)):
        square = _free_square(squares, (16, 26) if easy else (9, 28), rng)
        if square is None:
            break
        squares.append(square)
        shape, color = _tilted(shape, rng), _color_unlike(ground, rng)
        fill, period = ("solid", finest) if easy else _fill_and_period(square[2], finest, rng)
        own = filled(shape, square, SIZE, 2)
        everything = np.maximum(everything, own)
        _paint_object(image, own, fill, paint(fill, color, period, rng), finest / 4, rng)
        picture.cover[number] = _shares(own.reshape(SIDE, PATCH, SIDE, PATCH).mean((1, 3)))
        picture.silhouettes[number] = _shares(silhouette(shape))
        picture.fills[number] = FILLS.index(fill)
        picture.boxes[number] = _box(shape, square)
        picture.colors[number] = torch.from_numpy(color) / 127.5 - 1
        picture.names[number] = name
    levels = (image if easy else _degraded(image, side, rng)).clip(0, 255).astype(np.uint8)
    picture.pixels[:] = torch.from_numpy(levels).permute(2, 0, 1)
    reduced = Image.fromarray(everything).resize((MASK, MASK), Image.Resampling.BOX)
    picture.mask[:] = _shares(np.asarray(reduced))
    return picture


def blank(count: tuple[int, ...]) -> Pictures:
    """Pictures with 0 everywhere and IGNORE_INDEX as names; ``count`` is () or (number of pictures,)."""

    def shares(*size: int) -> torch.Tensor:
        return torch.zeros(*count, *size, dtype=torch.uint8)

    return Pictures(
        pixels=shares(3, SIZE, SIZE),
        cover=shares(MOST, SIDE, SIDE),
        silhouettes=shares(MOST, CELLS, CELLS),
        mask=shares(MASK, MASK),
        fills=torch.zeros(*count, MOST, dtype=torch.long),
        boxes=torch.zeros(*count, MOST, 4),
        colors=torch.zeros(*count, MOST, 3),
        names=torch.full((*count, MOST), IGNORE_INDEX),
    )


def _shares(shares: Array) -> torch.Tensor:
    """Shares from 0 to 1 in 255ths, uint8."""
    return torch.from_numpy((shares * 255).round().astype(np.uint8))


def _box(shape: Shape, square: Square) -> torch.Tensor:
    """[4], x, y and radius of the square, and the logarithm of the shape's height over its width."""
    x, y, radius = square
    _, (width, height) = _extent(shape)
    ratio = min(5, max(0.2, height / max(0.05, width)))
    return torch.tensor([x / (SIZE / 2) - 1, y / (SIZE / 2) - 1, radius / 14 - 1.3, math.log(ratio)])


def _free_square(taken: Sequence[Square], radii: tuple[int, int], rng: random.Random) -> Square | None:
    """A square within the picture that touches none that is taken; None if 30 tries find none."""
    for _ in range(30):
        radius = rng.uniform(*radii)
        x, y = (rng.uniform(0.95 * radius, SIZE - 0.95 * radius) for _ in range(2))
        if all(max(abs(x - other[0]), abs(y - other[1])) > radius + other[2] for other in taken):
            return x, y, radius
    return None


def _color_unlike(ground: Array, rng: random.Random) -> Array:
    """A colour that differs from the background's by 110 levels or more, in red, green and blue together."""
    while True:
        color = _color(rng)
        if np.abs(color - ground).sum() >= 110:
            return color


def draw_pairs(count: int, rng: random.Random) -> Pictures:
    """Pictures of which every two in a row have the same first shape, in styles of their own."""
    pictures = blank((count,))
    for number in range(count):
        if number % 2 == 0:
            first = draw_shape(rng)
        easy = rng.random() < EASY
        second = [] if easy or rng.random() < 2 / 3 else [draw_shape(rng)]
        pictures.put(number, draw_picture([first, *second], rng, easy))
    return pictures


def draw_named(count: int, rng: random.Random, shapes: Sequence[Shape]) -> Pictures:
    """Pictures of one or two shapes of a list, with their numbers in it as ``names``."""
    pictures = blank((count,))
    for number in range(count):
        names = [rng.randrange(len(shapes)) for _ in range(rng.choice((1, 1, 2)))]
        pictures.put(number, draw_picture([shapes[name] for name in names], rng, names=names))
    return pictures


# ---------------------------------------------------------------------------------------------- variations


def mirrored(pictures: Pictures, axis: int) -> Pictures:
    """Pictures with left and right (axis 0), top and bottom (1), or rows and columns (2) exchanged."""
    changes: tuple[Callable[[torch.Tensor], torch.Tensor], ...]
    changes = (lambda plane: plane.flip(-1), lambda plane: plane.flip(-2), lambda plane: plane.mT)
    planes = {name: changes[axis](getattr(pictures, name)) for name in ("pixels", "cover", "silhouettes", "mask")}
    x, y, radius, ratio = pictures.boxes.unbind(-1)
    boxes = ((-x, y, radius, ratio), (x, -y, radius, ratio), (y, x, radius, -ratio))[axis]
    return replace(pictures, boxes=torch.stack(boxes, -1), **planes)


def recolored(pictures: Pictures, channels: Sequence[int], negative: bool) -> Pictures:
    """Pictures with their three channels in another order, and as negatives if that is asked for."""
    # Stacked, as an index of a list would be sent to a GPU and wait for it.
    pixels = torch.stack([pictures.pixels[..., channel, :, :] for channel in channels], -3)  # [*, 3, 112, 112]
    colors = torch.stack([pictures.colors[..., channel] for channel in channels], -1)  # [*, 2, 3]
    if negative:
        pixels, colors = 255 - pixels, -colors
    return replace(pictures, pixels=pixels, colors=colors)

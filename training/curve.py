"""The loss curve of a run as an SVG picture, drawn from its metrics.jsonl. Any browser opens it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from common.files import write_text

Points = list[tuple[float, float]]  # (step, loss)

WIDTH, HEIGHT = 860, 480
LEFT, RIGHT, TOP, BOTTOM = 72, 24, 48, 56  # margins around the plot
RAW, SMOOTH, VALIDATION, OTHER_PICTURE = "#9ec5e8", "#1f5fa8", "#d9641e", "#8f6ab8"
GRID, TEXT = "#e3e3e3", "#333333"
MOST_POINTS = 1000  # of a line: more than there are pixels only make the file larger
LOG_SCALE_FROM = 10  # the largest loss over the smallest: on a linear scale, the end of such a run is a flat line


class Losses(NamedTuple):
    """(step, loss) of the training batches, of the validation split, and of that split with other pictures."""

    training: Points
    validation: Points
    other_picture: Points


def draw_curve(metrics: Path, target: Path, title: str) -> None:
    """Write the picture; nothing where no loss has been logged yet. The file appears complete or not at all."""
    losses = read_losses(metrics)
    if losses.training or losses.validation:
        write_text(target, svg(losses, title))


def read_losses(metrics: Path) -> Losses:
    losses = Losses([], [], [])
    keys = ("loss", "eval_loss", "eval_loss_other_picture")
    for line in metrics.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        for key, points in zip(keys, losses, strict=True):
            if entry.get(key) is not None:
                points.append((entry["step"], entry[key]))
    return losses


def smooth(points: Points, span: int) -> Points:
    """Exponential mean over about ``span`` points, whose first values are not pulled towards zero."""
    keep = 1 - 2 / (span + 1)
    total = weight = 0.0
    smoothed: Points = []
    for step, loss in points:
        total, weight = keep * total + loss, keep * weight + 1
        smoothed.append((step, total / weight))
    return smoothed


def thin(points: Points, most: int = MOST_POINTS) -> Points:
    """At most ``most`` of the points, evenly spread, the last one among them."""
    stride = max(1, math.ceil(len(points) / most))
    return points[::-1][::stride][::-1]


def svg(losses: Losses, title: str) -> str:
    training, validation, other_picture = losses
    axes = Axes(training + validation + other_picture)
    span = max(2, round(len(training) / 25))
    body = [*axes.frame()]
    legend = []
    if training:
        body.append(axes.line(thin(training), RAW, 1))
        if len(training) < 10:  # a line of one point is invisible
            body += [axes.dot(point, SMOOTH) for point in training]
        body.append(axes.line(thin(smooth(training, span)), SMOOTH, 2))
        legend += [("training loss", RAW), (f"smoothed over {span} logs", SMOOTH)]
    for points, color, name in (
        (validation, VALIDATION, "validation loss"),
        (other_picture, OTHER_PICTURE, "with other pictures"),
    ):
        if points:
            body.append(axes.line(thin(points), color, 1.5))
            body += [axes.dot(point, color) for point in thin(points, 100)]
            legend.append((name, color))
    for row, (name, color) in enumerate(legend):
        y = TOP + 18 + 18 * row
        body.append(f'<rect x="{WIDTH - RIGHT - 180}" y="{y - 3}" width="22" height="4" fill="{color}"/>')
        body.append(text(WIDTH - RIGHT - 150, y, name))
    body.append(text(LEFT, 28, title, size=16))
    body.append(text(LEFT + axes.width / 2, HEIGHT - 14, "optimiser step", anchor="middle"))
    scale = ", log scale" if axes.log else ""
    body.append(text(18, TOP + axes.height / 2, f"loss (nats per token{scale})", anchor="middle", turned=True))
    lines = "\n".join(body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif">\n<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n{lines}\n</svg>\n'
    )


def text(x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{TEXT}" text-anchor="{anchor}" '
        f'dominant-baseline="middle"{turn}>{escape(words)}</text>'
    )


class Axes:
    """Where a point is in the picture, and the grid with its numbers."""

    def __init__(self, points: Points) -> None:
        self.width, self.height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        losses = [loss for _, loss in points]
        low, high = min(losses), max(losses)
        self.log = low > 0 and high / low >= LOG_SCALE_FROM
        self.last = max(1.0, max(step for step, _ in points))
        if self.log:
            self.ticks = log_ticks(low, high)
            self.low, self.high = math.log(min(low, self.ticks[0])), math.log(max(high, self.ticks[-1]))
        else:
            self.ticks = nice_ticks(low, high)
            self.low, self.high = self.ticks[0], self.ticks[-1]

    def x(self, step: float) -> float:
        return LEFT + self.width * step / self.last

    def y(self, loss: float) -> float:
        value = math.log(loss) if self.log else loss
        return TOP + self.height * (self.high - value) / (self.high - self.low)

    def line(self, points: Points, color: str, width: float) -> str:
        at = " ".join(f"{self.x(step):.1f},{self.y(loss):.1f}" for step, loss in points)
        return f'<polyline points="{at}" fill="none" stroke="{color}" stroke-width="{width}" stroke-linejoin="round"/>'

    def dot(self, point: tuple[float, float], color: str) -> str:
        return f'<circle cx="{self.x(point[0]):.1f}" cy="{self.y(point[1]):.1f}" r="3" fill="{color}"/>'

    def frame(self) -> list[str]:
        bottom, right = TOP + self.height, LEFT + self.width
        parts = []
        for tick in self.ticks:
            y = self.y(tick)
            parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{GRID}"/>')
            parts.append(text(LEFT - 8, y, f"{tick:g}", anchor="end"))
        for step in nice_ticks(0, self.last):
            if step <= self.last and step == int(step):
                x = self.x(step)
                parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="{GRID}"/>')
                parts.append(text(x, bottom + 16, f"{step:,.0f}", anchor="middle"))
        parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="{TEXT}"/>')
        return parts


def nice_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, from at most ``low`` to at least ``high``."""
    room = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(room / about))
    stride = next(factor * power for factor in (1, 2, 5, 10) if room / (factor * power) <= about)
    first, last = math.floor(low / stride + 1e-9), math.ceil(high / stride - 1e-9)
    return [round(number * stride, 12) for number in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, those between ``low`` and ``high`` and the next one on either side."""
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    every: Sequence[float] = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    first = max(number for number, tick in enumerate(every) if tick <= low)
    last = min(number for number, tick in enumerate(every) if tick >= high)
    return [float(f"{tick:.1g}") for tick in every[first : last + 1]]

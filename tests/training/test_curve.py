"""The picture of the losses."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from training.curve import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axes,
    draw_curve,
    log_ticks,
    nice_ticks,
    smooth,
    thin,
)

NAME = "{http://www.w3.org/2000/svg}"


def write_metrics(file, entries):
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return file


def drawn(tmp_path, entries, title="run"):
    draw_curve(write_metrics(tmp_path / "metrics.jsonl", entries), tmp_path / "loss.svg", title)
    root = ET.fromstring((tmp_path / "loss.svg").read_text(encoding="utf-8"))
    words = [element.text for element in root.iter(f"{NAME}text")]
    lines = [
        [tuple(map(float, point.split(","))) for point in element.get("points").split()]
        for element in root.iter(f"{NAME}polyline")
    ]
    return words, lines, list(root.iter(f"{NAME}circle"))


def test_training_smoothed_and_validation_losses_have_axes_with_names(tmp_path):
    entries = [{"step": 10 * n, "loss": 2.0 - n / 100} for n in range(1, 101)]
    entries += [{"step": 500, "eval_loss": 1.6}, {"step": 1000, "eval_loss": 1.2}]
    words, lines, dots = drawn(tmp_path, entries, "run <7> & more")
    assert words[-3:] == ["run <7> & more", "optimiser step", "loss (nats per token)"]
    assert {"training loss", "smoothed over 4 logs", "validation loss", "1,000", "1.2"} <= set(words)
    raw, smoothed, validation = lines
    assert len(raw) == len(smoothed) == 100 and len(validation) == len(dots) == 2
    assert raw[-1][0] == WIDTH - RIGHT and raw[-1][1] == pytest.approx(HEIGHT - BOTTOM)  # step 1000, loss 1.0
    assert raw[0][1] > TOP and raw[0][0] == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) / 100, abs=0.1)
    assert validation[0][0] == pytest.approx((LEFT + WIDTH - RIGHT) / 2, abs=0.1)
    assert [y for _, y in raw] == sorted(y for _, y in raw)  # a loss that falls goes down


def test_a_loss_that_falls_by_ten_times_is_on_a_log_scale(tmp_path):
    words, (raw, _), _ = drawn(tmp_path, [{"step": n, "loss": 10 / 2**n} for n in range(1, 9)])
    assert "loss (nats per token, log scale)" in words
    falls = [after - before for (_, before), (_, after) in zip(raw, raw[1:], strict=False)]
    assert max(falls) - min(falls) < 0.3  # halving is the same distance everywhere; written to 0.1


def test_one_point_is_visible_and_no_point_makes_no_picture(tmp_path):
    _, _, dots = drawn(tmp_path, [{"step": 1, "loss": 3.0}])
    assert len(dots) == 1
    draw_curve(write_metrics(tmp_path / "none.jsonl", [{"step": 1, "loss": None}]), tmp_path / "none.svg", "run")
    assert not (tmp_path / "none.svg").exists()


def test_smoothing_starts_at_the_first_value_and_keeps_a_constant():
    assert smooth([(1, 5.0), (2, 5.0), (3, 5.0)], 3) == [(1, 5.0), (2, 5.0), (3, pytest.approx(5.0))]
    assert smooth([(1, 4.0), (2, 1.0)], 3) == [(1, 4.0), (2, pytest.approx(2.0))]  # (4 / 2 + 1) / 1.5


def test_long_lines_are_thinned_and_keep_their_end():
    points = [(float(n), 1.0) for n in range(4321)]
    assert len(thin(points, 1000)) <= 1000 and thin(points, 1000)[-1] == (4320, 1.0)
    assert thin(points[:1000], 1000) == points[:1000]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.99), (2.0, 2.0), (0, 1600), (1e-5, 3e-5), (-1, 1)])
def test_ticks_enclose_the_values_and_are_few(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 9


def test_ticks_of_a_log_scale():
    assert log_ticks(0.3, 11.5) == [0.2, 0.5, 1, 2, 5, 10, 20] and log_ticks(1, 10) == [1, 2, 5, 10]


def test_every_point_is_inside_the_plot():
    points = [(float(n), 0.001 * 3**n) for n in range(12)]
    axes = Axes(points)
    assert all(LEFT <= axes.x(s) <= WIDTH - RIGHT and TOP <= axes.y(v) <= HEIGHT - BOTTOM + 1e-6 for s, v in points)

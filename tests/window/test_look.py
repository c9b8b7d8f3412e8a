"""Colours that can be read, and the scale of the screen."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("tkinter", reason="this Python has no Tk")

from window.look import DARK, LIGHT, screen_scale  # noqa: E402


def test_the_scale_is_the_screens_or_the_desktops_and_never_below_one(monkeypatch):
    inch = lambda pixels: SimpleNamespace(winfo_fpixels=lambda length: {"1i": pixels}[length])  # noqa: E731
    monkeypatch.delenv("GDK_SCALE", raising=False)
    assert [screen_scale(inch(pixels)) for pixels in (192.0, 96.0, 72.0)] == [2.0, 1.0, 1.0]
    monkeypatch.setenv("GDK_SCALE", "2")
    assert screen_scale(inch(96.0)) == 2.0


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio, from 1 to 21, of two colours as #rrggbb."""

    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_every_text_can_be_read_on_its_ground():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for c in (LIGHT, DARK):
        pairs = [(c.text, ground) for ground in (c.ground, c.surface, c.button, c.button_over, c.question, c.marked)]
        pairs += [(c.muted, c.ground), (c.muted, c.surface), (c.on_warning, c.warning), (c.on_warning, c.ground)]
        pairs += [(c.on_accent, c.accent), (c.on_accent, c.accent_over)]
        pairs += [(c.accent, ground) for ground in (c.ground, c.surface, c.question)]  # actions under an answer, boxes
        assert min(contrast(*pair) for pair in pairs) >= 4.5


def test_edges_and_focus_rings_are_seen():
    """WCAG's 3 : 1 for what shows a control or its state, to the ground on each side of it."""
    for c in (LIGHT, DARK):
        edges = [(edge, ground) for edge in (c.edge, c.accent, c.muted) for ground in (c.ground, c.surface)]
        edges += [(c.edge, c.button), (c.accent, c.button), (c.accent, c.question), (c.text, c.ground)]
        assert min(contrast(*pair) for pair in edges) >= 3

"""The page of two runs: their differences in rows, and the questions that they answer differently."""

from __future__ import annotations

import pytest

from evaluation.compare import differences, paired
from evaluation.html.comparison import comparison_content, write_comparison
from tests.helpers.results import draw, line, result, wrong


@pytest.fixture
def runs(tmp_path):
    """Two runs: ten newly right, one newly wrong, one with another wrong answer, a caption, and one in each alone."""
    paths = draw(tmp_path, 12)
    both = [(wrong(i, [path]), line(i, [path])) for i, path in enumerate(paths[:10])]
    both.append((line(10, paths[10:11]), wrong(10, paths[10:11])))
    both.append((wrong(11, paths[11:]), wrong(11, paths[11:]) | {"prediction": "pink"}))
    both.append((line(12, type="caption", score=None), line(12, type="caption", score=None)))
    old, new = [a for a, _ in both], [b for _, b in both]
    first = result([*old, line(13)], checkpoint="checkpoints/demo/checkpoint-1")
    return first, result([*new, line(14)], checkpoint="checkpoints/demo/checkpoint-2")


def content(a, b) -> dict:
    pairs = paired(a, b)
    return comparison_content(a, b, pairs, differences(pairs))


def test_only_questions_that_are_answered_differently_are_shown_with_both_answers(runs):
    found = content(*runs)
    answers = {one["id"]: [(a["text"], a["score"]) for a in one["answers"]] for one in found["questions"]}
    assert answers == {
        **{f"s/{i}": [("green", 0.0), ("red", 1.0)] for i in range(10)},
        "s/10": [("red", 1.0), ("green", 0.0)],
        "s/11": [("green", 0.0), ("pink", 0.0)],
    }
    assert (found["counts"]["listed"], found["counts"]["gained"], found["counts"]["lost"]) == (12, 10, 1)
    assert found["runs"] == ["demo / checkpoint-1", "demo / checkpoint-2"]


def test_a_row_has_both_scores_and_their_difference_and_a_group_without_scores_has_none(runs):
    found = content(*runs)["rows"]
    assert [(one["kind"], one["name"]) for one in found] == [
        ("all", ""), ("type", "color"), ("language", "en"), ("source", "shapes"),
    ]  # fmt: skip
    assert [one["score"] for one in found[0]["series"]] == pytest.approx([1 / 12, 10 / 12])
    assert found[0]["difference"]["difference"] == pytest.approx(0.75) and found[0]["difference"]["clear"] is True


def test_the_page_in_a_browser(runs, chromium, tmp_path):
    pairs = paired(*runs)
    file = write_comparison(*runs, pairs, differences(pairs), tmp_path / "comparison.html")
    chromium.size(375, 800)
    chromium.open(file, "language=en&sort=data")

    def text(selector):
        return " ".join(chromium.run(f"document.querySelector({selector!r}).innerText").split())

    verdict = "B less A: +0.750 ± 0.179 clearly higher Run A demo / checkpoint-1 Run B demo / checkpoint-2"
    assert text(".verdict") == verdict
    assert text(".row.type") == "colour 12 +0.750 ± 0.179 clearly higher"
    assert text("button.card") == "Changed answers 12 10 newly right, 1 newly wrong; show them"
    assert text(".question .answers") == "Run A green wrong Run B red right Reference red"
    chromium.run("change({show: 'lost'})")
    assert text("#found").startswith("1 of 12 questions") and "Run A red right" in text(".question .answers")
    chromium.run("openQuestion(0)")
    assert text(".line.own") == "Run A red right"
    chromium.press("Escape")
    chromium.press("l")
    assert text(".verdict h2").startswith("B 减 A") and "评测 A" in text("#legend")
    assert chromium.run("document.documentElement.scrollWidth") == 375
    assert chromium.complaints() == []

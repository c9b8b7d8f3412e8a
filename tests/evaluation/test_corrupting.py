"""Worse pictures: the score falls where the picture tells, and stays where it does not."""

from __future__ import annotations

import json

import evaluate
from answering.assistant import Assistant
from common.errors import UserError
from tests.helpers.evaluating import guesses


def dominant(image) -> str:
    """The strongest channel at the first pixel; "grey" where it is covered."""
    pixel = image.getpixel((0, 0))
    return "grey" if len(set(pixel)) == 1 else ("red", "green", "blue")[pixel.index(max(pixel))]


def run(data, monkeypatch, answer) -> dict:
    monkeypatch.setattr("tests.helpers.evaluating.color_of", answer)
    output = data / "out" / "result.json"
    arguments = ["--checkpoint", str(data / "checkpoint-1"), "--output", str(output), "--corrupt"]
    assert evaluate.main(arguments) == 0
    assert '"corruptions":{' in output.with_suffix(".html").read_text(encoding="utf-8")
    return json.loads(output.read_text(encoding="utf-8"))["corruptions"]


def no_map(self, request):
    raise UserError("no map")


def test_a_model_that_looks_loses_where_the_picture_is_hidden(data, stub, monkeypatch, capsys):
    from tests.helpers import evaluating

    stub(lambda question, seen: evaluating.looks(question, seen) if seen[:1] != ["grey"] else "unknown")
    monkeypatch.setattr(Assistant, "where_it_looks", no_map)
    found = run(data, monkeypatch, dominant)
    scores = {row["kind"]: [mean["mean"] for mean in row["scores"]] for row in found["kinds"]}
    assert set(scores) == {"noise", "blur", "occlusion", "low resolution"}
    assert scores["blur"] == scores["low resolution"] == [1.0] * 4  # of pictures of one colour
    assert scores["occlusion"][3] < scores["occlusion"][0] == 1.0
    assert found["blind"]["mean"] < 1
    assert "Worse pictures, at strength 0 to 3" in capsys.readouterr().out


def test_a_model_that_guesses_loses_nothing_and_the_same_seed_gives_the_same_scores(data, stub, monkeypatch):
    stub(guesses)
    monkeypatch.setattr(Assistant, "where_it_looks", no_map)
    found = run(data, monkeypatch, dominant)
    for row in found["kinds"]:
        assert len({mean["mean"] for mean in row["scores"]}) == 1
    assert run(data, monkeypatch, dominant) == found

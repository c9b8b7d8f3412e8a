"""Worse pictures: the score falls where the picture tells, and stays where it does not."""

from __future__ import annotations

import json
from itertools import groupby

import numpy as np
import pytest

import evaluate
from answering.assistant import Assistant
from answering.attention_map import AttentionMap
from common.errors import UserError
from dataset.prompt import Request
from evaluation.corrupting import LOOKED_AT
from evaluation.result import read_result
from evaluation.resuming import Saver
from tests.helpers.evaluating import Crash, crashing, guesses


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


def test_one_worse_picture_is_shown_to_all_questions_about_it_one_after_another(data, stub, monkeypatch):
    model = stub(guesses)
    monkeypatch.setattr(Assistant, "where_it_looks", no_map)
    run(data, monkeypatch, dominant)
    worse = model.requests[36 + 30 + 30 :]  # after the questions and both probes
    assert len(worse) == 4 * 3 * 30
    runs = [list(same) for _, same in groupby(worse, key=lambda request: id(request.images[0]))]
    assert len(runs) == 4 * 3 * 12  # pictures, none of them made twice
    assert [len(same) for same in runs].count(3) == 4 * 3 * 6  # two English questions and a Chinese one


def test_the_most_looked_at_parts_are_hidden_for_each_question(data, stub, monkeypatch):
    model = stub(guesses)
    left, right = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])

    def where_it_looks(self, request: Request) -> AttentionMap:
        looked_at = left if "Is it" in request.turns[0].question else right
        return AttentionMap(request.turns[0].answer, [(0, 1)], looked_at[None])

    monkeypatch.setattr(Assistant, "where_it_looks", where_it_looks)
    found = run(data, monkeypatch, dominant)
    assert [row["kind"] for row in found["kinds"]][-1] == LOOKED_AT
    last = [request for request in model.requests[36 + 30 + 30 :] if half_hidden(request.images[0])]
    assert len(last) == 30  # strength 3 hides a half
    for request in last:
        hidden = 0 if "Is it" in request.turns[0].question else 3
        assert request.images[0].getpixel((hidden, 0)) == (128, 128, 128)


def half_hidden(image) -> bool:
    columns = [all(image.getpixel((x, y)) == (128, 128, 128) for y in range(4)) for x in range(4)]
    return columns in ([True, True, False, False], [False, False, True, True])


@pytest.mark.parametrize("end", [Crash, KeyboardInterrupt])
def test_an_interrupted_evaluation_of_worse_pictures_resumes(data, stub, monkeypatch, capsys, end):
    monkeypatch.setattr(Assistant, "where_it_looks", no_map)
    monkeypatch.setattr("evaluation.corrupting.QUESTIONS", 10)
    stub(guesses)
    whole = run(data, monkeypatch, dominant)
    monkeypatch.setattr(Saver, "__call__", lambda saver: saver.write())
    monkeypatch.setattr("evaluation.asking.ROUND", 1)
    stub(crashing(36 + 30 + 30 + 43, end, guesses))
    output = data / "out" / "result.json"
    command = ["--checkpoint", str(data / "checkpoint-1"), "--output", str(output), "--corrupt"]
    if end is Crash:
        with pytest.raises(Crash):
            evaluate.main(command)
    else:
        assert evaluate.main(command) == 130
        assert "36 of 36 questions answered, not all of them with other or worse" in capsys.readouterr().err
    left = json.loads(output.read_text(encoding="utf-8"))
    assert left["complete"] is False and "corruptions" not in left
    assert sum(len(line.get("corrupted", {})) for line in left["predictions"]) == 40
    model = stub(guesses)
    assert evaluate.main([*command, "--resume"]) == 0
    assert len(model.requests) == 4 * 3 * 10 - 40
    assert json.loads(output.read_text(encoding="utf-8"))["corruptions"] == whole


def test_a_finished_evaluation_is_asked_about_worse_pictures_only(data, stub, monkeypatch):
    monkeypatch.setattr(Assistant, "where_it_looks", no_map)
    monkeypatch.setattr("tests.helpers.evaluating.color_of", dominant)
    stub(guesses)
    output = data / "out" / "result.json"
    command = ["--checkpoint", str(data / "checkpoint-1"), "--output", str(output)]
    assert evaluate.main(command) == 0
    model = stub(guesses)
    assert evaluate.main([*command, "--resume", "--corrupt"]) == 0
    assert len(model.requests) == 4 * 3 * 30
    assert all("corrupted" in line for line in read_result(output)["predictions"] if line["type"] != "caption")


def test_all_questions_about_a_picture_are_chosen_up_to_the_number(data, stub, monkeypatch):
    monkeypatch.setattr(Assistant, "where_it_looks", no_map)
    monkeypatch.setattr("evaluation.corrupting.QUESTIONS", 10)
    model = stub(guesses)
    found = run(data, monkeypatch, dominant)
    assert found["blind"]["n"] == 10 and all(mean["n"] == 10 for row in found["kinds"] for mean in row["scores"])
    assert len(model.requests) == 36 + 30 + 30 + 4 * 3 * 10

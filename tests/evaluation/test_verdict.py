"""The verdict: whether the model looks at the picture, and which baseline it does not beat."""

from __future__ import annotations

import pytest

from tests.helpers.evaluating import edit, guesses, looks, run


def test_a_model_that_looks_is_said_to_look(data, stub, capsys):
    stub(looks)
    result = run(data)
    # Test: 12 pictures, 4 of each colour, with 12 + 12 English questions and 6 Chinese ones and 6 captions.
    scores = result["scores"]["overall"]
    assert (scores["n"], scores["exact_match"]) == (30, 1.0)
    # The most common answer is "no"; by text "blue" (each colour is as frequent), "no" and "红色".
    assert scores["majority"] == pytest.approx(8 / 30)
    assert scores["question_only"] == pytest.approx((4 + 8 + 2) / 30)
    # Without a picture it says red, yes and 红色.
    assert scores["no_picture"] == pytest.approx((4 + 4 + 2) / 30)
    assert scores["other_picture"] < 0.75
    assert result["looks_at_the_picture"] is True
    assert result["verdict"].startswith(
        "The model looks at the picture: 1.00 against 0.27 (majority), 0.47 (question only)"
    )
    assert result["verdict"] in capsys.readouterr().out


def test_a_model_that_answers_from_the_question_is_not_said_to_look(data, stub, capsys):
    stub(guesses)
    result = run(data)
    assert result["looks_at_the_picture"] is False
    rows = result["baselines"]
    assert not rows["other_picture"]["clearly_above"] and rows["other_picture"]["difference"] == 0
    assert rows["no_picture"]["difference"] == 0
    assert result["verdict"].startswith("This model is NOT clearly better than")
    assert "itself with another picture (0.33 against 0.33, difference +0.00" in result["verdict"]
    assert result["verdict"].endswith("its answers may not come from the picture.")
    assert "NOT clearly better" in capsys.readouterr().out


def test_the_baseline_that_is_not_beaten_is_named(data, stub):
    stub(lambda question, seen: "blue" if "What" in question else "no" if "Is" in question else "红色")
    words = run(data)["verdict"]
    assert "the best answer per question text" in words and "the majority answer" not in words


def test_one_picture_is_too_few_to_tell(data, stub):
    stub(looks)
    edit(data, lambda annotations: [annotations.pop(str(n)) for n in range(24) if n != 12])
    alone = run(data)
    assert alone["looks_at_the_picture"] is None
    assert alone["scores"]["overall"] | {"captions": None} == {
        "n": 2,
        "exact_match": 1.0,
        "standard_error": None,
        "vqa_accuracy_n": 0,
        "vqa_accuracy": None,
        "majority": 0.0,
        "question_only": 0.0,
        "other_picture": None,
        "no_picture": 1.0,
        "captions": None,
    }
    assert "cannot be told from a single picture" in alone["verdict"]


def test_fewer_than_ten_pictures_are_called_few(data, stub):
    stub(looks)
    edit(data, lambda annotations: [annotations.pop(str(n)) for n in range(19, 24)])
    assert run(data)["verdict"].endswith("Only 7 pictures were used: this is weak evidence.")

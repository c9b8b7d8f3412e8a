"""The verdict: whether the model looks at the picture, and which baseline it does not beat."""

from __future__ import annotations

import pytest

from evaluation.questions import Question
from evaluation.verdict import judge
from tests.helpers.evaluating import edit, guesses, looks, run


def test_a_model_that_looks_is_said_to_look(data, stub, capsys):
    stub(looks)
    result = run(data)
    # Test: 12 pictures, 4 of each colour, with 12 + 12 English questions and 6 Chinese ones and 6 captions.
    scores = result["scores"]["overall"]
    assert (scores["n"], scores["score"]) == (30, 1.0)
    floors = {name: floor["mean"] for name, floor in scores["baselines"].items()}
    # The most common answer of each type and to each text is "blue" (each colour is as frequent), "no" and "红色".
    assert floors["majority"] == floors["question_only"] == pytest.approx((4 + 8 + 2) / 30)
    # Without a picture it says red, yes and 红色.
    assert floors["no_picture"] == pytest.approx((4 + 4 + 2) / 30)
    assert floors["other_picture"] < 0.75
    assert result["looks_at_the_picture"] is True
    assert result["verdict"].startswith(
        "The model looks at the picture: 1.00 against 0.47 (majority), 0.47 (question only)"
    )
    assert result["verdict"] in capsys.readouterr().out


def test_a_model_that_answers_from_the_question_is_not_said_to_look(data, stub, capsys):
    stub(guesses)
    result = run(data)
    assert result["looks_at_the_picture"] is False
    rows = result["comparisons"]
    assert not rows["other_picture"]["clearly_above"] and rows["other_picture"]["difference"] == 0
    assert rows["no_picture"]["difference"] == 0
    assert result["verdict"].startswith("This model is NOT clearly better than")
    assert "itself with another picture (0.33 against 0.33, difference +0.00" in result["verdict"]
    assert "its answers may not come from the picture. NOT clearly: color, yes/no (100%" in result["verdict"]
    assert result["types_that_do_not_look"] == ["color", "yes/no"]
    assert "NOT clearly better" in capsys.readouterr().out


def asked(text: str, reference: str, said: str, number: int, type: str, **baselines: str) -> Question:
    """A question about a picture of its own, with the answers of the model and of the baselines."""
    image = f"{number}.png"
    baselines = {"majority": "none of them", "no_picture": "nothing", **baselines}
    return Question("", text, [reference], [image], image, "s", "en", type, prediction=said, baselines=baselines)


def colors(count: int, right: float = 1.0) -> list[Question]:
    """Questions about colours, of which a model that looks has a share right; the baselines have none."""
    blind = {"question_only": "grey", "other_picture": "grey"}
    said = ["red" if i < right * count else "grey" for i in range(count)]
    return [asked("What color is it?", "red", said[i], i, "color", **blind) for i in range(count)]


def test_the_baseline_that_is_not_beaten_is_named():
    blind = [
        asked(f"What is {i}?", "cat", "cat" if i % 2 else "dog", i, "other", question_only="cat" if i % 2 else "cow")
        for i in range(40)
    ]
    words = judge(blind)[0]["verdict"]
    assert "the best answer per question text (0.50 against 0.50" in words and "the majority answer" not in words


def test_types_that_do_not_look_are_named_though_one_type_carries_the_mean():
    # 300 colours that are seen, and 700 yes/no questions that are answered as the question alone would be.
    usual = ["no" if i % 3 else "yes" for i in range(700)]
    blind = [
        asked(f"Is {i} red?", usual[i], "no", i, "yes/no", question_only="no", other_picture="no", majority="no")
        for i in range(700)
    ]
    overall, by_type = judge([*colors(300), *blind])
    assert all(row["clearly_above"] for row in overall["comparisons"].values())
    assert by_type["color"]["looks_at_the_picture"] is True
    assert by_type["yes/no"]["looks_at_the_picture"] is False
    assert overall["looks_at_the_picture"] is False
    assert overall["verdict"].startswith(
        "The model looks at the picture in part only. Looks: color (30% of the questions). "
        "NOT clearly: yes/no (70% of the questions)."
    )
    assert by_type["yes/no"]["floor_wrong"]["mean"] == 0.0 and by_type["yes/no"]["floor_wrong"]["n"] == 234
    assert by_type["yes/no"]["floor_right"] == {"n": 466, "mean": 1.0, "standard_error": 0.0}


def yes_no(text: str, count: int, right_against: float) -> list[Question]:
    """Half are answered by no, as usual, and by the model too; of the others it has a share right."""
    seen = [i % 2 == 0 or i / count < right_against for i in range(count)]
    return [
        asked(
            text.format(("red", "blue", "green")[i % 3]),
            "yes" if i % 2 else "no",
            "yes" if i % 2 and seen[i] else "no",
            i,
            "yes/no",
            question_only="no",
            other_picture="no",
            majority="no",
        )
        for i in range(count)
    ]


def test_a_form_of_question_that_follows_the_usual_answer_is_named_within_a_type_that_looks():
    seen, blind = yes_no("Is the {} one on the left?", 400, 1.0), yes_no("Is there a {} shape?", 100, 0.0)
    blind[1].prediction = "yes"  # 1 of 50 is right where the usual answer is wrong
    _, by_type = judge([*seen, *blind])
    (form,) = by_type["yes/no"]["weak_forms"]
    assert (form["form"], form["n"], form["mean"]) == ("is there a [color] shape", 50, 0.02)
    assert by_type["yes/no"]["floor_wrong"]["mean"] == pytest.approx(201 / 250)
    assert all(row["clearly_above"] for row in by_type["yes/no"]["comparisons"].values())
    overall, _ = judge([*seen, *blind, *colors(100)])
    assert overall["looks_at_the_picture"] is False
    assert overall["verdict"].endswith('usual answer is wrong): "is there a [color] shape" (0.020, n = 50).')
    assert judge([*seen, *colors(100)])[0]["looks_at_the_picture"] is True


def test_a_form_with_one_answer_in_the_test_is_not_weak_if_that_is_not_the_usual_answer():
    """In training one shape is usual, in the test all pictures have two: another picture tells the same answer."""
    questions = yes_no("Is the {} one on the left?", 400, 1.0)
    for i in range(400, 500):
        right = "1" if i % 20 == 0 else "2"
        own = asked("How many shapes are there?", "2", right if i % 15 else "3", i, "yes/no", question_only="1")
        own.baselines |= {"other_picture": "2", "majority": "1"}
        questions.append(own)
    _, by_type = judge(questions)
    assert by_type["yes/no"]["weak_forms"] == [] and by_type["yes/no"]["looks_at_the_picture"]


def test_ten_types_that_do_not_look_are_not_said_to_look_by_chance():
    """Each type is 2.3 standard errors above its floor: clear for one type, not for the best of ten."""

    def type_of(name: str) -> list[Question]:
        return [
            asked(
                f"{name} {i}?",
                "x",
                "x" if i < 5 else "y",
                i,
                name,
                question_only="z",
                other_picture="y",
            )
            for i in range(60)
        ]

    one = judge(type_of("a"))[1]["a"]
    ten = judge([question for name in "abcdefghij" for question in type_of(name)])[1]
    assert one["looks_at_the_picture"] is True
    assert {own["looks_at_the_picture"] for own in ten.values()} == {False}


def test_a_mean_that_looks_without_any_type_that_does_is_not_in_part():
    def type_of(name: str, right: int) -> list[Question]:
        texts = [(f"{name} {i}?", "x" if i < right else "y", i) for i in range(60)]
        return [asked(t, "x", said, i, name, question_only="z", other_picture="y") for t, said, i in texts]

    verdict = judge([question for name in "abcde" for question in type_of(name, 5)])[0]
    assert all(row["clearly_above"] for row in verdict["comparisons"].values())
    assert verdict["looks_at_the_picture"] is False
    assert verdict["verdict"].startswith(
        "All questions together are answered clearly better than by every baseline, but"
    )


def test_a_type_that_no_answers_could_tell_apart_is_unknown_not_blind():
    same = [
        asked(f"Is {i} here?", "yes", "yes", i, "yes/no", question_only="yes", other_picture="yes") for i in range(50)
    ]
    overall, by_type = judge([*same, *colors(50)])
    assert by_type["yes/no"]["looks_at_the_picture"] is None
    assert overall["looks_at_the_picture"] is True
    assert overall["verdict"].endswith("Cannot be told: yes/no (50% of the questions).")


def test_any_score_from_0_to_1_is_judged():
    def read(count: int, said: str) -> list[Question]:
        own = [
            asked(f"What does {i} say?", "stop sign", said, i, "text", question_only="exit", other_picture="stop")
            for i in range(count)
        ]
        for question in own:
            question.metric = "anls"
        return own

    verdict = judge(read(30, "stop sigm"))[1]["text"]
    assert verdict["comparisons"]["question_only"]["model"] == pytest.approx(8 / 9)
    assert verdict["looks_at_the_picture"] is True
    assert judge(read(30, "exit"))[1]["text"]["looks_at_the_picture"] is False


def test_one_picture_is_too_few_to_tell(data, stub):
    stub(looks)
    edit(data, lambda annotations: [annotations.pop(str(n)) for n in range(24) if n != 12])
    alone = run(data)
    assert alone["looks_at_the_picture"] is None
    overall = alone["scores"]["overall"]
    assert (overall["n"], overall["images"], overall["score"], overall["standard_error"]) == (2, 1, 1.0, None)
    alike = {"n": 2, "standard_error": None}
    assert overall["baselines"] == {
        "majority": {**alike, "mean": 0.0},
        "question_only": {**alike, "mean": 0.0},
        "no_picture": {**alike, "mean": 1.0},
    }
    assert "cannot be told from a single picture" in alone["verdict"]


def test_fewer_than_ten_pictures_are_called_few(data, stub):
    stub(looks)
    edit(data, lambda annotations: [annotations.pop(str(n)) for n in range(19, 24)])
    assert run(data)["verdict"].endswith("Only 7 pictures were used: this is weak evidence.")

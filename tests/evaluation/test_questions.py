"""Which questions are asked, with which pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset.prompt import IMAGE_TOKEN
from evaluation.questions import Question, conversation_questions, name_beginnings
from tests.helpers.evaluating import answer_of, conversation, edit, looks, run


def test_a_turn_gets_the_pictures_shown_so_far():
    turns = [
        {"q": f"{IMAGE_TOKEN}\nWhat color is it?", "a": ["red"]},
        {"q": f"And this? {IMAGE_TOKEN}", "a": ["blue"]},
        {"q": "Are they alike?", "a": ["no"]},
    ]
    talk = {"images": [7, 3], "turns": turns, "source": "s", "language": "en"}
    questions = conversation_questions({3: "three.png", 7: "seven.png"}, [("7/0", talk)])
    assert [q.images for q in questions] == [["seven.png"], ["seven.png", "three.png"], ["seven.png", "three.png"]]
    assert [q.asked for q in questions] == [
        f"{IMAGE_TOKEN}\nWhat color is it?",
        f"{IMAGE_TOKEN}\nAnd this? {IMAGE_TOKEN}",
        f"{IMAGE_TOKEN}{IMAGE_TOKEN}\nAre they alike?",
    ]
    assert [q.text for q in questions] == ["What color is it?", "And this?", "Are they alike?"]
    moved = conversation_questions({3: "three.png", 7: "seven.png"}, [("7/0", talk)], first=True)
    assert moved[1].asked == f"{IMAGE_TOKEN}{IMAGE_TOKEN}\nAnd this? " and moved[2].asked == questions[2].asked


def test_limit_draws_the_same_questions_from_all_of_the_data(data, stub):
    stub(looks)
    first, second = (run(data, "--limit", "9")["predictions"] for _ in range(2))
    assert first == second and len(first) == 9
    assert len({line["images"][0] for line in first}) > 4


def test_train_split_and_given_files(data, stub):
    stub(looks)
    train = run(data, "--split", "train", "--no-probes")
    assert train["questions"] == 36
    assert {int(Path(line["images"][0]).stem) < 12 for line in train["predictions"]} == {True}
    assert "without those on the same picture" in train["baselines_fitted_on"]
    files = ["--image-map", str(data / "image_map.json"), "--annotations", str(data / "annotations.json")]
    everything = run(data, "--no-probes", *files)
    assert everything["questions"] == 72 and "without those on the same picture" in everything["baselines_fitted_on"]
    assert run(data, "--no-probes", "--split", "test", *files)["questions"] == 36


@pytest.mark.parametrize("name", ["validation", "held_out"])  # as files of earlier versions call it
def test_a_run_without_a_test_split_is_scored_on_validation_and_says_so(data, stub, name, capsys):
    def rename(annotations):
        for talk in (talk for group in annotations.values() for talk in group if talk["split"] == "test"):
            talk["split"] = name

    edit(data, rename)
    stub(looks)
    result = run(data, "--no-probes")
    assert result["questions"] == 36 and result["baselines_fitted_on"] == "the 30 questions of the training split"
    said = "(validation; there is no test split, and the checkpoint was chosen on these questions)"
    assert result["data"] == f"{(data / 'annotations.json').as_posix()} {said}"
    assert f"Questions: {result['data']}.\n" in capsys.readouterr().out
    assert run(data, "--no-probes", "--split", "validation")["data"].endswith("annotations.json (validation)")


def test_baselines_are_fitted_on_the_training_split(data, stub):
    def teach(annotations):
        for number in range(12):
            annotations[str(number)] = [conversation("green", "train", "shapes", "en")]

    edit(data, teach)
    stub(looks)
    result = run(data, "--no-probes")
    assert result["baselines_fitted_on"] == "the 24 questions of the training split"
    answers = {line["question"]: answer_of(line, "question_only") for line in result["predictions"]}
    assert answers["What color is it?"] == "green"
    assert answers["Is it red?"] == "no"


def test_questions_of_no_type_get_their_first_words_in_both_splits_alike():
    def question(text: str, type: str = "other") -> Question:
        return Question("", text, ["x"], ["a"], "a", "s", "en", type)

    asked = [*(question(f"Who is {i}?") for i in range(20)), question("Who was it?"), question("Is it?", "yes/no")]
    train = [question("Who is this?"), question("Who was this?"), question("Is it?", "yes/no")]
    name_beginnings(asked, train)
    assert [q.type for q in asked] == ["who is ..."] * 20 + ["other", "yes/no"]
    assert [q.type for q in train] == ["who is ...", "other", "yes/no"]

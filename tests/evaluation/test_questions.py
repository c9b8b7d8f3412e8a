"""Which questions are asked, with which pictures."""

from __future__ import annotations

from pathlib import Path

from dataset.prompt import IMAGE_TOKEN
from evaluation.questions import conversation_questions
from tests.helpers.evaluating import conversation, edit, looks, run


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
    assert run(data, "--no-probes", "--split", "held_out", *files)["questions"] == 36


def test_baselines_are_fitted_on_the_training_split(data, stub):
    def teach(annotations):
        for number in range(12):
            annotations[str(number)] = [conversation("green", "train", "shapes", "en")]

    edit(data, teach)
    stub(looks)
    result = run(data, "--no-probes")
    assert result["baselines_fitted_on"] == "the 24 questions of the training split"
    answers = {line["question"]: line["question_only"]["answer"] for line in result["predictions"]}
    assert answers["What color is it?"] == "green"
    assert answers["Is it red?"] == "no"

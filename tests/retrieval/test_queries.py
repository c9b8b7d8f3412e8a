"""Queries as questions of the result file: their answers, scores and floors by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.questions import Question
from retrieval.captions import captioned
from retrieval.queries import add_floors, caption_queries, picture_names
from retrieval.recall import recall, similarities

# Pictures a, b and c; of each the cosine with "red", "blue", "红", "green".
COSINES = np.array([[0.5, 0.9, 0.1, 0.2], [0.1, 0.8, 0.7, 0.2], [0.4, 0.1, 0.6, 0.3]])


@pytest.fixture
def asked() -> list[Question]:
    """Requests to describe: a and c are red, b is blue, c is 红 and green too; d cannot be read."""

    def request(number: int, name: str, references: list[str], language: str = "en") -> Question:
        path = f"x/{name}.png"
        return Question("?", "Describe it.", references, [path], path, "s", language, "caption", id=f"{name}/{number}")

    return [
        request(0, "a", ["red"]),
        request(0, "b", ["blue"]),
        request(0, "c", ["红"], "zh"),
        request(1, "c", ["red", "green", "red"]),
        request(0, "d", ["black"]),
    ]


@pytest.fixture
def queries(asked) -> dict[str, Question]:
    found = similarities(np.eye(3), COSINES.T, captioned(asked[:4]))
    assert found.texts == ["red", "blue", "红", "green"]
    made = caption_queries(found, asked, {Path("x/d.png"): "no picture"})
    assert recall(found)["text_to_image"]["recall_at_1"] == mean_of(made, "text to picture")
    assert recall(found)["image_to_text"]["recall_at_1"] == mean_of(made, "picture to text")
    return {query.id: query for query in made}


def mean_of(queries: list[Question], kind: str) -> float:
    return float(np.mean([query.score() for query in queries if query.type == kind]))


def test_each_caption_looks_for_its_picture_and_says_which_it_found(queries):
    found = {name: query for name, query in queries.items() if query.type == "text to picture"}
    assert list(found) == [f"{name}/text to picture" for name in ("a/0/0", "b/0/0", "c/0/0", "c/1/0", "c/1/1")]
    red, green = found["a/0/0/text to picture"], found["c/1/1/text to picture"]
    assert (red.text, red.references, red.prediction) == ("red", ["a.png", "c.png"], "a.png")
    assert red.score() == 1.0 and red.chance == pytest.approx(2 / 3) and red.images == red.named == ["x/a.png"]
    assert (green.prediction, green.named, green.score()) == ("c.png", ["x/c.png"], 1.0)
    wrong = found["c/0/0/text to picture"]  # 红 is nearest to b
    assert (wrong.language, wrong.prediction, wrong.score(), wrong.group) == ("zh", "b.png", 0.0, "x/c.png")


def test_each_picture_looks_for_one_of_its_captions(queries):
    found = [query for query in queries.values() if query.type == "picture to text"]
    assert [(query.id, query.prediction, query.score()) for query in found] == [
        ("a/0/picture to text", "blue", 0.0),
        ("b/0/picture to text", "blue", 1.0),
        ("c/0/picture to text", "红", 1.0),
    ]
    assert found[2].references == ["红", "red", "green"] and found[2].chance == 0.75
    assert found[2].text == "哪一句描述属于这张图片？" and found[2].metrics == ["top_1"]


def test_a_request_to_describe_is_answered_with_a_caption_of_another_picture_in_its_language(queries):
    found = {name: queries[name] for name in ("a/0", "b/0", "c/0", "c/1", "d/0")}
    assert {name: query.prediction for name, query in found.items()} == {
        "a/0": "blue",
        "b/0": "green",
        "c/0": None,  # nothing else is Chinese
        "c/1": "blue",
        "d/0": None,
    }
    assert found["d/0"].problem == "no picture" and found["a/0"].score() is None
    assert all(query.text == "Describe it." and query.metric == "exact_match" for query in found.values())


def test_floors_are_the_commonest_caption_another_picture_and_a_grey_one(queries):
    shown = list(queries.values())
    assert add_floors(shown, "red", 0) == "the evaluated questions, each time without those on the same picture"
    found = {query.images[0]: query for query in shown if query.type == "picture to text"}
    assert all(query.baselines["no_picture"] == "red" for query in found.values())
    assert [query.baseline_score("no_picture") for query in found.values()] == [1.0, 0.0, 1.0]
    for query in found.values():
        (other,) = query.other_images
        assert other in found and other != query.images[0]
        assert query.baselines["other_picture"] == found[other].prediction
    assert found["x/b.png"].baselines["majority"] == "red"  # a's, the only other picture that is asked in English
    assert all(not query.baselines for query in shown if query.type != "picture to text")


def test_files_of_one_name_are_told_apart_by_their_folders():
    assert picture_names(["x/a.png", "y/a.png", "y/b.png"]) == ["x/a.png", "y/a.png", "b.png"]

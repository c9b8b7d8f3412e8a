"""VQA v2's and OK-VQA's two files."""

from __future__ import annotations

import pytest

from dataset.converters.base import Message
from tests.dataset.converters.conftest import Files


def question(number: int, text: str, image: int = 9) -> dict:
    return {"image_id": image, "question": text, "question_id": number}


def annotation(number: int, *answers: str, kind: str = "what is", image: int = 9, **more) -> dict:
    given = [{"answer": text, "answer_confidence": "yes", "answer_id": n} for n, text in enumerate(answers, start=1)]
    return {"question_id": number, "image_id": image, "question_type": kind, "answers": given, **more}


def two_files(files: Files, questions: list, annotations: list, head=None, **more):
    head = {"info": {"year": 2014}, "data_type": "mscoco", "data_subtype": "val2014"} if head is None else head
    asked = files.write("questions.json", {**head, "questions": questions})
    said = files.write("annotations.json", {"info": {}, "license": {}, "annotations": annotations, **more})
    return said, asked


def test_the_ten_answers_and_the_type_are_kept(files):
    answers = ["net"] * 6 + ["mesh", "a net", "net", "white"]
    said, asked = two_files(
        files,
        [question(1, "What is this?", 458752), question(2, "Is it?")],
        [annotation(1, *answers, image=458752, multiple_choice_answer="net"), annotation(2, "yes", kind="is it")],
    )
    assert files.looks_like(said) == files.looks_like(asked) == "vqa"
    first, second = files.read("vqa", said, questions=asked)
    assert first.images == ["COCO_val2014_000000458752.jpg"]
    assert first.messages == [Message("human", "What is this?"), Message("gpt", answers)]
    assert (first.id, first.type) == ("1", "what is")
    assert second.type == "is it"


def test_the_files_may_have_different_orders_and_extra_questions(files):
    numbers = [5, 3, 1, 4, 2]
    said, asked = two_files(
        files,
        [question(n, f"{n}?") for n in (1, 2, 3, 4, 5, 6)],
        [annotation(n, str(n), multiple_choice_answer="x") for n in numbers],
    )
    found = files.read("vqa", said, questions=asked)
    assert [(e.messages[0].text, e.messages[1].text) for e in found] == [(f"{n}?", [str(n)]) for n in numbers]


def test_ok_vqa_names_its_types_after_the_annotations(files):
    said, asked = two_files(
        files,
        [question(1, "Which sport?")],
        [annotation(1, "tennis", kind="one")],
        question_types={"one": "Sports and Recreation", "two": "Brands"},
    )
    (example,) = files.read("vqa", said, questions=asked)
    assert example.type == "Sports and Recreation"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ({}, "000000000009.jpg"),
        ({"data_type": "abstract_v002", "data_subtype": "train2015"}, "abstract_v002_train2015_000000000009.png"),
    ],
)
def test_names_of_pictures(files, head, name):
    said, asked = two_files(files, [question(1, "?")], [annotation(1, "a", multiple_choice_answer="a")], head)
    (example,) = files.read("vqa", said, questions=asked)
    assert example.images == [name]


def test_what_cannot_be_used_has_its_reason(files):
    said, asked = two_files(
        files,
        [question(1, "?"), question(2, " "), "text", question(3, "?", image="x")],
        [annotation(7, "a"), 5, annotation(2, "a"), {"question_id": 1}, annotation(3, "a")],
    )
    assert files.read("vqa", said, questions=asked) == [
        "question_id 7 is not in questions.json",
        "is not an object but a number",
        "question is empty",
        "answers is neither text nor a list of texts",
        "image_id is not a number",
    ]

"""Qwen-VL's and ms-swift's records."""

from __future__ import annotations

from dataset.converters.base import Example


def test_pictures_named_inside_the_text(files):
    said = [
        {"from": "user", "value": "Picture 1: <img>a.jpg</img>\nWhat?"},
        {"from": "assistant", "value": "A dog."},
    ]
    path = files.write("a.json", [{"id": "1", "conversations": said}])
    assert files.looks_like(path) == "qwen_vl"
    assert files.read("qwen_vl", path) == [Example(["a.jpg"], [("human", "<image>\nWhat?"), ("gpt", "A dog.")])]


def test_query_response_and_history(files):
    asked = [{"image": "a.jpg"}, {"text": "What?"}]
    records = [
        {"query": "<img>a.jpg</img>What?", "response": "A dog.", "history": [["Hello", "Hello!"]], "system": "Brief."},
        {"query": asked, "response": "A dog."},
        {"query": "What?", "response": "A dog.", "images": ["a.jpg"]},
        {"query": "What?", "response": "A dog.", "history": "x"},
        {"query": "What?"},
    ]
    path = files.write("a.jsonl", records)
    assert files.looks_like(path) == "qwen_vl"
    assert files.read("qwen_vl", path) == [
        Example(
            ["a.jpg"],
            [
                ("system", "Brief."),
                ("human", "Hello"),
                ("gpt", "Hello!"),
                ("human", "<image>What?"),
                ("gpt", "A dog."),
            ],
        ),
        Example(["a.jpg"], [("human", "<image>\nWhat?"), ("gpt", "A dog.")]),
        Example(["a.jpg"], [("human", "What?"), ("gpt", "A dog.")]),
        "history is not a list of pairs, [question, answer]",
        Example([], [("human", "What?"), ("gpt", None)]),
    ]

"""GQA's file."""

from __future__ import annotations

from dataset.converters.base import Example


def test_a_tiny_file(files):
    entry = {"question": "Is the sky dark?", "imageId": "2354786", "answer": "yes", "fullAnswer": "Yes, it is dark."}
    types = {"structural": "verify", "semantic": "global", "detailed": "verifyGlobalTrue"}
    path = files.write("balanced.json", {"02930152": {**entry, "types": types}, "7": {"question": "?"}, "8": None})
    assert files.looks_like(path) == "gqa"
    messages = [("human", "Is the sky dark?"), ("gpt", ["yes"])]
    assert files.read("gqa", path) == [
        Example(["2354786.jpg"], messages, id="02930152", type="verify"),
        "answer is missing, or not text",
        "is not an object but null",
    ]

"""TextVQA's file."""

from __future__ import annotations

from dataset.converters.base import Message


def test_a_tiny_file(files):
    record = {"question_id": 34602, "question": "what brand?", "image_id": "0054c91397f2fe05", "set_name": "val"}
    content = {"dataset_type": "val", "data": [{**record, "answers": ["dakota"] * 9 + ["dakota digital"]}, record]}
    path = files.write("TextVQA_0.5.1_val.json", content)
    assert files.looks_like(path) == "textvqa"
    example, reason = files.read("textvqa", path)
    assert example.images == ["0054c91397f2fe05.jpg"]
    assert example.messages == [Message("human", "what brand?"), Message("gpt", ["dakota"] * 9 + ["dakota digital"])]
    assert (example.id, example.split) == ("34602", "validation")
    assert reason == "answers is neither text nor a list of texts"  # the test file has none

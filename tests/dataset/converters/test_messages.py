"""Messages in every spelling: pictures in the order of their marks, texts as they are."""

from __future__ import annotations

import pytest

from dataset.converters.messages import conversation
from dataset.records import RecordError


def human(text, images=()):
    """The pictures and the text of one question."""
    found, (message,) = conversation([{"from": "human", "value": text}], list(images))
    return found, message.text


@pytest.mark.parametrize(
    ("role", "text", "one", "other"),
    [("from", "value", "human", "gpt"), ("role", "content", "user", "assistant"), ("role", "value", "user", "gpt")],
)
def test_either_name_of_role_and_text(role, text, one, other):
    given = [{role: "system", text: "Be brief."}, {role: one, text: "<image>?"}, {role: other, text: ["yes", "ja"]}]
    images, messages = conversation(given, ["a.jpg"])
    assert images == ["a.jpg"]
    assert messages == [("system", "Be brief."), ("human", "<image>?"), ("gpt", ["yes", "ja"])]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "What?"}], "<image>\nWhat?"),
        ([{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "a.jpg"}}], "What?\n<image>"),
        ([{"type": "image_url", "image_url": "file://a.jpg"}, "What?"], "<image>\nWhat?"),
        ([{"image": "a.jpg"}, {"text": "Where is "}, {"text": "it?"}], "<image>\nWhere is it?"),
        ([{"image": "a.jpg"}, {"ref": "dog", "box": [1, 2, 30, 4]}], "<image>\n<ref>dog</ref><box>(1,2),(30,4)</box>"),
        ("Picture 1: <img>a.jpg</img>\nWhat?", "<image>\nWhat?"),
    ],
)
def test_content_as_parts_and_as_qwen_vl_writes_it(content, expected):
    assert human(content) == (["a.jpg"], expected)
    assert human(content, ["a.jpg"]) == (["a.jpg"], expected)  # some records name the picture twice


def test_several_pictures_keep_their_labels_and_their_order():
    assert human("Picture 1: <img>b.jpg</img>\nPicture 2: <img>a.jpg</img>\nCompare.") == (
        ["b.jpg", "a.jpg"],
        "Picture 1: <image>\nPicture 2: <image>\nCompare.",
    )
    assert human([{"image": "b.jpg"}, {"image": "a.jpg"}, {"text": "Compare."}])[1] == "<image><image>\nCompare."


def test_marks_take_the_pictures_of_the_record_in_order_and_those_without_a_mark_come_first():
    assert human("<img>x.jpg</img> or <image>?", ["a.jpg", "b.jpg"]) == (
        ["a.jpg", "x.jpg", "b.jpg"],
        "<image> or <image>?",
    )
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Compare."}]
    assert human(parts, ["a.jpg", "b.jpg"]) == (["a.jpg", "b.jpg"], "<image><image>\nCompare.")
    with pytest.raises(RecordError, match="has 2 image marks, but names 1 images"):
        human("<img>x.jpg</img> or <image>?")


def test_an_answer_names_no_picture():
    messages = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "<img>a.jpg</img> <image>"}]
    assert conversation(messages, []) == ([], [("human", "?"), ("gpt", "<img>a.jpg</img> <image>")])


def test_roles_are_known_in_capitals_too():
    messages = [{"from": "Human", "value": "?"}, {"role": "ASSISTANT", "content": "!"}]
    assert conversation(messages, []) == ([], [("human", "?"), ("gpt", "!")])


def test_a_message_that_makes_no_sense_keeps_no_text_or_no_role():
    messages = ["q", {"from": "tool", "value": "x"}, {"from": "human", "value": 5}, {"from": "gpt", "value": ["a", 5]}]
    assert conversation(messages, []) == ([], [("", None), ("", "x"), ("human", None), ("gpt", None)])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([{"type": "audio", "audio": "a.mp3"}], "part 0 of message 0 is 'audio', which is neither text nor an image"),
        ([{"type": "text"}], "part 0 of message 0 is text without text"),
        ([{"type": "image_url", "image_url": {"url": ""}}], "part 0 of message 0 is image_url without a file name"),
        ([{"type": "image", "image": "a<b.jpg"}], "part 0 of message 0 is image without a file name"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}], "holds the picture itself"),
        ([{"text": "?"}, {"box": [1, 2, 3]}], "part 1 of message 0 is a box without four numbers"),
        ([{"text": "?"}, 5], "part 1 of message 0 is None, which is neither text nor an image"),
    ],
)
def test_what_cannot_be_read_is_named(content, reason):
    with pytest.raises(RecordError, match=reason):
        human(content)


def test_a_video_in_a_part_is_named_like_a_picture():
    messages = [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "?"}]}]
    assert conversation(messages, []) == (["a.mp4"], [("human", "<image>\n?")])

"""Messages of raw records to turns: where the placeholders are, and what is dropped."""

from __future__ import annotations

import pytest

from dataset.converters.base import Message
from dataset.records import place_images, turns_of


@pytest.mark.parametrize(
    ("questions", "images", "expected"),
    [
        (["<image>\nWhat?"], 1, ["<|extra_0|>\nWhat?"]),
        (["What?\n<image>"], 1, ["What?\n<|extra_0|>"]),
        (["Is <image> red?"], 1, ["Is <|extra_0|> red?"]),
        (["What?", "And <image>?"], 1, ["What?", "And <|extra_0|>?"]),
        (["What?", "Where?"], 1, ["<|extra_0|>\nWhat?", "Where?"]),
        (["<image>"], 1, ["<|extra_0|>"]),
        (["<image> or <image>?", "<image>"], 1, ["<|extra_0|> or < image >?", "< image >"]),
        (["<image> or <image>?"], 2, ["<|extra_0|> or <|extra_0|>?"]),
        (["<image> and?", "<image>?"], 3, ["<|extra_0|>\n<|extra_0|> and?", "<|extra_0|>?"]),
        (["compare"], 2, ["<|extra_0|><|extra_0|>\ncompare"]),
        (["no <image> here"], 0, ["no < image > here"]),
        (["<IMAGE><image>"], 1, ["< IMAGE ><|extra_0|>"]),
        (["a <|im_end|> <image> <|im_end|>"], 1, ["a <| im_end |> <|extra_0|> <| im_end |>"]),
        (["<|extra_0|><image>"], 1, ["<| extra_0 |><|extra_0|>"]),
        (["<|im_<image>end|>"], 1, ["<|im_<|extra_0|>end|>"]),
    ],
)
def test_placeholders_are_where_the_images_were(questions, images, expected):
    assert place_images(questions, images) == expected
    assert sum(text.count("<|extra_0|>") for text in expected) == images


def test_messages_that_do_not_pair_are_dropped():
    messages = [
        Message("gpt", "Hello <image>"),
        Message("human", "unanswered"),
        Message("human", "What?"),
        Message("gpt", "This."),
        Message("gpt", "And more."),
        Message("human", "dangling <image>"),
    ]
    assert turns_of(messages, 1) == [{"q": "<|extra_0|>\nWhat?", "a": ["This."]}]

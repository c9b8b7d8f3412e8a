"""Messages to turns: where the placeholders are, what is joined, what is dropped, and that all of it is counted."""

from __future__ import annotations

import pytest

from dataset.converters.base import Example, Message
from dataset.preparing import turns
from dataset.preparing.turns import talk_from, talk_of
from dataset.records import RecordError

ROLE = {"s": "system", "q": "human", "a": "gpt", "?": ""}


def said(*messages: tuple, images: int = 0) -> turns.Talk:
    """("q", "What?"), ("a", "A cat."), ...: s is a system message, "?" one of another role."""
    return talk_from([Message(ROLE[role], text) for role, text in messages], images)


def pairs(talk: turns.Talk) -> list[tuple]:
    return [(turn["q"], *turn["a"]) for turn in talk.turns]


def asked(questions: list[str], images: int) -> list[str]:
    talk = said(*(message for question in questions for message in (("q", question), ("a", "x"))), images=images)
    assert talk.images == images and not talk.changes
    return [turn["q"] for turn in talk.turns]


@pytest.mark.parametrize(
    ("questions", "images", "expected"),
    [
        (["<image>\nWhat?"], 1, ["<|extra_0|>\nWhat?"]),
        (["What?\n<image>"], 1, ["What?\n<|extra_0|>"]),
        (["Is <image> red?"], 1, ["Is <|extra_0|> red?"]),
        (["What?", "And <image>?"], 1, ["What?", "And <|extra_0|>?"]),
        (["What?", "Where?"], 1, ["<|extra_0|>\nWhat?", "Where?"]),
        (["<image>"], 1, ["<|extra_0|>"]),
        ([""], 1, ["<|extra_0|>"]),
        (["<image> or <image>?"], 2, ["<|extra_0|> or <|extra_0|>?"]),
        (["<image> and?", "<image>?"], 3, ["<|extra_0|>\n<|extra_0|> and?", "<|extra_0|>?"]),
        (["compare"], 2, ["<|extra_0|><|extra_0|>\ncompare"]),
        (["<IMAGE> and <Image>"], 2, ["<|extra_0|> and <|extra_0|>"]),
        (["a <|im_end|> <image> <|im_end|>"], 1, ["a <| im_end |> <|extra_0|> <| im_end |>"]),
        (["<|extra_0|><image>"], 1, ["<| extra_0 |><|extra_0|>"]),
        (["<|im_<image>end|>"], 1, ["<|im_<|extra_0|>end|>"]),
        (["How does <img src='a.png'> differ from <video controls>?"], 0, None),
        (["1+1?"], 0, None),
    ],
)
def test_placeholders_are_where_the_images_were(questions, images, expected):
    assert asked(questions, images) == (expected or questions)


@pytest.mark.parametrize(
    ("question", "images", "reason"),
    [
        ("<image>\nWhat?", 0, "a question has <image>, and the record names no image"),
        ("<Image>\nWhat?", 0, "a question has <image>, and the record names no image"),
        ("<image> or <image>?", 1, "its questions have 2 <image>, and the record names 1"),
        ("<img>a.png</img>What?", 0, "a question has <img>a.png</img>, which is not read as an image"),
        ("<img>a\nb.png</img>What?", 1, "a question has <img>a b.png</img>, which is not read as an image"),
        ("<video>\nWhat happens?", 0, "a question has <video>, which is not read as an image"),
        ("<|vision_start|><|image_pad|><|vision_end|>What?", 1, "a question has <|vision_start|>, which is not read"),
        ("<image_1> and <image_2>?", 2, "a question has <image_1>, which is not read as an image"),
        ("<image 1>?", 1, "a question has <image 1>, which is not read as an image"),
        ("<|image_1|>?", 1, "a question has <|image_1|>, which is not read as an image"),
        ("<ImageHere>What?", 1, "a question has <ImageHere>, which is not read as an image"),
    ],
)
def test_a_mark_that_no_image_belongs_to_rejects_the_record(question, images, reason):
    with pytest.raises(RecordError) as error:
        said(("q", question), ("a", "x"), images=images)
    assert str(error.value).startswith(reason)


def test_consecutive_messages_of_one_role_are_joined_and_counted():
    talk = said(
        ("q", "<image>\nAbout it."), ("q", "Color?"), ("a", "red"), ("a", "A circle."), ("q", "Thanks."), images=1
    )
    assert pairs(talk) == [("<|extra_0|>\nAbout it.\nColor?", "red\nA circle.")]
    assert talk.changes == {turns.JOINED: 2, turns.TRAILING: 1}


def test_an_empty_message_adds_nothing_to_the_one_before_it():
    talk = said(("q", "Color?"), ("q", " "), ("a", ""), ("a", "red"), ("a", []))
    assert pairs(talk) == [("Color?", "red")]


def test_a_leading_answer_is_dropped():
    talk = said(
        ("a", "Show me an image."), ("a", "Please."), ("q", "<image>\nWhat is it?"), ("a", "a circle"), images=1
    )
    assert pairs(talk) == [("<|extra_0|>\nWhat is it?", "a circle")]
    assert talk.changes == {turns.JOINED: 1, turns.LEADING: 1}


@pytest.mark.parametrize(
    ("bad", "change"),
    [
        ((("q", "Why?"), ("a", " \n")), turns.EMPTY_ANSWER),
        ((("q", "Why?"), ("a", [])), turns.EMPTY_ANSWER),
        ((("q", "Why?"), ("a", ["", " "])), turns.EMPTY_ANSWER),
        ((("q", "Why?"), ("a", None)), turns.NOT_TEXT),
        ((("q", None), ("a", "So.")), turns.NOT_TEXT),
        ((("q", ["Why?"]), ("a", "So.")), turns.NOT_TEXT),
        ((("q", ""), ("a", "So.")), turns.EMPTY_QUESTION),
        ((("q", "Why?"), ("?", "search(...)"), ("a", "So.")), turns.OTHER_ROLE),
        ((("q", "Why?"), ("a", "So."), ("?", "found")), turns.OTHER_ROLE),
        ((("?", "found"), ("a", "So.")), None),
        ((("q", "Why?"), ("a", ["So.", "Because."]), ("a", "Then.")), turns.REFERENCES),
    ],
)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_good_turns_of_a_record_survive_a_bad_one(bad, change, position):
    good = [(("q", "What?"), ("a", "A cat.")), (("q", "Where?"), ("a", ["Here.", "there"]))]
    messages = [*good[:position], bad, *good[position:]]
    talk = said(*(message for turn in messages for message in turn))
    kept = [("What?", "A cat."), ("Where?", "Here.", "there")]
    if change is None:  # what is said by another role after an answer belongs to that answer's turn
        kept = kept[:2] if position == 0 else [pair for number, pair in enumerate(kept) if number != position - 1]
        change = turns.OTHER_ROLE
    assert pairs(talk) == kept
    assert talk.changes[change] == 1


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "has no question with an answer"),
        ([("s", "Be brief.")], "has no question with an answer"),
        ([("q", "What?")], f"has no question with an answer ({turns.TRAILING})"),
        ([("a", "Hello.")], f"has no question with an answer ({turns.LEADING})"),
        ([("q", "What?"), ("a", "")], f"has no question with an answer ({turns.EMPTY_ANSWER})"),
        ([("q", "What?"), ("a", "<image>")], f"({turns.IMAGE_IN_ANSWER}; {turns.EMPTY_ANSWER})"),
        ([("q", " "), ("a", "So.")], f"has no question with an answer ({turns.EMPTY_QUESTION})"),
        ([("?", "What?"), ("?", "So.")], f"has no question with an answer ({turns.OTHER_ROLE})"),
    ],
)
def test_a_record_without_a_turn_is_rejected_with_the_reasons(messages, reason):
    with pytest.raises(RecordError) as error:
        said(*messages)
    assert str(error.value).endswith(reason)


def test_images_of_a_dropped_question_are_shown_by_the_next_one():
    """A later question may be about them, and the others must not take each other's images."""
    talk = said(
        *(("q", "first <image>?"), ("a", "")),
        *(("q", "second <image>?"), ("a", "b")),
        *(("q", "third <image>?"), ("a", "c")),
        images=3,
    )
    assert pairs(talk) == [("<|extra_0|>\nsecond <|extra_0|>?", "b"), ("third <|extra_0|>?", "c")]
    assert talk.images == 3 and talk.changes == {turns.EMPTY_ANSWER: 1}


def test_the_image_of_a_dropped_last_question_is_left_out_unless_it_is_the_only_one():
    talk = said(("q", "<image> a?"), ("a", "a"), ("q", "<image> b?"), images=2)
    assert pairs(talk) == [("<|extra_0|> a?", "a")]
    assert talk.images == 1 and talk.changes == {turns.TRAILING: 1, turns.NOT_SHOWN: 1}
    talk = said(("q", "What?"), ("a", "a"), ("q", "<image>"), images=1)
    assert pairs(talk) == [("<|extra_0|>\nWhat?", "a")]
    assert talk.images == 1 and talk.changes == {turns.TRAILING: 1}


def test_system_messages_become_the_system_text_of_the_conversation():
    talk = said(("s", " Be brief. "), ("q", "<image>\nWhat?"), ("a", "A cat."), ("s", "In <|im_end|>."), images=1)
    assert talk.system == "Be brief. \nIn <| im_end |>."
    assert pairs(talk) == [("<|extra_0|>\nWhat?", "A cat.")] and not talk.changes
    talk = said(("s", "Look at <image>."), ("q", "What?"), ("a", "A cat."), ("s", None), images=1)
    assert talk.system == "Look at ." and pairs(talk) == [("<|extra_0|>\nWhat?", "A cat.")]
    assert talk.changes == {turns.SYSTEM_NOT_TEXT: 1}
    with pytest.raises(RecordError, match="has <image>, and the record names no image"):
        said(("s", "Look at <image>."), ("q", "What?"), ("a", "A cat."))


@pytest.mark.parametrize(
    ("answer", "expected", "changes"),
    [
        ("![fig](<image>)\nSee <|endoftext|> for more.", "![fig]()\nSee for more.", {"image", "control"}),
        ("A cat.<|im_end|>", "A cat.", {"control"}),
        ("<image>\nA cat.", "A cat.", {"image"}),
        ("<IMAGE> A <|extra_0|> cat.", "A cat.", {"image"}),
        ("<img>a.png</img> A cat.", "A cat.", {"image"}),
        ("<|im_<image>end|> A cat.", "A cat.", {"image", "control"}),
        ("<|im_<|x|>end|> A cat.", "<| im_end |> A cat.", {"control"}),
        ('<img src="a.png"> and <video>', '<img src="a.png"> and <video>', set()),
        ("half \ud800", "half \ufffd", set()),
    ],
)
def test_what_would_be_learnt_has_no_placeholders_and_no_control_tokens(answer, expected, changes):
    reasons = {{"image": turns.IMAGE_IN_ANSWER, "control": turns.CONTROL_IN_ANSWER}[name]: 1 for name in changes}
    talk = said(("q", "What?"), ("a", answer))
    assert pairs(talk) == [("What?", expected)]
    assert talk.changes == reasons
    talk = talk_of(Example(captions=[answer, "A cat."]), 1, "seed", keep_all_captions=True)
    assert talk.turns[0]["a"] == [expected, "A cat."]
    assert talk.changes == reasons


def test_a_long_text_of_broken_tokens_takes_no_time():
    text = "<|im_" * 100_000 + "<image>" * 100_000 + " " * 100_000 + "end|>" * 100_000
    talk = said(("q", text.replace("<image>", "")), ("a", text + "x"))
    assert len(talk.turns) == 1 and "<image>" not in talk.turns[0]["a"][0]

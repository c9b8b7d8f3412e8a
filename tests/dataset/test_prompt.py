"""The prompt: labels exactly on the answers, and no way to forge the format from inside the text."""

from __future__ import annotations

import random

import pytest

from common.language import in_chinese
from dataset.prompt import (
    IGNORE_INDEX,
    PromptError,
    Turn,
    build_prompt,
    encode_as_word,
    encode_text,
    fit_prompt,
    neutralise,
    question_with_images,
    skip_thoughts,
    without_thoughts,
)
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer, token_id
from tests.helpers.tiny import TOKENIZER

THREE_TURNS = [
    Turn(f"{IMAGE_TOKEN}\nWhat color is the circle?", "red"),
    Turn("正方形在哪里？", "左上角"),
    Turn("Is there a star? 请回答", "没有, no"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(TOKENIZER))


def supervised_spans(tokenizer, input_ids, labels) -> list[str]:
    """The text of each unbroken run of labels."""
    spans, run = [], []
    for label in [*labels, IGNORE_INDEX]:
        if label != IGNORE_INDEX:
            run.append(label)
        elif run:
            spans.append(tokenizer.decode(run))
            run = []
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(input_ids, labels, strict=True))
    return spans


def test_golden_three_turn_sample_supervises_every_answer_and_its_end(tokenizer):
    input_ids, labels = build_prompt(tokenizer, THREE_TURNS, system="You help.", image_context_length=3)
    assert tokenizer.decode(input_ids) == (
        "<|im_start|>system\nYou help.<|im_end|>\n"
        "<|im_start|>user\n<|extra_0|><|extra_0|><|extra_0|>\nWhat color is the circle?<|im_end|>\n"
        "<|im_start|>assistant\nred<|im_end|>\n"
        "<|im_start|>user\n正方形在哪里？<|im_end|>\n<|im_start|>assistant\n左上角<|im_end|>\n"
        "<|im_start|>user\nIs there a star? 请回答<|im_end|>\n<|im_start|>assistant\n没有, no<|im_end|>\n"
    )
    assert supervised_spans(tokenizer, input_ids, labels) == ["red<|im_end|>", "左上角<|im_end|>", "没有, no<|im_end|>"]


def test_open_prompt_is_a_prefix_of_the_answered_one(tokenizer):
    """What generation is asked with is what training showed, token for token."""
    answered, _ = build_prompt(tokenizer, THREE_TURNS, system="S", image_context_length=2)
    open_turns = [*THREE_TURNS[:2], Turn(THREE_TURNS[2].question)]
    asked, labels = build_prompt(tokenizer, open_turns, system="S", image_context_length=2)
    assert answered[: len(asked)] == asked
    assert tokenizer.decode(answered[len(asked) :]) == "没有, no<|im_end|>\n"
    assert labels[-1] == IGNORE_INDEX


def test_equals_qwens_chat_template_rendering(tokenizer):
    text = "<|im_start|>system\nS.<|im_end|>\n<|im_start|>user\nHello 1234 你好<|im_end|>\n<|im_start|>assistant\n"
    ids, _ = build_prompt(tokenizer, [Turn("Hello 1234 你好")], system="S.")
    assert ids == tokenizer.encode(text, add_special_tokens=False)


def test_placeholder_stands_where_the_question_puts_it(tokenizer):
    image = token_id(tokenizer, IMAGE_TOKEN)
    ids, _ = build_prompt(tokenizer, [Turn(f"compare {IMAGE_TOKEN} and {IMAGE_TOKEN}", "yes")], image_context_length=4)
    runs = "".join("i" if token == image else "." for token in ids).strip(".").split(".")
    assert [run for run in runs if run] == ["iiii", "iiii"]


def test_only_the_last_turn_may_be_open(tokenizer):
    with pytest.raises(PromptError, match="turn 1 of 2 has no answer"):
        build_prompt(tokenizer, [Turn("a"), Turn("b", "c")])
    with pytest.raises(PromptError, match="at least one turn"):
        build_prompt(tokenizer, [])


def test_no_text_can_forge_a_turn_an_end_or_an_image(tokenizer):
    """Random texts stuffed with control tokens, whole, broken and nested, as question and as answer."""
    rng = random.Random(0)
    parts = [
        "<|im_start|>",
        "<|im_end|>",
        "<|extra_0|>",
        "<|endoftext|>",
        "<image>",
        "<|",
        "|>",
        "im_end",
        "<",
        "a",
        "图",
        "\n",
    ]
    control = {token_id(tokenizer, t) for t in ("<|im_start|>", "<|im_end|>", "<|extra_0|>", "<|endoftext|>")}
    for _ in range(500):
        question, answer = ("".join(rng.choices(parts, k=12)) for _ in range(2))
        ids, labels = build_prompt(tokenizer, [Turn(neutralise(question), answer)], system=answer)
        found = [tokenizer.convert_ids_to_tokens(i) for i in ids if i in control]
        assert found == ["<|im_start|>", "<|im_end|>"] * 3


def test_neutralise_keeps_text_readable_and_leaves_no_control_token():
    assert neutralise("a <image> <|im_end|>") == "a < image > <| im_end |>"
    assert neutralise("a < b, |x| > 1 <b>") == "a < b, |x| > 1 <b>"
    nested = neutralise("<|im_<|im_end|>end|>")
    assert "<|im_end|>" not in nested and neutralise(nested) == nested


def test_too_long_drops_whole_oldest_turns_but_keeps_the_image(tokenizer):
    whole, _ = build_prompt(tokenizer, THREE_TURNS, image_context_length=5)
    ids, labels = fit_prompt(tokenizer, THREE_TURNS, max_length=len(whole) - 1, image_context_length=5)
    text = tokenizer.decode(ids)
    assert text.startswith("<|im_start|>user\n" + IMAGE_TOKEN * 5 + "\n正方形在哪里？<|im_end|>")
    assert supervised_spans(tokenizer, ids, labels) == ["左上角<|im_end|>", "没有, no<|im_end|>"]


def test_a_question_that_leaves_no_room_for_the_answer_is_refused_with_all_the_numbers(tokenizer):
    question = [Turn("word " * 100)]
    length = len(build_prompt(tokenizer, question)[0])
    assert fit_prompt(tokenizer, question, max_length=length + 50, max_new_tokens=50)
    with pytest.raises(PromptError) as caught:
        fit_prompt(tokenizer, question, max_length=length + 49, max_new_tokens=50)
    numbers = f"language.max_length ({length + 49}) less max_new_tokens (50) allows {length - 1}; "
    assert str(caught.value).startswith(f"too long: {length} tokens with one turn, {numbers}")
    assert "fewer pictures" not in str(caught.value)
    with pytest.raises(PromptError, match="shorter question, or show fewer pictures$") as caught:
        fit_prompt(tokenizer, [Turn(IMAGE_TOKEN * 2)], max_length=20, max_new_tokens=5, image_context_length=9)
    assert "原文" not in in_chinese(str(caught.value)) and "减少图片" in in_chinese(str(caught.value))


def test_one_turn_too_long_is_refused_and_never_cut(tokenizer):
    with pytest.raises(PromptError, match="too long: .* allows 20"):
        fit_prompt(tokenizer, THREE_TURNS[:1], max_length=20, image_context_length=30)


@pytest.mark.parametrize(
    "text",
    ["<think>\nhm\n</think>\n\nyes", " <think>still at it", "<thin", "yes", "", "1 < 2", "</think>", "<b></think>"],
)
def test_thoughts_are_left_out_of_a_stream_in_any_pieces(text):
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            pieces = [text[:first], text[first:second], text[second:]]
            assert "".join(skip_thoughts(pieces)) == without_thoughts(text)
    assert list(skip_thoughts(["<th", "ough", "t"])) == ["<though", "t"]  # nothing is held back longer than necessary


def test_pictures_are_numbered_through_the_conversation(tokenizer):
    turns = [Turn(question_with_images("Which?", 2), "a"), Turn(f"And {IMAGE_TOKEN} or Picture 4: {IMAGE_TOKEN}?")]
    options = {"image_context_length": 1, "picture_numbers": True}
    text = tokenizer.decode(build_prompt(tokenizer, turns, **options)[0])
    assert f"Picture 1: {IMAGE_TOKEN}\nPicture 2: {IMAGE_TOKEN}\nWhich?<|im_end|>" in text
    assert f"And Picture 3: {IMAGE_TOKEN}\n or Picture 4: {IMAGE_TOKEN}\n?<|im_end|>" in text
    written = [
        Turn(f"Picture 1: {IMAGE_TOKEN}\nPicture 2: {IMAGE_TOKEN}\nWhich?", "a"),
        Turn(f"And Picture 3: {IMAGE_TOKEN}\n or Picture 4: {IMAGE_TOKEN}\n?"),
    ]
    assert build_prompt(tokenizer, turns, **options) == build_prompt(tokenizer, written, image_context_length=1)


def test_a_word_is_encoded_alone_and_after_a_space_where_it_may_follow_one(tokenizer):
    alone, spaced = (encode_text(tokenizer, text) for text in ("arrow", " arrow"))
    assert encode_as_word(tokenizer, "arrow") == alone + spaced and alone != spaced
    assert encode_as_word(tokenizer, "箭头") == encode_text(tokenizer, "箭头")

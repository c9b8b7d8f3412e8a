"""Message trees of plain texts."""

from __future__ import annotations

import pytest

from dataset.prompt import IGNORE_INDEX, Turn, encode_text
from demo import BACKBONES
from demo.texts import FIRST, VISUAL_TOKENS, bare_lines, encode_words, tree_of
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer, token_id


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(BACKBONES / "qwen"))


def test_a_private_character_is_one_token_and_other_text_is_as_always(tokenizer):
    assert encode_words(tokenizer, "Is it red?") == list(encode_text(tokenizer, "Is it red?"))
    mixed = encode_words(tokenizer, f"Is it {chr(FIRST + 77)}, {chr(FIRST + 300)}?")
    question = encode_text(tokenizer, "Is it"), encode_text(tokenizer, ","), encode_text(tokenizer, "?")
    assert mixed == [*question[0], 77, *question[1], 300, *question[2]]


def test_a_line_learns_its_answer_and_the_end(tokenizer):
    ids, labels = bare_lines(tokenizer, [Turn("A star.\nWhat shape is it?", "star")])
    answer = [*encode_text(tokenizer, "star"), tokenizer.eos_token_id]
    assert ids[-len(answer) :] == answer == [label for label in labels if label != IGNORE_INDEX]
    assert tokenizer.decode(ids[: -len(answer)]) == "A star.\nWhat shape is it? "


@pytest.mark.parametrize("chat", [False, True])
def test_a_picture_is_in_the_root_and_takes_63_tokens(tokenizer, chat):
    talks = [[Turn(f"{IMAGE_TOKEN}\nIs it {word}?", "no")] for word in ("red", "blue")]
    tree = tree_of(tokenizer, talks, chat)
    image = token_id(tokenizer, IMAGE_TOKEN)
    at = [segment for id, segment in zip(tree["input_ids"], tree["segments"], strict=True) if id == image]
    assert at == [0] * VISUAL_TOKENS
    assert set(tree["segments"]) == {0, 1, 2} and tree["pixel_values"] == []
    assert ("<|im_start|>" in tokenizer.decode(tree["input_ids"])) == chat

"""The control tokens of boxes: Qwen-VL's own, those of Qwen2.5, or new ones in spare rows."""

from __future__ import annotations

import pytest
from transformers import AddedToken, AutoTokenizer

from dataset.prompt import IGNORE_INDEX, Turn, build_prompt, decode_said, encode_said, neutralise
from qwen.tokenizer import box_tokens, load_tokenizer, token_id, untrained_box_rows
from tests.helpers.tiny import TOKENIZER

ANSWER = "<ref>bees</ref><box>(661,612),(833,812)</box> there"


def with_tokens(folder, names):
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True)
    tokenizer.save_pretrained(folder)
    return load_tokenizer(str(folder), boxes=True)


def test_a_tokenizer_without_them_gets_them_after_its_vocabulary():
    plain, grown = load_tokenizer(str(TOKENIZER)), load_tokenizer(str(TOKENIZER), boxes=True)
    assert box_tokens(plain) == {} and len(grown) == len(plain) + 4
    assert untrained_box_rows(grown) == list(range(len(plain), len(plain) + 4))


def test_qwen_vls_own_are_used_and_need_no_training(tmp_path):
    tokenizer = with_tokens(tmp_path, ["<ref>", "</ref>", "<box>", "</box>"])
    assert box_tokens(tokenizer)["<box>"] == "<box>" and untrained_box_rows(tokenizer) == []


def test_those_of_qwen2_5_are_used(tmp_path):
    names = ["<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"]
    tokenizer = with_tokens(tmp_path, names)
    assert list(box_tokens(tokenizer).values()) == names
    assert untrained_box_rows(tokenizer) == [token_id(tokenizer, name) for name in names]


@pytest.mark.parametrize("boxes", [False, True])
def test_marks_in_a_prompt(boxes):
    tokenizer = load_tokenizer(str(TOKENIZER), boxes)
    ids, labels = build_prompt(tokenizer, [Turn("<box>(1,2),(30,4)</box> What?", ANSWER)])
    supervised = [label for label in labels if label != IGNORE_INDEX]
    assert supervised[:-1] == list(encode_said(tokenizer, ANSWER))
    marks = {token_id(tokenizer, token) for token in box_tokens(tokenizer).values()}
    assert sum(token in marks for token in ids) == (6 if boxes else 0)
    assert decode_said(tokenizer, supervised) == ANSWER  # without the tokens, the marks are ordinary characters
    typed, _ = build_prompt(tokenizer, [Turn(neutralise("<box>(1,2),(30,4)</box> <|box_start|>"))])
    assert not marks & set(typed)


def test_a_mark_that_the_model_spells_is_no_box():
    tokenizer = load_tokenizer(str(TOKENIZER), boxes=True)
    spelt = tokenizer.encode("<box>(1,2),(3,4)</box>", add_special_tokens=False, split_special_tokens=True)
    assert decode_said(tokenizer, spelt) == "< box >(1,2),(3,4)< /box >"

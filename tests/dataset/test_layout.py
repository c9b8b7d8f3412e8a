"""A LLaVA's chat template is followed piece by piece; what is learnt is the same as with ChatML."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from common.errors import UserError
from dataset.layout import layout_of
from dataset.prompt import Turn, build_prompt
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer
from tests.helpers.llava import INTERLEAVE, VICUNA
from tests.helpers.tiny import TOKENIZER

TURNS = [Turn(f"{IMAGE_TOKEN}\nred?", "yes"), Turn("why?", "so"), Turn(f"{IMAGE_TOKEN}{IMAGE_TOKEN}\nand?", "no")]


def following(template: str):
    """The demo's tokenizer with a template, as it comes out of a LLaVA folder."""
    tokenizer = load_tokenizer(str(TOKENIZER))
    tokenizer.chat_template = template.replace("<image>", IMAGE_TOKEN)
    return tokenizer


def texts(tokenizer, ids, labels) -> tuple[str, list[str]]:
    """The whole prompt as text, with <image> for the placeholder, and the runs of it that are learnt."""
    runs: list[list[int]] = []
    for index, label in enumerate(labels):
        if label != -100:
            runs.append([]) if not index or labels[index - 1] == -100 else None
            runs[-1].append(label)
    return tokenizer.decode(ids).replace(IMAGE_TOKEN, "<image>"), [tokenizer.decode(run) for run in runs]


GOLDEN = {
    "qwen": (
        INTERLEAVE,
        "<|im_start|>user <image>\nred?<|im_end|><|im_start|>assistant \nyes<|im_end|><|im_start|>user \nwhy?<|im_end|>"
        "<|im_start|>assistant \nso<|im_end|><|im_start|>user <image><image>\nand?<|im_end|><|im_start|>assistant\n"
        "no<|im_end|>",
        ["yes<|im_end|>", "so<|im_end|>", "no<|im_end|>"],
    ),
    "vicuna": (
        VICUNA,
        "A chat with an assistant. USER: <image>\nred? ASSISTANT: yes USER: why? ASSISTANT: so USER: <image>\n<image>\n"
        "and? ASSISTANT: no<|im_end|> ",
        [" yes", " so", " no<|im_end|>"],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_prompt_and_what_is_learnt_of_it(name):
    template, text, learnt = GOLDEN[name]
    tokenizer = following(template)
    assert texts(tokenizer, *build_prompt(tokenizer, TURNS, image_context_length=1)) == (text, learnt)
    ids, labels = build_prompt(tokenizer, [*TURNS[:2], Turn(TURNS[2].question)], image_context_length=3)
    assert labels[-1] == -100 and tokenizer.decode(ids).endswith("assistant\n" if name == "qwen" else " ASSISTANT:")
    assert ids.count(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)) == 9


@pytest.mark.parametrize("name", GOLDEN)
def test_a_system_message_and_control_tokens_in_texts(name):
    tokenizer = following(GOLDEN[name][0])
    ids, _ = build_prompt(tokenizer, [Turn("a<|im_end|>")], system="Be brief.")
    wanted = "<|im_start|>system \nBe brief.<|im_end|>" if name == "qwen" else "Be brief. USER: "
    assert tokenizer.decode(ids).startswith(wanted)
    number = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(number) == (2 if name == "qwen" else 0)  # those of the template alone


def test_texts_without_a_placeholder_in_the_template_are_chatml():
    plain = AutoTokenizer.from_pretrained(TOKENIZER)
    assert layout_of(load_tokenizer(str(TOKENIZER)), False).first == "<|im_start|>user\n"
    plain.chat_template = "{{ messages[0]['content'] }}"
    assert layout_of(plain, False) == layout_of(load_tokenizer(str(TOKENIZER)), False)


@pytest.mark.parametrize(
    "template",
    [
        INTERLEAVE.replace("message['role'] + ' '", "message['role'] + loop.index|string"),
        INTERLEAVE.replace("{{ '<|im_end|>' }}", "{{ messages|length }}"),
        "{{ raise_exception('no') }}<image>",
        "<image>",
    ],
)
def test_a_template_that_cannot_be_followed_is_refused(template):
    with pytest.raises(UserError, match="model: its chat template cannot be followed"):
        build_prompt(following(template), TURNS)


def test_a_system_message_that_the_template_does_not_have_is_refused():
    template = INTERLEAVE.replace(
        "{% for message in messages %}",
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for message in messages %}",
    )
    assert build_prompt(following(template), TURNS)
    with pytest.raises(UserError, match="the chat template of this model has no system message"):
        build_prompt(following(template), TURNS, system="Be brief.")

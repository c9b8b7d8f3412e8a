"""The chat template of an export gives the ids of build_prompt."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from answering.exporting.template import IMAGE, chat_template
from dataset.prompt import Turn, build_prompt
from qwen.rename import rename_token
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer
from tests.helpers.tiny import save_qwen3

TURNS = [Turn(f"{IMAGE_TOKEN}{IMAGE_TOKEN}\nred? 红色", "yes\n\nno"), Turn(f"a {IMAGE_TOKEN}\nb", "<b>"), Turn("x")]
MESSAGES = [
    {"role": "user", "content": [{"type": "text", "text": "red? 红色"}, {"type": "image"}, {"type": "image_url"}]},
    {"role": "assistant", "content": "yes\n\nno"},
    {"role": "user", "content": "a <image>\nb"},
    {"role": "assistant", "content": [{"type": "text", "text": "<b>"}]},
    {"role": "user", "content": [{"type": "text", "text": "x"}]},
]


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def tokenizers(request, qwen_folder, tmp_path_factory):
    """Ours, and the one of an export."""
    folder = qwen_folder if request.param == "qwen2" else save_qwen3(tmp_path_factory.mktemp("qwen3"))
    ours, saved = load_tokenizer(str(folder)), tmp_path_factory.mktemp("renamed")
    ours.save_pretrained(saved)
    rename_token(saved, IMAGE_TOKEN, IMAGE)
    return ours, AutoTokenizer.from_pretrained(saved)


@pytest.mark.parametrize("system", ["You are a helpful assistant.", "", 'Say "nein"\n\\ 你好 🙂 {{ x }} @text@'])
@pytest.mark.parametrize("thinking", [False, True])
def test_the_template_gives_our_ids_over_several_turns(tokenizers, system, thinking):
    ours, theirs = tokenizers
    theirs.chat_template = chat_template(ours, system, thinking)
    for given in (system, "Be brief.\n"):
        first = [{"role": "system", "content": given}] if given != system else []
        for turns in (1, 2, 3):
            asked = [*TURNS[: turns - 1], Turn(TURNS[turns - 1].question)]
            ids, _ = build_prompt(ours, asked, system=given, image_context_length=1, thinking=thinking)
            messages = [*first, *MESSAGES[: 2 * turns - 1]]
            text = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            assert theirs.encode(text, add_special_tokens=False) == ids
            assert theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == ids


def test_earlier_thoughts_are_not_shown_again(tokenizers):
    ours, theirs = tokenizers
    theirs.chat_template = chat_template(ours, "", thinking=True)
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nb"},
        {"role": "user", "content": "c"},
    ]
    ids, _ = build_prompt(ours, [Turn("a", "b"), Turn("c")], thinking=True)
    assert theirs.apply_chat_template(talk, add_generation_prompt=True)["input_ids"] == ids

"""How the language model starts."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2ForCausalLM

from demo import BACKBONES, recall
from demo.language import language_config
from qwen.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(BACKBONES / "qwen"))


def test_heads_of_the_first_layer_start_by_looking_a_few_tokens_back(tokenizer):
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(language_config(tokenizer)).eval()
    model.set_attn_implementation("eager")
    recall.start_as_recall(model)
    ids = torch.randint(10, 600, (1, 24), generator=torch.Generator().manual_seed(0))
    first, second, *_ = model(ids, output_attentions=True).attentions  # [1, H, T, T] each
    for head in range(8):
        assert first[0, head, 20].argmax().item() == 20 - recall.OFFSETS[head]
    again = ids.clone()
    again[0, 20] = again[0, 5]  # the same word twice: the second finds the first, or itself
    _, second, *_ = model(again, output_attentions=True).attentions
    assert second[0, :, 20, [5, 20]].sum(-1).mean() > 3 * second[0, :, 20].mean() * 2


def test_chinese_words_start_as_the_english_ones_moved_by_one_vector(tokenizer):
    torch.manual_seed(0)
    table = torch.randn(4864, 16)
    recall.tie_languages(table, tokenizer)
    moves = []
    for english, chinese in (("red", "红色"), ("circle", "圆形"), ("large", "大"), ("center", "中央")):
        (new,), known = tokenizer.encode(chinese), tokenizer.encode(" " + english)
        moves.append(table[new] - table[known].mean(0))
    for move in moves[1:]:
        torch.testing.assert_close(move, moves[0])
    assert moves[0].norm() > 0.5

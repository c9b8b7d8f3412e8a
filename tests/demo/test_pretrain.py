"""The script that made the demo's backbones: what it trains on, and how the language model starts."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import Qwen2ForCausalLM

from dataset.prompt import IGNORE_INDEX
from demo import pretrain, scenes
from qwen.tokenizer import load_tokenizer
from tests.helpers.tiny import TOKENIZER


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(TOKENIZER))


@pytest.mark.parametrize("chat", [False, True])
def test_a_reading_tree_is_a_caption_and_questions_that_do_not_see_each_other(tokenizer, chat):
    tree = pretrain.reading_tree(tokenizer, random.Random(3), ("en",), chat, questions=5, folds=(4,))
    segments = tree["segments"]
    assert set(segments) == {0, 1, 2, 3, 4, 5} and segments == sorted(segments)
    root = [token for token, segment in zip(tree["input_ids"], segments, strict=True) if segment == 0]
    text = tokenizer.decode(root)
    scene = next(s for s in drawn(3) if scenes.caption(s, "en") in text or scenes.caption(s, "en", 1) in text)
    assert scenes.fold_of(scene) == 4 and ("<|im_start|>" in text) == chat
    assert all(label == IGNORE_INDEX for label, segment in zip(tree["labels"], segments, strict=True) if segment == 0)
    for number in range(1, 6):
        learnt = [label for label, s in zip(tree["labels"], segments, strict=True) if s == number and label >= 0]
        assert learnt[-1] == tokenizer.eos_token_id and len(learnt) >= 2


def drawn(seed: int):
    """The scenes that the first draws of a generator of this seed may give."""
    rng = random.Random(seed)
    yield scenes.draw_scene(rng, folds=(4,), fewest=1 if rng.random() < 0.15 else 2)


def test_scenes_of_the_test_and_validation_folds_are_never_read(tokenizer, monkeypatch):
    seen = set()
    draw = scenes.draw_scene

    def watched(*arguments, **options):
        scene = draw(*arguments, **options)
        seen.add(scenes.fold_of(scene))
        return scene

    monkeypatch.setattr(scenes, "draw_scene", watched)
    rng = random.Random(0)
    for _ in range(200):
        pretrain.reading_tree(tokenizer, rng, ("en", "zh"), True, 1, range(2, scenes.FOLDS))
    assert seen == set(range(2, 10))


def test_heads_of_the_first_layer_start_by_looking_a_few_tokens_back(tokenizer):
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(pretrain._language_config(tokenizer)).eval()
    model.set_attn_implementation("eager")
    pretrain.start_as_recall(model)
    ids = torch.randint(10, 600, (1, 24), generator=torch.Generator().manual_seed(0))
    first, second, *_ = model(ids, output_attentions=True).attentions  # [1, H, T, T] each
    for head in range(8):
        assert first[0, head, 20].argmax().item() == 20 - pretrain.OFFSETS[head]
    again = ids.clone()
    again[0, 20] = again[0, 5]  # the same word twice: the second finds the first, or itself
    _, second, *_ = model(again, output_attentions=True).attentions
    assert second[0, :, 20, [5, 20]].sum(-1).mean() > 3 * second[0, :, 20].mean() * 2


def test_chinese_words_start_as_the_english_ones_moved_by_one_vector(tokenizer):
    torch.manual_seed(0)
    table = torch.randn(768, 16)
    pretrain.tie_languages(table, tokenizer)
    moves = []
    for english, chinese in (("red", "红色"), ("circle", "圆形"), ("large", "大"), ("center", "中央")):
        (new,), known = tokenizer.encode(chinese), tokenizer.encode(" " + english)
        moves.append(table[new] - table[known].mean(0))
    for move in moves[1:]:
        torch.testing.assert_close(move, moves[0])
    assert moves[0].norm() > 0.5

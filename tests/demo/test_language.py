"""Trees of captions and questions: what the language model reads, and what it never reads."""

from __future__ import annotations

import random

import pytest
import torch

from dataset.prompt import IGNORE_INDEX
from demo import language, scenes
from qwen.tokenizer import load_tokenizer
from tests.helpers.tiny import TOKENIZER


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(TOKENIZER))


@pytest.mark.parametrize("chat", [False, True])
def test_a_reading_tree_is_a_caption_and_questions_that_do_not_see_each_other(tokenizer, chat):
    tree = language.reading_tree(tokenizer, random.Random(3), ("en",), chat, questions=5, folds=(4,))
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
        language.reading_tree(tokenizer, rng, ("en", "zh"), True, 1, range(2, scenes.FOLDS))
    assert seen == set(range(2, 10))


def test_an_answer_is_right_only_if_all_its_tokens_are():
    end, targets = 9, torch.tensor([1, 2, 9, 3, 9, 4, 9])
    said = torch.tensor([1, 2, 9, 5, 9, 4, 0])
    assert language.answers_right(torch.nn.functional.one_hot(said, 10), targets, end).tolist() == [True, False, False]

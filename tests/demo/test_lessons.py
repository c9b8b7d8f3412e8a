"""Lessons of the language model's pretraining: what they ask, and what they never ask about."""

from __future__ import annotations

import random

import pytest
import torch

from dataset.prompt import IGNORE_INDEX
from demo import BACKBONES, lessons, scenes
from demo.lessons import KINDS, PHASES, Lessons, Progress
from demo.made_up import Level
from demo.texts import VISUAL_TOKENS
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer, token_id

HARD = Level(pictures=True, fewest=1, long=1.0)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(BACKBONES / "qwen"))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("name", ["text", "picture"])
def test_a_made_up_lesson_is_a_tree_with_the_kind_of_each_answer(tokenizer, name, chat):
    lesson = lessons.made_up_lesson(tokenizer, random.Random(3), HARD, name, chat, questions=6)
    answers = sum(label == tokenizer.eos_token_id for label in lesson.tree["labels"])
    assert answers == len(lesson.kinds) == max(lesson.tree["segments"]) >= 4
    assert set(lesson.kinds) <= {f"{name} yes/no", f"{name} word"}
    visual = lesson.tree["input_ids"].count(token_id(tokenizer, IMAGE_TOKEN))
    assert visual == (VISUAL_TOKENS if name == "picture" else 0) and (lesson.picture is None) == (name == "text")
    labels, segments = lesson.tree["labels"], lesson.tree["segments"]
    assert all(label == IGNORE_INDEX for label, segment in zip(labels, segments, strict=True) if segment == 0)


@pytest.mark.parametrize("chat", [False, True])
def test_a_caption_and_questions_that_do_not_see_each_other(tokenizer, chat):
    tree = lessons.caption_lesson(tokenizer, random.Random(3), ("en",), chat, questions=5, folds=(4,)).tree
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


def test_scenes_of_the_test_and_validation_folds_are_never_drawn(tokenizer, monkeypatch):
    seen, draw = [], scenes.draw_scene
    monkeypatch.setattr(scenes, "draw_scene", lambda *a, **k: seen.append(draw(*a, **k)) or seen[-1])
    rng = random.Random(0)
    for _ in range(3):
        lessons.draw_lessons(tokenizer, rng, PHASES[-1], HARD)
    assert {scenes.fold_of(scene) for scene in seen} == set(range(2, 10)) and len(seen) > 80


def test_a_phase_has_its_lessons_and_chat_has_no_private_characters(tokenizer):
    alone, *_, chat = PHASES
    first = lessons.draw_lessons(tokenizer, random.Random(0), alone, Level())
    assert len(first) == 64 and all(lesson.picture is None for lesson in first)
    later = lessons.draw_lessons(tokenizer, random.Random(0), alone, Level(True, 1, 1))
    assert sum(lesson.picture is not None for lesson in later) == alone.lessons["picture"]
    mixed = lessons.draw_lessons(tokenizer, random.Random(0), chat, Level(True, 1, 2, 0.1))
    kinds = [lesson.kinds[0].split()[0] for lesson in mixed]
    assert {kind: kinds.count(kind) for kind in kinds} == chat.lessons
    text = "".join(tokenizer.decode(lesson.tree["input_ids"]) for lesson in mixed)
    assert not any(ord(character) >= 0xE000 and ord(character) < 0xF900 for character in text)
    for lesson in [*first, *later, *mixed]:
        assert len(lesson.kinds) == sum(label == tokenizer.eos_token_id for label in lesson.tree["labels"])


def test_a_batch_says_where_answers_and_visual_tokens_are(tokenizer):
    drawn = [
        lessons.made_up_lesson(tokenizer, random.Random(0), HARD, "text", False, 3),
        lessons.made_up_lesson(tokenizer, random.Random(1), HARD, "picture", True, 4),
    ]
    batch = lessons.batch_of(drawn, tokenizer)
    flat = batch.input_ids.flatten()
    assert (flat[batch.before + 1] == batch.targets).all()
    labels = [label for lesson in drawn for label in lesson.tree["labels"] if label != IGNORE_INDEX]
    assert batch.targets.tolist() == labels
    assert [KINDS[kind] for kind in batch.kinds] == [kind for lesson in drawn for kind in lesson.kinds]
    assert (flat[batch.images] == token_id(tokenizer, IMAGE_TOKEN)).all() and len(batch.images) == VISUAL_TOKENS
    ends = batch.targets == tokenizer.eos_token_id
    assert batch.answers[ends].tolist() == list(range(len(batch.kinds)))
    assert (batch.answers.diff() == ends[:-1].long()).all()


def test_lessons_follow_the_progress_and_a_seed(tokenizer):
    progress = Progress()
    batches = iter(Lessons(tokenizer, progress, seed=5))
    first = next(batches)
    assert first.pictures is None
    again = next(iter(Lessons(tokenizer, progress, seed=5)))
    assert torch.equal(first.input_ids, again.input_ids)
    progress.set(3, Level(True, 1, 3, 0.5))
    assert progress.get() == (PHASES[3], Level(True, 1, 3, 0.5))
    batch = next(batches)
    assert batch.pictures is not None and len(batch.pictures.words) == 32
    assert {KINDS[kind].split()[0] for kind in batch.kinds} == {"caption", "scene", "text", "picture"}

"""The language model's pretraining: what it predicts and what counts as right."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import Qwen2ForCausalLM

from demo import BACKBONES, language, lessons
from demo.made_up import Level
from qwen.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(BACKBONES / "qwen"))


def batch_of(*kinds: str):
    tokenizer = load_tokenizer(str(BACKBONES / "qwen"))
    level = Level(pictures=True, fewest=1, long=1.0)
    drawn = [lessons.made_up_lesson(tokenizer, random.Random(n), level, kind, False, 3) for n, kind in enumerate(kinds)]
    return lessons.batch_of(drawn, tokenizer)


def test_the_logits_of_an_answer_follow_the_model_and_the_imitated_picture(tokenizer):
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(language.language_config(tokenizer))
    batch = batch_of("text", "picture")
    with torch.no_grad():
        torch.manual_seed(1)
        logits = language.answer_logits(model, model.model, batch)
        torch.manual_seed(1)
        again = language.answer_logits(model, model.model, batch)
        torch.manual_seed(2)
        other = language.answer_logits(model, model.model, batch)
        text_alone = language.answer_logits(model, model.model, batch_of("text"))
    assert logits.shape == (len(batch.targets), 4864)
    torch.testing.assert_close(logits, again)
    count = len(text_alone)
    torch.testing.assert_close(logits[:count], text_alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits[:count], other[:count], atol=1e-5, rtol=1e-4)
    assert (logits[count:] - other[count:]).abs().max() > 1e-4  # the picture's noise is another


def test_an_answer_is_right_only_if_all_its_tokens_are():
    batch = batch_of("text")._replace(
        targets=torch.tensor([1, 2, 9, 3, 9, 4, 9]),
        answers=torch.tensor([0, 0, 0, 1, 1, 2, 2]),
        kinds=torch.tensor([3, 4, 4]),
    )
    logits = torch.nn.functional.one_hot(torch.tensor([1, 2, 9, 5, 9, 4, 0]), 10)
    right = language.answers_right(logits, batch)
    assert right.tolist() == [True, False, False]
    shares = language.Shares(torch.device("cpu"))
    for _ in range(40):
        shares.add(right, batch.kinds)
    assert shares.read() == {"text word": pytest.approx(1), "text yes/no": 0.0}


def test_four_steps_of_all_phases_train_and_are_saved(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    small = tuple(phase._replace(lessons=dict.fromkeys(phase.lessons, 1)) for phase in lessons.PHASES)
    monkeypatch.setattr(lessons, "PHASES", small)
    monkeypatch.setattr(lessons, "FIRST_LESSONS", {"text": 2})
    monkeypatch.setattr(language, "reading_accuracy", lambda *_: 0.0)
    language.train_language(4, output=tmp_path)
    trained = Qwen2ForCausalLM.from_pretrained(tmp_path / "qwen")
    names = sorted(path.name for path in (tmp_path / "qwen").glob("tokenizer*"))
    assert names == ["tokenizer.json", "tokenizer_config.json"]
    assert (tmp_path / "qwen/tokenizer.json").read_bytes() == (BACKBONES / "qwen/tokenizer.json").read_bytes()
    assert trained.config.vocab_size == 4864 and torch.isfinite(trained.model.embed_tokens.weight).all()


def test_processes_draw_what_the_progress_says(tokenizer):
    progress = lessons.Progress()
    batches = iter(language.loader(lessons.Lessons(tokenizer, progress), workers=2))
    assert next(batches).pictures is None
    progress.set(3, Level(True, 1, 3, 0.5))
    later = [next(batches) for _ in range(6)]  # the four that were drawn ahead, and others
    assert later[-1].pictures is not None

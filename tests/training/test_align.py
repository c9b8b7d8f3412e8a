"""The projector's own steps: what is compared with what, and that tokens come to name the answers."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dataset.prompt import encode_as_word
from tests.helpers.runs import runs_of
from training import align as module
from training.align import Alignment, Asked, asked_pictures, features_of
from training.setup import build_loop

RED = Asked(0, "a", [("What color?", "red"), ("Welche Farbe?", "rot")])
BLUE = Asked(1, "b", [("What color?", "blue")])
DOG = Asked(2, "c", [("What animal?", "dog")])


@pytest.fixture
def loop(make_config, monkeypatch):
    """A run of 6 pictures before its first step, with 40 steps for the projector alone."""
    monkeypatch.setattr(module, "BATCH", 12)
    config = make_config("projector.align_steps=40", "train.max_steps=1")
    return build_loop(config, Path(config.train.output) / "a")


def test_a_picture_is_compared_with_the_answers_to_its_own_questions(loop):
    alignment = Alignment(loop.model, loop.tokenizer, [RED, BLUE, DOG])
    numbers, has, could = alignment.candidates([RED, BLUE, DOG])
    assert [alignment.answers[number] for number in numbers] == ["blue", "dog", "red", "rot"]
    assert has.tolist() == [[False, False, True, True], [True, False, False, False], [False, True, False, False]]
    assert could.tolist() == [[True, False, True, True], [True, False, True, False], [False, True, False, False]]


def test_an_answer_is_the_mean_of_its_tokens_less_that_of_all_answers(loop):
    alignment = Alignment(loop.model, loop.tokenizer, [RED, BLUE])
    table = loop.model.language.get_input_embeddings().weight.detach()
    means = {
        answer: table[torch.tensor(encode_as_word(loop.tokenizer, answer))].mean(0) for answer in alignment.answers
    }
    assert set(means) >= {"red", "blue"}
    wanted = means["red"] - torch.stack(list(means.values())).mean(0)
    torch.testing.assert_close(alignment.words[alignment.number["red"]], wanted / wanted.norm())


def test_the_token_that_is_most_like_an_answer_decides(loop):
    alignment = Alignment(loop.model, loop.tokenizer, [RED, BLUE])
    red, blue = (alignment.words[alignment.number[answer]] for answer in ("red", "blue"))
    tokens = torch.stack([3 * red, -red, -blue])[None]  # [1, 3, D]
    said = alignment.compare(tokens, [alignment.number["red"], alignment.number["blue"]])[0]
    cosines = [1.0, -1.0, -float(red @ blue)]
    assert said[0].item() == pytest.approx(math.log(sum(math.exp(10 * c) for c in cosines) / 3), abs=1e-4)
    assert said[0] > said[1]


def test_a_question_that_occurs_once_is_compared_within_its_language(make_config):
    def talk(question: str, answer: str, language: str) -> dict:
        turns = [{"q": f"<|extra_0|>\n{question}", "a": [answer]}]
        return {"source": "test", "language": language, "split": "train", "turns": turns}

    talks = {
        "0": [talk("What is this?", "a dog", "en")],
        "1": [talk("What is this?", "a cat", "en"), talk("Tell me a story.", "Once", "en")],
        "2": [talk("Who is here?", "nobody", "en"), talk("谁？", "没有人", "zh")],
    }
    config = make_config("train.eval_strategy=no", conversations=talks)
    loop = build_loop(config, Path(config.train.output) / "a")
    asked = asked_pictures(loop.feed.known, random.Random(0))
    names = {answer: name for one in asked for name, answer in one.turns}
    assert names["a dog"] == names["a cat"] != names["Once"]
    assert names["Once"] == names["nobody"] == "en" and names["没有人"] == "zh"


def test_the_projector_learns_to_name_the_answers_and_nothing_else_changes(loop):
    asked = asked_pictures(loop.feed.known, random.Random(0))
    features, asked = features_of(loop.model, loop.feed.known, asked, torch.device("cpu"))
    alignment = Alignment(loop.model, loop.tokenizer, asked)
    with torch.no_grad():
        before, _ = alignment.loss(loop.model.projector(features), asked)
    language = {name: value.clone() for name, value in loop.model.language.state_dict().items()}
    share = alignment.train(features, 40, seed=0)
    with torch.no_grad():
        after, right = alignment.loss(loop.model.projector(features), asked)
        lengths = loop.model.projector(features).norm(dim=-1) / alignment.word_length
    assert after < 0.5 * before and right > 0.8 and share > 0.8
    assert lengths.mean().item() == pytest.approx(2, abs=0.5)
    assert all(torch.equal(value, language[name]) for name, value in loop.model.language.state_dict().items())
    assert all(parameter.grad is None for parameter in loop.model.projector.parameters())


def test_a_run_begins_with_it_and_a_repeated_run_begins_alike(make_config, monkeypatch, capsys):
    monkeypatch.setattr(module, "BATCH", 12)
    config = make_config("projector.align_steps=5")
    states = []
    for name in ("a", "b"):
        loop = build_loop(config, Path(config.train.output) / name)
        loop.prepare()
        states.append(loop.model.projector.state_dict())
    assert "5 steps of the projector alone on 5 pictures" in capsys.readouterr().out
    fresh = build_loop(make_config(), Path(config.train.output) / "c").model.projector.state_dict()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])
        assert not torch.equal(value, fresh[name])


def test_features_are_kept_up_to_a_limit(loop, monkeypatch):
    asked = asked_pictures(loop.feed.known, random.Random(0))
    monkeypatch.setattr(module, "CHUNK", 2)
    one, _ = features_of(loop.model, loop.feed.known, asked[:1], torch.device("cpu"))
    monkeypatch.setattr(module, "FEATURE_BYTES", 3 * one.nbytes)
    features, kept = features_of(loop.model, loop.feed.known, asked, torch.device("cpu"))
    assert len(features) == 4 and kept == asked[:4]


def test_a_damaged_picture_is_left_out(loop):
    asked = asked_pictures(loop.feed.known, random.Random(0))
    Path(loop.feed.known.paths[asked[1].image]).write_bytes(b"no picture")
    features, kept = features_of(loop.model, loop.feed.known, asked, torch.device("cpu"))
    assert kept == [asked[0], *asked[2:]] and len(features) == len(kept)


@pytest.mark.parametrize("damaged", [False, True])
def test_without_pictures_the_projector_keeps_its_start(make_config, damaged):
    talk = {"source": "test", "language": "en", "split": "train", "turns": [{"q": "Is 2 even?", "a": ["yes"]}]}
    options = ("train.eval_strategy=no", "projector.align_steps=5")
    shown = {**talk, "turns": [{"q": "<|extra_0|>\nWhat is this?", "a": ["a dog"]}]}
    talks = {"text": [talk] * 4, **({"0": [shown]} if damaged else {})}
    config = make_config(*options, pictures=int(damaged), conversations=talks)
    loop = build_loop(config, Path(config.train.output) / "a")
    for path in loop.feed.known.paths.values():
        Path(path).write_bytes(b"no picture")
    before = {name: value.clone() for name, value in loop.model.projector.state_dict().items()}
    loop.prepare()
    assert all(torch.equal(value, before[name]) for name, value in loop.model.projector.state_dict().items())


@pytest.mark.skipif(os.name == "nt", reason="POSIX processes")
def test_two_processes_begin_with_the_projector_of_one(make_config, tmp_path):
    options = ["projector.align_steps=3", "projector.learning_rate=1e-12", "train.max_steps=1", "train.save_steps=1"]
    start = runs_of(make_config, tmp_path, options)
    one, alone = start("one")
    two, shared = start("two")
    for result, codes in ((one(), [0]), (two(ranks=2), [0, 0])):
        assert result["codes"] == codes, result["output"]
        assert result["output"].count("steps of the projector alone") == 1
    first, second = (load_file(folder / "checkpoint-1" / "projector.safetensors") for folder in (alone, shared))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-7)

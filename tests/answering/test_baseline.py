"""A baseline's checkpoint answers where a language model's does: ask.py, evaluate.py and the window's worker."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ask
import evaluate
from answering.baseline import BaselineAssistant
from answering.conversation import Conversation
from answering.opening import assistant_of
from answering.worker import Worker
from baselines.train import main
from common.errors import UserError
from dataset.image import load_image
from model.manifest import Damaged
from tests.baselines.conftest import SMALL, colors

__all__ = ["colors"]  # a fixture


@pytest.fixture
def run(colors):
    """A function that trains a model on the colours and gives its run's folder."""

    def make(name: str, *overrides: str):
        config = colors(*overrides)
        file = str(config.data.image_map.parent / "run.yaml")
        assert main(["--config", file, "--model", name, *SMALL, *overrides]) == 0
        return config.train.output / f"test-{name}"

    return make


def test_it_answers_in_the_language_of_the_question_and_says_what_it_is(run, tmp_path, capsys):
    folder = run("attention")
    questions = [["What color is it?", "green"], ["它是什么颜色？", "绿色"]]
    for question, answer in questions:
        assert ask.main(["--checkpoint", str(folder), "--image", str(tmp_path / "1.png"), question]) == 0
        printed = capsys.readouterr()
        assert printed.out.splitlines()[-1] == answer
        assert "note: the baseline attention answers" in printed.err


def test_evaluate_scores_it_beside_the_floors_and_itself_with_another_picture(run, tmp_path, capsys):
    output = tmp_path / "result.json"
    arguments = ["--checkpoint", str(run("ibowimg")), "--split", "validation", "--output", str(output)]
    assert evaluate.main(arguments) == 0
    result = json.loads(output.read_text(encoding="utf-8"))
    overall = result["scores"]["overall"]
    assert overall["score"] == 1.0 and result["baseline"] == "ibowimg" and result["sight"] is None
    assert set(overall["baselines"]) == {"majority", "question_only", "other_picture", "no_picture"}
    assert overall["baselines"]["other_picture"]["mean"] < 0.6
    assert output.with_suffix(".html").is_file()
    assert "The baseline ibowimg answered" in capsys.readouterr().out


def test_the_worker_of_the_window_opens_it_and_shows_where_it_looks(run, tmp_path):
    worker = Worker()
    worker.load(run("attention"), "cpu")
    conversation = Conversation([load_image(tmp_path / "0.png", 10_000)], ["0.png"])
    worker.ask(conversation.ask("What color is it?"))
    seen = {}
    while "answer" not in seen:
        _, kind, value = worker.events.get(timeout=30)
        assert kind != "problem", value
        seen[kind] = value
    conversation.answer(seen["answer"])
    worker.look(conversation.up_to(0))
    while "looked" not in seen:
        _, kind, value = worker.events.get(timeout=30)
        seen[kind] = value
    assert seen["answer"] == "red" and seen["ready"].baseline == "attention"
    weights = seen["looked"].weights
    assert weights.shape == (1, 3, 3) and np.isnan(weights[0, 0, 0])  # the first patch is dropped
    assert np.nansum(weights) == pytest.approx(1, abs=1e-5)
    assert worker.close(5)


def test_what_it_cannot_do_is_said(run, tmp_path):
    assistant = assistant_of(run("lstm", "baselines.epochs=1")).load(tmp_path / "checkpoints" / "test-lstm", "cpu")
    assert isinstance(assistant, BaselineAssistant) and assistant.answer([]) == []
    image = load_image(tmp_path / "0.png", 10_000)
    with pytest.raises(UserError, match="answers about one picture, not about several"):
        assistant.answer([Conversation([image, image], ["0", "0"]).ask("What?")])
    with pytest.raises(UserError, match="lstm does not look at parts"):
        assistant.where_it_looks(Conversation([image], ["0"]).ask("What?"))


def test_a_damaged_checkpoint_is_refused(run):
    folder = run("question", "baselines.epochs=1") / "checkpoint-6"
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(Damaged, match="is not what was saved"):
        BaselineAssistant.load(folder, "cpu")

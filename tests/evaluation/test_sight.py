"""The gap and the shape of visual tokens, as evaluate.py measures them."""

from __future__ import annotations

import pytest
import torch

from answering.assistant import Assistant
from dataset.image import load_image_processor
from evaluation.questions import Question
from evaluation.report import sight_line
from evaluation.sight import measure_sight
from qwen.tokenizer import load_tokenizer
from tests.helpers.models import build
from tests.helpers.tiny import enlarge_projector


@pytest.fixture
def assistant(make_config) -> Assistant:
    config = make_config(pictures=9)
    torch.manual_seed(0)
    model = build(config)
    enlarge_projector(model)
    return Assistant(model, load_tokenizer(config.language.path), load_image_processor(config.vision.path), config)


def questions(assistant: Assistant, pictures: int = 9) -> list[Question]:
    folder = assistant.config.data.image_map.parent
    made = [
        Question(
            f"<|extra_0|>\nWhat is {n}?",
            f"What is {n}?",
            ["red"],
            [str(folder / f"{n}.png")],
            str(n),
            "s",
            "en",
            "color",
        )
        for n in range(pictures)
    ]
    for question in made:
        question.prediction = "red"
    return made


def test_it_is_the_difference_of_the_losses_with_own_and_with_other_pictures(assistant):
    found = measure_sight(assistant, questions(assistant))
    assert found["gap"] == pytest.approx(found["loss_other_picture"] - found["loss"])
    assert found["gap"] != 0 and found["standard_error"] > 0 and found["visual_token_lengths"] > 0
    assert f"gap {found['gap']:+.3f} ± {found['standard_error']:.3f}" in sight_line(found)


def test_a_picture_of_several_trees_is_there_once(assistant):
    """Two system texts make two trees of one picture."""
    asked = questions(assistant)
    for number, question in enumerate([*questions(assistant)]):
        question.system = f"Be brief, {number % 2}."
        asked.append(question)
    assert measure_sight(assistant, asked)["gap"] != 0


def test_a_blind_model_is_warned_of(assistant):
    with torch.no_grad():
        assistant.model.projector[2].weight.zero_()
    found = measure_sight(assistant, questions(assistant))
    assert found["gap"] == pytest.approx(0.0, abs=1e-6)
    assert "the loss is the same with another picture" in found["warnings"][0]


def test_one_picture_or_none_cannot_be_exchanged(assistant):
    assert measure_sight(assistant, questions(assistant, 1)) is None
    assert measure_sight(assistant, []) is None

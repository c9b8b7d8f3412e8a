"""The hf export of the demo's backbones: stock transformers answers 12 of 12 questions as we do.

A run of the demo takes minutes, so its adapters are random here; the backbones can see and speak.
"""

from __future__ import annotations

import pytest

from answering.exporting import hf
from dataset.prompt import Request, Turn, question_with_images
from tests.helpers.exports import exported, trained_checkpoint
from tests.helpers.qwen1 import save_as_qwen1
from tests.helpers.tiny import REPO, picture, save_qwen3

QUESTIONS = ("What color is the object?", "圆形是什么颜色？", "How many objects are there?")
BACKBONES = REPO / "demo" / "backbones"


@pytest.mark.parametrize("kind", ["block", "tie", "layer -2", "qwen1", "qwen3"])
def test_twelve_answers_are_those_of_stock_transformers(make_config, tmp_path, kind):
    language = BACKBONES / "qwen"
    if kind == "qwen1":
        language = save_as_qwen1(language, tmp_path / "qwen1")
    elif kind == "qwen3":
        language = save_qwen3(tmp_path / "qwen3")
    config = make_config(
        f"vision.path={BACKBONES / 'siglip'}",
        f"language.path={language}",
        f"vision.layer={-2 if kind == 'layer -2' else -1}",
        "vision.image_context_length=63",
    )
    checkpoint = trained_checkpoint(config, tmp_path / "checkpoint")
    folder, source = exported(checkpoint, tmp_path / "export", norm="tie" if kind == "tie" else None)
    images = [picture(color) for color in ("red", "green", "blue", "white")]
    requests = [Request([Turn(question_with_images(text, 1))], [image]) for image in images for text in QUESTIONS]
    ours = source.answer(requests, do_sample=False, max_new_tokens=8)
    peer = hf.reopen(folder)
    assert [peer.answer(request, 8) for request in requests] == ours and len(set(ours)) > 1

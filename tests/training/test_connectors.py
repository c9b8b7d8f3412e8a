"""Every kind of connector from train.py to an answer: trained, saved, resumed, opened, asked."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from answering.assistant import Assistant
from answering.exporting import hf
from common.errors import UserError
from dataset.prompt import Request, Turn, question_with_images
from dataset.write_shards import write_shards
from settings import load_config
from tests.helpers.asking import reference_answers
from tests.helpers.tiny import enlarge_projector, picture
from training.setup import build_loop

OPTIONS = [
    "train.max_steps=4",
    "train.save_steps=2",
    "train.per_device_train_batch_size=1",
    "train.eval_strategy=no",
    "data.workers=1",
]
KINDS = {  # settings of each kind, and its tokens for a picture of 3 x 3 patches
    "linear": ([], 8),
    "mlp": (["projector.layers=3"], 8),
    "pool": (["projector.pool=2", "vision.drop_first_token=false"], 4),
    "resampler": (["projector.queries=4"], 4),
    "qformer": (["projector.queries=5", "projector.layers=2", "projector.hidden_size=16"], 5),
    "cross_attention": (["projector.every=2"], 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_each_kind_is_resumed_exactly_and_answers(kind, make_config, tmp_path):
    settings, tokens = KINDS[kind]
    options = [*OPTIONS, f"projector.kind={kind}", f"vision.image_context_length={tokens}", *settings]
    config = make_config(*options)
    folder = tmp_path / "run"
    build_loop(config, folder).train()
    files = ("projector.safetensors", "language/adapter_model.safetensors", "optimizer.safetensors")
    whole = {file: load_file(folder / "checkpoint-4" / file) for file in files}
    before = load_file(folder / "checkpoint-2" / files[0])
    assert any(not torch.equal(before[name], value) for name, value in whole[files[0]].items())
    shutil.rmtree(folder / "checkpoint-4")
    build_loop(config, folder).train(resume=folder / "checkpoint-2")
    for file, tensors in whole.items():
        again = load_file(folder / "checkpoint-4" / file)
        assert again.keys() == tensors.keys()
        assert all(torch.equal(again[name], value) for name, value in tensors.items())
    assert_answers(Assistant.load(folder / "checkpoint-4", "cpu"), kind, tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_trains_on_a_stream(kind, make_config, tmp_path):
    settings, tokens = KINDS[kind]
    kinds = [f"projector.kind={kind}", f"vision.image_context_length={tokens}", *settings]
    options = ["train.max_steps=2", "train.save_steps=1", "train.eval_strategy=no", "data.workers=1", *kinds]
    (tmp_path / "shards").mkdir()
    write_shards(make_config(*options), tmp_path / "shards", 2)
    config = load_config(tmp_path / "run.yaml", [f"data.stream={tmp_path}/shards/train-*.tar", *options])
    loop = build_loop(config, tmp_path / "run")
    loop.train()
    first, second = (load_file(tmp_path / "run" / f"checkpoint-{step}" / "projector.safetensors") for step in (1, 2))
    assert loop.images and any(not torch.equal(first[name], value) for name, value in second.items())


def assert_answers(assistant: Assistant, kind: str, tokens: int) -> None:
    """With the prefix cache, in batches and one by one, as without it; the picture matters; export refuses by name."""
    assert assistant.model.projector.name == kind and assistant.model.num_visual_tokens == tokens
    enlarge_projector(assistant.model)
    asked = [
        Request([Turn(question_with_images(question, 1))], [picture(color)])
        for question in ("What color?", "哪里?")
        for color in ("red", "blue")
    ]
    wanted = reference_answers(assistant, asked, max_new_tokens=6)
    assert assistant.answer(asked, max_new_tokens=6) == wanted
    assert ["".join(assistant.stream(request, max_new_tokens=6)).strip() for request in asked] == wanted
    pixels = assistant._pixels([picture("red"), picture("blue")])
    red, blue = assistant.model.encode_images(pixels)
    assert not torch.allclose(red, blue)
    with pytest.raises(
        UserError, match=f"the connector {kind} has no counterpart" if kind != "mlp" else "projector.layers: above 2"
    ):
        hf.projector_layers(assistant.model.projector, 32)

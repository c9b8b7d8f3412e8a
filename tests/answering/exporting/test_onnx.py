"""The onnx export: onnxruntime computes what our model computes, with other rows, pictures and lengths too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from answering.exporting import onnx, onnx_int8
from answering.exporting.compare import last_logits, pixels_of, prompt_of, sample_picture, sample_requests
from answering.exporting.formats import Options
from answering.exporting.run import HeldOut, loss
from common import optional
from common.errors import UserError
from dataset.prompt import Request, Turn, question_with_images
from tests.conftest import write_config
from tests.helpers.exports import exported, trained_checkpoint

EXAMPLE = Path(onnx.__file__).with_name("onnx_example.py")
missing = [package for package in onnx.PACKAGES if not optional.is_installed(package)]
needs_onnx = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def simple(tmp_path_factory, siglip_folder, qwen_folder):
    """A checkpoint with a standardised projector, as the default is."""
    folder = tmp_path_factory.mktemp("simple")
    return trained_checkpoint(write_config(folder, siglip_folder, qwen_folder), folder / "checkpoint")


@pytest.fixture(scope="module")
def plain(simple):
    """The folder of its export, and our model."""
    return exported(simple, simple.parent / "export", form="onnx")


@needs_onnx
def test_every_sample_gives_our_logits_and_our_answer(plain):
    folder, source = plain
    peer = onnx.reopen(folder)
    for request in sample_requests():
        ids, pixels = prompt_of(source, request), pixels_of(source, request.images)
        assert peer.prompt(request) == ids
        if request.images:
            wanted = last_logits(source.model, ids, pixels)
            torch.testing.assert_close(peer.logits(ids, pixels, 16), wanted, atol=1e-5, rtol=0)
        assert [peer.answer(request, 8)] == source.answer([request], do_sample=False, max_new_tokens=8)


@needs_onnx
def test_rows_of_a_batch_differ_in_length_and_pictures(plain):
    folder, source = plain
    model = onnx.reopen(folder).model
    requests = sample_requests()[:3]
    ids = [prompt_of(source, request) for request in requests]
    images = [image for request in requests for image in request.images]
    length = max(map(len, ids))
    padded = np.array([[0] * (length - len(row)) + row for row in ids])
    mask = np.array([[0] * (length - len(row)) + [1] * len(row) for row in ids])
    (tokens,) = model.vision.run(None, {"pixel_values": model.pixels(images)})
    assert len(tokens) == 5 * source.model.num_visual_tokens
    empty = {entry.name: np.zeros((3, entry.shape[1], 0, entry.shape[3]), np.float32) for entry in model.past}
    given = {"input_ids": padded, "visual_tokens": tokens, "attention_mask": mask, "positions": np.array([length - 1])}
    logits, *cache = model.language.run(None, given | empty)
    assert logits.shape[:2] == (3, 1) and cache[0].shape[2] == length and np.isfinite(cache[-1]).all()
    for row, (own, request) in enumerate(zip(ids, requests, strict=True)):
        wanted = last_logits(source.model, own, pixels_of(source, request.images))[-1]
        torch.testing.assert_close(torch.from_numpy(logits[row, 0]), wanted, atol=1e-5, rtol=0)


@needs_onnx
def test_the_example_answers_without_this_project(plain, tmp_path):
    folder, source = plain
    sample_picture(50, 33).save(tmp_path / "a.png")
    command = [sys.executable, folder / "answer.py", "What color?", tmp_path / "a.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, encoding="utf-8")
    request = Request([Turn(question_with_images("What color?", 1))], [sample_picture(50, 33)])
    (wanted,) = source.answer([request], do_sample=False, max_new_tokens=128)
    assert done.stdout.strip() == wanted
    names = {file.name for file in folder.iterdir()}
    graphs = {"vision.onnx", "vision.onnx.data", "language.onnx", "language.onnx.data"}
    assert names == {*graphs, "tokenizer.json", "settings.json", "answer.py", "README.md"}
    assert "python answer.py" in (folder / "README.md").read_text(encoding="utf-8")
    assert json.loads((folder / "settings.json").read_text())["image_tokens"] == source.model.num_visual_tokens


@needs_onnx
def test_int8_replaces_the_graphs_and_stays_close(plain, tmp_path):
    folder, source = plain
    before = onnx.reopen(folder)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    onnx_int8.quantize(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in folder.iterdir()}
    sizes = [(where / "vision.onnx.data").stat().st_size for where in (folder, tmp_path)]
    assert sizes[1] < 0.6 * sizes[0]
    request = sample_requests()[0]
    ids, pixels = prompt_of(source, request), pixels_of(source, request.images)
    exact, rough = (peer.logits(ids, pixels, 16) for peer in (before, onnx.reopen(tmp_path)))
    apart = (exact - rough).abs().max() / exact.abs().max()
    assert 1e-6 < apart < 0.2


def test_the_loss_counts_questions_that_have_a_score():
    held_out = HeldOut([], lambda number, answer: None if number == 2 else float(answer == "red"))
    line = loss(held_out, ["red", "red", "x"], ["red", "blue", "x"])
    assert line == "accuracy 1.0000 in fp32, 0.5000 in int8: +0.5000 lost on 2 questions"


def test_the_example_is_short():
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 60


@needs_onnx
def test_a_graph_that_differs_is_refused_and_removed(plain, simple, tmp_path, monkeypatch):
    folder, _ = plain

    def write_wrong(source, target, options):
        for file in folder.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        data = np.fromfile(folder / "vision.onnx.data", np.float32)
        (1.01 * data).tofile(target / "vision.onnx.data")

    monkeypatch.setattr(onnx, "write", write_wrong)
    with pytest.raises(UserError, match="logits differ from ours by"):
        exported(simple, tmp_path / "export", form="onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_line(make_config, monkeypatch):
    monkeypatch.setattr(optional, "is_installed", lambda package: package == "onnx")
    with pytest.raises(UserError, match=r"^--format onnx: needs onnxscript and onnxruntime; pip install onnxscript"):
        onnx.require(make_config(), Options("onnx", "fp32"))


def test_the_final_norm_needs_no_option(make_config):
    with pytest.raises(UserError, match="--norm = tie: the final norm is part of an ONNX graph"):
        onnx.require(make_config(), Options("onnx", "fp32", "tie"))

"""A run that begins with a LLaVA: our ids, pixels and logits are those of transformers' own classes."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from answering.assistant import Assistant
from answering.exporting.compare import last_logits, pixels_of, prompt_of, sample_picture
from common.errors import UserError
from dataset.image import load_image_processor
from dataset.prompt import Request, Turn, build_prompt, question_with_images
from model.model import build_model
from qwen.tokenizer import load_tokenizer
from tests.helpers.exports import exported, trained_checkpoint
from tests.helpers.llava import INTERLEAVE, VICUNA, edit_config, rename_weights, save_llava, start_from
from tests.helpers.models import move_trained, save
from tests.helpers.tiny import REPO

SEVERAL = [-2, -3, 1]  # counted from both ends


@pytest.fixture
def opened(make_config, tmp_path):
    """A function that gives our side of a LLaVA folder, untrained."""

    def open_llava(folder, *overrides: str) -> Assistant:
        make_config()
        config = start_from(tmp_path / "run.yaml", folder, *overrides)
        tokenizer = load_tokenizer(config.language.path)
        model = build_model(config, tokenizer)
        model.merge_adapters()  # which are untrained, and give nothing
        return Assistant(model, tokenizer, load_image_processor(config.vision.path), config)

    return open_llava


def assert_equal(ours: Assistant, folder) -> None:
    """Ids of prompts, pixels and logits are those of the stock classes."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    one, two = sample_picture(50, 33), sample_picture(20, 60)
    picture, text = {"type": "image"}, {"type": "text", "text": "What color?"}
    talk = [
        {"role": "user", "content": [picture, text]},
        {"role": "assistant", "content": [{"type": "text", "text": "red 红"}]},
        {"role": "user", "content": [picture, picture, {"type": "text", "text": "And  these?"}]},
    ]
    turns = [Turn(question_with_images("What color?", 1), "red 红"), Turn(question_with_images("And  these?", 2))]
    for messages, request in (
        (talk[:1], Request([Turn(turns[0].question)], [one])),
        (talk, Request(turns, [one, two, one])),
    ):
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=prompt, images=request.images, return_tensors="pt")
        ids, pixels = prompt_of(ours, request), pixels_of(ours, request.images)
        assert inputs["input_ids"][0].tolist() == ids
        assert torch.equal(inputs["pixel_values"], pixels)
        with torch.no_grad():
            wanted = model(**inputs).logits[0, -16:]
        torch.testing.assert_close(last_logits(ours.model, ids, pixels), wanted, atol=1e-5, rtol=0)


# Every value, and each with another tower; `make soak` runs all 24 combinations.
SOME = [
    ("siglip", "qwen2", "full", -1),
    ("clip", "qwen3", "default", -2),
    ("siglip", "qwen3", "default", SEVERAL),
    ("clip", "qwen2", "full", SEVERAL),
]
ALL = list(itertools.product(["siglip", "clip"], ["qwen2", "qwen3"], ["default", "full"], [-1, -2, SEVERAL]))


@pytest.mark.parametrize(("tower", "text", "strategy", "layer"), ALL if os.environ.get("VLM_SOAK") else SOME)
def test_ids_pixels_and_logits_are_transformers_own(opened, tmp_path, tower, text, strategy, layer):
    folder = save_llava(tmp_path / "llava", tower, text, strategy, layer, INTERLEAVE if text == "qwen2" else VICUNA)
    assert_equal(opened(folder), folder)


@pytest.mark.parametrize(("names", "shards"), [("old", 3), ("new", 1), ("flat", 1)])
def test_names_of_all_versions_and_shards_are_read(opened, tmp_path, names, shards):
    folder = save_llava(tmp_path / "llava", layer=-2)
    wanted = opened(folder).model.state_dict()
    rename_weights(folder, names, shards)
    found = opened(folder).model.state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_documented_command_converts_bin_files_and_unpickles_nothing_else(opened, tmp_path):
    folder = save_llava(tmp_path / "llava", layer=-2)
    wanted = opened(folder).model.state_dict()
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for number, names in enumerate((list(state)[::2], list(state)[1::2]), start=1):
        torch.save({name: state[name] for name in names}, folder / f"pytorch_model-0000{number}-of-00002.bin")
    text = (REPO / "docs/models.md").read_text(encoding="utf-8")
    (code,) = re.findall(r'python -c "\n(import sys, torch.*?)" models/llava', text, re.DOTALL)
    convert = [sys.executable, "-c", code, str(folder)]
    subprocess.run(convert, check=True, capture_output=True)
    found = opened(folder).model.state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    torch.save({"x": Trap(tmp_path / "sprung")}, folder / "pytorch_model-00001-of-00002.bin")
    done = subprocess.run(convert, capture_output=True, text=True)
    assert done.returncode != 0 and "Weights only load failed" in done.stderr and not (tmp_path / "sprung").exists()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_shared_word_matrices_and_a_projector_without_biases(opened, tmp_path):
    folder = save_llava(tmp_path / "llava", tie_word_embeddings=True, multimodal_projector_bias=False)
    assert_equal(opened(folder), folder)


def test_a_tensor_that_belongs_nowhere_is_named(opened, tmp_path):
    folder = save_llava(tmp_path / "llava")
    rename_weights(folder, "old")
    state = load_file(folder / "model.safetensors")
    save_file({**state, "image_newline": torch.zeros(4)}, folder / "model.safetensors")
    with pytest.raises(UserError, match="surplus tensor image_newline"):
        opened(folder)
    del state["multi_modal_projector.linear_2.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model = .*: its projector has .* expected"):
        opened(folder)


@pytest.mark.parametrize("kind", ["siglip", "list"])
def test_an_export_of_the_start_and_of_what_was_trained_on_it_opens_again(opened, tmp_path, kind):
    folder = save_llava(
        tmp_path / "llava", "clip" if kind == "list" else "siglip", layer=[-1, -3] if kind == "list" else -1
    )
    ours = opened(folder)
    config = ours.config
    model = build_model(config, ours.tokenizer)
    move_trained(model)
    checkpoint = save(config, model, tmp_path / "checkpoint")
    out, trained = exported(checkpoint, tmp_path / "export")
    assert_equal(trained, out)
    again = opened(out)
    request = Request([Turn(question_with_images("What color?", 1))], [sample_picture(31, 40)])
    ids, pixels = prompt_of(trained, request), pixels_of(trained, request.images)
    assert prompt_of(again, request) == ids
    wanted = last_logits(trained.model, ids, pixels)
    torch.testing.assert_close(last_logits(again.model, ids, pixels), wanted, atol=1e-5, rtol=0)
    assert (last_logits(ours.model, ids, pixels) - wanted).abs().max() > 1e-2


def test_our_own_exports_open_as_a_start(make_config, opened, tmp_path):
    """Of a model of ours with the final norm: as a block, and tied."""
    checkpoint = trained_checkpoint(make_config(), tmp_path / "checkpoint")
    for norm in ("block", "tie"):
        folder, source = exported(checkpoint, tmp_path / norm, norm=norm)
        again = opened(folder)
        assert again.config.vision.final_norm is (norm == "tie")
        assert again.config.language.system == "" and source.config.language.system
        request = Request([Turn(question_with_images("a", 1), "b"), Turn("c")], [sample_picture(31, 40)])
        ids, pixels = prompt_of(source, request), pixels_of(source, request.images)
        assert prompt_of(again, request) == ids
        wanted = last_logits(source.model, ids, pixels)
        torch.testing.assert_close(last_logits(again.model, ids, pixels), wanted, atol=1e-5, rtol=0)


def test_a_checkpoint_of_such_a_run_needs_that_folder(opened, tmp_path):
    ours = opened(save_llava(tmp_path / "llava"))
    model = build_model(ours.config, ours.tokenizer)
    move_trained(model)
    checkpoint = save(ours.config, model, tmp_path / "checkpoint")
    loaded = Assistant.load(checkpoint, "cpu")
    labels = build_prompt(loaded.tokenizer, [Turn("a", "b")])[1]
    assert labels == build_prompt(ours.tokenizer, [Turn("a", "b")])[1]
    edit_config(tmp_path / "llava", note="another file")
    with pytest.raises(UserError, match="model: .* is not the model that .* was trained from"):
        Assistant.load(checkpoint, "cpu")

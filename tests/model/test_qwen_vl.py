"""A run that begins with a Qwen-VL: tower, resampler and logits are those of the original implementation."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from answering.assistant import Assistant
from common.hub import load_strictly, read_config
from common.qwen_vl import read_part
from dataset.image import load_image_processor, prepare_image
from dataset.prompt import Request, Turn, build_prompt, question_with_images
from model.connectors import build_connector
from model.model import MMultiModal, fill_projector
from qwen.qwen1 import MQwenForCausalLM, as_qwen2_config
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer, token_id
from settings import load_config
from tests.helpers.asking import reference_answers
from tests.helpers.configs import error_of
from tests.helpers.conversations import CONVERSATIONS
from tests.helpers.qwen_vl import save_qwen_vl
from tests.helpers.tiny import picture
from training.setup import build_loop
from visual.geometry import PatchGrid, patch_grid
from visual.load import load_vision

START, END = 265, 266  # <img> and </img> of the reference


@pytest.fixture(scope="module")
def reference_folder(shared_data):
    folder = shared_data / "qwenvl" / "tiny_reference"
    if not folder.is_dir():
        pytest.skip(f"no reference outputs in {folder}")
    return folder


@pytest.fixture(scope="module")
def reference(reference_folder):
    return load_file(reference_folder / "reference.safetensors")


@pytest.fixture(scope="module")
def folder(reference_folder, tmp_path_factory):
    """The checkpoint without the file of outputs beside it."""
    folder = tmp_path_factory.mktemp("qwen-vl")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(reference_folder / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    """The whole model by the parts of the project; only a tokenizer is not there."""
    config = as_qwen2_config(read_config(folder, "model"))
    options = {"config": config, "state": read_part(folder, "language")}
    language = load_strictly(MQwenForCausalLM, str(folder), torch.float32, "model", **options)
    language.image_token_id = 267
    connector = build_connector(32, 256, kind="resampler", grid=PatchGrid(6, 6), queries=9)
    found = MMultiModal(load_vision(str(folder)), language, connector, drop_first_token=False)
    fill_projector(found.projector, str(folder))
    return found.eval()


def as_ours(ids: torch.Tensor) -> torch.Tensor:
    """The reference's ids, with the placeholder between <img> and </img> instead of a path's bytes and padding."""
    ids = ids.clone()
    for row in ids:
        starts, ends = ((row == mark).nonzero().flatten().tolist() for mark in (START, END))
        for start, end in zip(starts, ends, strict=True):
            row[start + 1 : end] = 267
    return ids


def test_its_grid_is_read_from_its_config(folder):
    assert patch_grid(read_config(folder, "model"), drop_first_token=False) == PatchGrid(6, 6)


@torch.no_grad()
def test_the_tower_gives_the_features_of_the_original(model, reference):
    embedded = model.vision.embeddings(reference["pixel_values"])
    torch.testing.assert_close(embedded, reference["patch_embeddings_with_position"], rtol=0, atol=1e-4)
    torch.testing.assert_close(model.vision(reference["pixel_values"]), reference["tower_output"], rtol=0, atol=1e-4)
    found = model.encode_images(reference["pixel_values"])
    torch.testing.assert_close(found, reference["image_features"], rtol=0, atol=1e-4)


@torch.no_grad()
def test_another_resolution_interpolates_the_table_of_sixteen_by_sixteen(folder, reference):
    vision = load_vision(str(folder), image_size=112)
    torch.testing.assert_close(
        vision.embeddings.position_embedding.weight, reference["interp.tower_position_to_big_grid"], rtol=0, atol=1e-5
    )
    connector = build_connector(32, 256, kind="resampler", grid=PatchGrid(8, 8), queries=9)
    fill_projector(connector, str(folder))
    found = connector(vision(reference["interp.big_pixel_values"].float()))
    torch.testing.assert_close(found, reference["interp.big_image_features"], rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("row", "pictures"), [("text", []), ("one_image", [0]), ("two_images", [0, 1]), ("batch", [1, 0])]
)
def test_logits_are_those_of_the_original(model, reference, row, pictures):
    ids = reference[f"{row}.input_ids"]
    shown = {}
    if pictures:
        each = torch.tensor([len(pictures) // len(ids)] * len(ids))
        shown = {"pixel_values": reference["pixel_values"][pictures], "images_per_row": each}
    found = model(input_ids=as_ours(ids), attention_mask=torch.ones_like(ids), **shown).logits
    torch.testing.assert_close(found, reference[f"{row}.logits"], rtol=0, atol=1e-4)


def test_greedy_tokens_are_those_of_the_original(model, reference):
    ids = as_ours(reference["one_image.input_ids"])
    shown = {"pixel_values": reference["pixel_values"][:1], "images_per_row": torch.tensor([1])}
    found = model.generate(ids, torch.ones_like(ids), **shown, max_new_tokens=6, eos_token_id=None)
    assert found[0].tolist() == reference["one_image.greedy_6_ids"].flatten().tolist()


def test_pixels_are_those_of_the_original(folder, reference):
    processor = load_image_processor(str(folder))
    for number in (0, 1):
        image = Image.fromarray(reference[f"image_{number}_rgb"].numpy())
        torch.testing.assert_close(
            prepare_image(image, processor), reference["pixel_values"][number], rtol=0, atol=1e-5
        )


# ---------------------------------------------------------------------------------------------- a run


@pytest.fixture
def qwen_vl(tmp_path):
    """A tiny Qwen-VL with the demo's words: 42 px, 9 patches, 4 queries."""
    return save_qwen_vl(tmp_path)


def config_of(tmp_path, folder, *overrides: str):
    path = tmp_path / "run.yaml"
    lines = path.read_text(encoding="utf-8").split("\n")
    kept = [line for line in lines if not line.strip().startswith(("path:", "image_context_length:"))]
    text = "\n".join(kept).replace("\nvision:", "\nvision: {}").replace("\nlanguage:", f"\nmodel: {folder}\nlanguage:")
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def test_its_prompt_numbers_the_pictures_and_marks_where_each_begins_and_ends(qwen_vl):
    tokenizer = load_tokenizer(str(qwen_vl))
    turns = [Turn(question_with_images("Which is red?", 2), "1"), Turn(question_with_images("这是什么？", 1))]
    ids, _ = build_prompt(tokenizer, turns, system="Help.", image_context_length=3, picture_numbers=True)
    shown = f"<img>{IMAGE_TOKEN * 3}</img>\n"
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nHelp.<|im_end|>\n<|im_start|>user\n"
        f"Picture 1: {shown}Picture 2: {shown}Which is red?<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n"
        f"<|im_start|>user\nPicture 3: {shown}这是什么？<|im_end|>\n<|im_start|>assistant\n"
    )
    first = token_id(tokenizer, "<ref>")  # the order and the distance of the original
    assert [token_id(tokenizer, t) - first for t in ("</ref>", "<box>", "</box>", "<img>", "</img>")] == [1, 2, 3, 6, 7]
    assert first - token_id(tokenizer, "<|endoftext|>") == 208
    assert token_id(tokenizer, "<img>") not in build_prompt(tokenizer, [Turn("a <img> b")])[0]


def test_a_run_with_lora_and_trees_begins_with_it_and_answers(make_config, tmp_path, qwen_vl):
    make_config(pictures=5, conversations=CONVERSATIONS)
    options = ["train.max_steps=2", "train.save_steps=2", "train.eval_strategy=no", "data.workers=1"]
    config = config_of(tmp_path, qwen_vl, *options)
    assert config.projector.kind == "resampler" and config.vision.image_context_length == 4
    assert config.language.picture_numbers and not config.vision.drop_first_token and not config.projector.standardize
    loop = build_loop(config, tmp_path / "run")
    state = load_file(qwen_vl / "model.safetensors")
    assert torch.equal(loop.model.projector.query, state["transformer.visual.attn_pool.query"])
    loop.train()
    assistant = Assistant.load(tmp_path / "run" / "checkpoint-2", "cpu")
    asked = [Request([Turn(question_with_images("What color?", 1))], [picture(color)]) for color in ("red", "blue")]
    asked.append(Request([Turn(question_with_images("Which?", 2))], [picture("red"), picture("blue")]))
    wanted = reference_answers(assistant, asked, max_new_tokens=6)
    assert assistant.answer(asked, max_new_tokens=6) == wanted


def test_what_contradicts_it_is_refused_by_name(make_config, tmp_path, qwen_vl):
    make_config()
    config_of(tmp_path, qwen_vl)
    path = tmp_path / "run.yaml"
    assert 'projector.kind = "mlp": expected "resampler", which is' in error_of(path, "projector.kind=mlp")
    content = json.loads((qwen_vl / "config.json").read_text(encoding="utf-8"))
    del content["visual"]["width"]
    (qwen_vl / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert "the visual block of its config.json lacks width" in error_of(path)


def test_a_missing_tensor_is_named(qwen_vl):
    state = load_file(qwen_vl / "model.safetensors")
    del state["transformer.visual.ln_pre.weight"]
    save_file(state, qwen_vl / "model.safetensors", {"format": "pt"})
    with pytest.raises(Exception, match="lacks 1 tensors, pre_layrnorm.weight first"):
        load_vision(str(qwen_vl))

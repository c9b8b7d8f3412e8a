"""The hf export: stock transformers opens it and computes what our model computes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaForConditionalGeneration, pipeline

from answering.exporting import hf
from answering.exporting.compare import last_logits, pixels_of, prompt_of, sample_picture
from common.errors import UserError
from dataset.prompt import Request, Turn, question_with_images
from tests.conftest import write_config
from tests.helpers.exports import exported, trained_checkpoint
from tests.helpers.qwen1 import save_as_qwen1
from tests.helpers.tiny import picture, save_clip, save_qwen, save_qwen3

WIDE = {"num_key_value_heads": 4}  # Qwen-1 has no grouped queries


@pytest.fixture(params=["qwen2", "qwen1", "qwen3", "layer -2", "clip", "full", "tower trained"])
def run(request, make_config, tmp_path):
    """A checkpoint of each kind that differs in what is written."""
    kind, settings = request.param, []
    if kind == "qwen1":
        qwen1 = save_as_qwen1(save_qwen(tmp_path / "qwen2", **WIDE), tmp_path / "qwen1")
        settings = [f"language.path={qwen1}"]
    elif kind == "qwen3":
        settings = [f"language.path={save_qwen3(tmp_path / 'qwen3', tie_word_embeddings=True)}"]
    elif kind == "layer -2":
        settings = ["vision.layer=-2"]
    elif kind == "clip":
        clip = save_clip(tmp_path / "clip")
        settings = [f"vision.path={clip}", "vision.layer=-2", "vision.image_context_length=9"]
    elif kind == "full":
        settings = ["vision.drop_first_token=false", "vision.image_context_length=9"]
    elif kind == "tower trained":
        settings = ["vision.train=last_blocks", "vision.last_blocks=1", "language.train=full"]
    return trained_checkpoint(make_config(*settings), tmp_path / "checkpoint")


def test_stock_llava_gives_our_ids_pixels_and_logits(run, tmp_path):
    folder, source = exported(run, tmp_path / "export")
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    image = sample_picture(50, 33)
    request = Request([Turn(question_with_images("What color is it?", 1))], [image])
    content = [{"type": "image"}, {"type": "text", "text": "What color is it?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=image, text=text, return_tensors="pt")
    ids = prompt_of(source, request)
    assert inputs["input_ids"][0].tolist() == ids
    pixels = pixels_of(source, [image])
    assert torch.equal(inputs["pixel_values"], pixels)
    with torch.no_grad():
        logits = model(**inputs).logits[0, -16:]
    wanted = last_logits(source.model, ids, pixels)
    torch.testing.assert_close(logits, wanted, atol=1e-5 * wanted.abs().max().item(), rtol=0)
    new = model.generate(**inputs, max_new_tokens=8)[0, len(ids) :].tolist()
    assert new == generated(source, ids, pixels) and len(new) > 1


def generated(source, ids: list[int], pixels: torch.Tensor) -> list[int]:
    """Our greedy answer of 8 tokens at most."""
    input_ids = torch.tensor([ids])
    shown = torch.tensor([len(pixels)])
    return source.model.generate(input_ids, torch.ones_like(input_ids), pixels, shown, max_new_tokens=8)[0].tolist()


@pytest.fixture(scope="module")
def simple(tmp_path_factory, siglip_folder, qwen_folder):
    """A checkpoint whose model answers something."""
    folder = tmp_path_factory.mktemp("simple")
    return trained_checkpoint(write_config(folder, siglip_folder, qwen_folder), folder / "checkpoint", moved=False)


@pytest.fixture(scope="module")
def plain(simple):
    """Its export in fp32 with the block, and our model."""
    return exported(simple, simple.parent / "export")


def test_both_ways_keep_the_final_norm_and_bf16_halves_the_size(simple, plain, tmp_path):
    block, source = plain
    tie, _ = exported(simple, tmp_path / "tie", norm="tie")
    half, _ = exported(simple, tmp_path / "half", dtype="bf16")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (block, half)]
    assert sizes[1] < 0.55 * sizes[0]
    request = Request([Turn(question_with_images("And here?", 1))], [sample_picture(30, 60)])
    ids, pixels = prompt_of(source, request), pixels_of(source, request.images)
    wanted = last_logits(source.model, ids, pixels)
    for folder in (block, tie):
        torch.testing.assert_close(hf.reopen(folder).logits(ids, pixels, 16), wanted, atol=1e-5, rtol=0)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (block, tie)]
    assert [c["vision_config"]["num_hidden_layers"] for c in configs] == [3, 2]
    assert "tie_last_hidden_states" not in configs[0]["vision_config"]
    assert configs[1]["vision_config"]["tie_last_hidden_states"] is True
    # Without the key, as a program that does not know it, the same weights give other logits.
    configs[1]["vision_config"].pop("tie_last_hidden_states")
    (tie / "config.json").write_text(json.dumps(configs[1]))
    assert (hf.reopen(tie).logits(ids, pixels, 16) - wanted).abs().max() > 0.1 * wanted.abs().max()


def test_the_pipeline_answers_as_we_do(plain):
    folder, source = plain
    red = picture("red")
    content = [{"type": "image", "image": red}, {"type": "text", "text": "What color?"}]
    ask = pipeline("image-text-to-text", model=str(folder), dtype=torch.float32, device="cpu")
    (found,) = ask(text=[{"role": "user", "content": content}], return_full_text=False, max_new_tokens=8)
    (wanted,) = source.answer([Request([Turn(question_with_images("What color?", 1))], [red])])
    assert found["generated_text"].strip() == wanted != ""


def test_the_folder_has_what_other_programs_look_for(plain, tmp_path_factory):
    folder, source = plain
    names = set(load_file(folder / "model.safetensors"))
    assert "vision_tower.vision_model.embeddings.patch_embedding.weight" in names  # vLLM rejects other names
    assert {"language_model.model.embed_tokens.weight", "multi_modal_projector.linear_2.bias"} <= names
    image_processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert image_processor["crop_size"] == {"height": 42, "width": 42} and image_processor["do_center_crop"] is False
    processor = json.loads((folder / "processor_config.json").read_text())
    assert processor["num_additional_image_tokens"] == 0 and processor["image_token"] == "<image>"
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    assert tokenizer.convert_tokens_to_ids("<image>") == source.tokenizer.convert_tokens_to_ids("<|extra_0|>")
    assert "<|extra_0|>" not in tokenizer.get_vocab() and tokenizer.chat_template
    config = json.loads((folder / "config.json").read_text())
    assert config["image_token_index"] == 552 and config["image_seq_length"] == 8
    assert str(tmp_path_factory.getbasetemp()) not in (folder / "config.json").read_text()


def test_large_models_are_written_in_shards_with_an_index(tmp_path):
    state = {f"layer.{n}": torch.randn(10, 10) for n in range(5)}
    hf.write_shards(state, tmp_path, torch.bfloat16, limit=450)  # two tensors of 200 bytes each
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == sorted(set(index["weight_map"].values()))
    assert len(set(index["weight_map"].values())) == 3 and index["metadata"]["total_size"] == 1000
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / file, "pt") as shard:
            assert torch.equal(shard.get_tensor(name), state[name].bfloat16())


def test_a_connector_that_llava_cannot_say_is_refused_by_name(make_config, tmp_path):
    checkpoint = trained_checkpoint(make_config("projector.hidden_size=48"), tmp_path / "checkpoint")
    with pytest.raises(UserError, match=r"projector.hidden_size: 48, and LLaVA's projector has .* width 32"):
        exported(checkpoint, tmp_path / "export")
    assert not (tmp_path / "export").exists() and not list(tmp_path.glob(".export*"))
    other = type("Resampler", (torch.nn.Module,), {"name": "resampler"})()
    with pytest.raises(UserError, match="the connector resampler has no counterpart in LLaVA"):
        hf.projector_layers(other, 32)

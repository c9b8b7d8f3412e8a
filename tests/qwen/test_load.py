"""Loading language models: every family exactly, and one line that names what is wrong where it cannot be."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from answering.assistant import Assistant
from common.errors import UserError
from dataset.image import load_image_processor
from dataset.prompt import Turn, build_prompt, without_thoughts
from model.model import build_model
from qwen.load import load_language
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer
from tests.helpers.qwen1 import save_as_qwen1
from tests.helpers.tiny import save_qwen, save_qwen3

FAMILIES = ["qwen1", "qwen2", "qwen2-tied", "qwen3", "qwen3-tied"]


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """A tiny model of each family, in the format its makers publish."""
    base = tmp_path_factory.mktemp("families")
    return {
        "qwen1": save_as_qwen1(save_qwen(base / "source", num_key_value_heads=4), base / "qwen1"),
        "qwen2": save_qwen(base / "qwen2"),
        "qwen2-tied": save_qwen(base / "qwen2-tied", tie_word_embeddings=True),
        "qwen3": save_qwen3(base / "qwen3"),
        "qwen3-tied": save_qwen3(base / "qwen3-tied", tie_word_embeddings=True),
    }


@pytest.fixture(scope="module")
def loaded(families):
    """(model, tokenizer) by family."""
    tokenizers = {name: load_tokenizer(str(folder)) for name, folder in families.items()}
    models = {name: load_language(str(families[name]), t, torch.float32).eval() for name, t in tokenizers.items()}
    return {name: (models[name], tokenizers[name]) for name in families}


def damaged(folder, to, change) -> str:
    """A copy of a model whose state dict went through ``change``."""
    shutil.copytree(folder, to)
    state = load_file(to / "model.safetensors")
    change(state)
    save_file(state, to / "model.safetensors", metadata={"format": "pt"})
    return str(to)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_without_images_each_family_is_its_original(families, loaded, name):
    model, _ = loaded[name]
    if name == "qwen1":  # the Qwen2 it was written from, its special tokens' rows in Qwen-1's order
        original = AutoModelForCausalLM.from_pretrained(families["qwen1"].parent / "source", dtype=torch.float32)
        ids = torch.randint(0, 549, (2, 30), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(model(ids).logits[..., :549], original(ids).logits[..., :549])
        return
    original = AutoModelForCausalLM.from_pretrained(families[name], dtype=torch.float32)
    ids = torch.randint(0, 768, (2, 30), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(ids).logits, original(ids).logits)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_images_take_the_places_of_the_placeholder(loaded, name):
    model, tokenizer = loaded[name]
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    assert model.image_token_id == image and image < 768
    ids = torch.tensor([[5, image, image, 6]])
    features = torch.randn(1, 2, 32)
    embeds = model.get_input_embeddings()(ids)
    embeds[0, 1:3] = features[0]
    assert torch.equal(model(ids, images=[features]).logits, model(inputs_embeds=embeds).logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_generation_stops_at_the_end_of_an_answer_and_of_a_text(loaded, name):
    model, tokenizer = loaded[name]
    for token in ("<|im_end|>", "<|endoftext|>"):
        stop = tokenizer.convert_tokens_to_ids(token)
        with torch.no_grad():
            head = model.get_output_embeddings().weight
            before = head.clone()
            state = model.model(torch.tensor([[7, 8]])).last_hidden_state[0, -1]
            head[stop] = state * 100
        out = model.generate(torch.tensor([[7, 8]]), max_new_tokens=5, do_sample=False)
        with torch.no_grad():
            head.copy_(before)
        assert out.tolist() == [[7, 8, stop]]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_placeholder_has_a_spare_row_and_the_matrix_keeps_its_size(loaded, name):
    model, tokenizer = loaded[name]
    assert model.get_input_embeddings().num_embeddings == 768 == model.config.vocab_size
    assert len(tokenizer) == {"qwen1": 757, "qwen3": 555, "qwen3-tied": 555}.get(name, 553)
    assert tokenizer.chat_template


# ---------------------------------------------------------------------------------------------- templates


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prompt_is_the_models_own_template(loaded, name):
    """And thinking is off."""
    _, tokenizer = loaded[name]
    messages = [{"role": "system", "content": "You help."}, {"role": "user", "content": "What is it?"}]
    options = {"enable_thinking": False} if name.startswith("qwen3") else {}
    wanted = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **options)
    ids, _ = build_prompt(tokenizer, [Turn("What is it?")], system="You help.")
    assert tokenizer.decode(ids) == wanted
    assert ("<think>\n\n</think>\n\n" in wanted) == name.startswith("qwen3")


def test_empty_thoughts_are_part_of_every_turn_and_never_learnt(loaded):
    _, tokenizer = loaded["qwen3"]
    turns = [Turn("one?", "1"), Turn("two?", "2")]
    ids, labels = build_prompt(tokenizer, turns)
    assert tokenizer.decode(ids).count("assistant\n<think>\n\n</think>\n\n") == 2
    assert tokenizer.decode([label for label in labels if label != -100]) == "1<|im_end|>2<|im_end|>"
    assert tokenizer.convert_tokens_to_ids("<think>") in ids  # as the token, not spelled out
    thinking, _ = build_prompt(tokenizer, turns, thinking=True)
    assert "<think>" not in tokenizer.decode(thinking)


def test_thinking_is_one_setting_and_what_was_thought_is_not_the_answer(make_config, families):
    config = make_config(f"language.path={families['qwen3']}", "language.thinking=true")
    tokenizer = load_tokenizer(config.language.path)
    assistant = Assistant(build_model(config, tokenizer), tokenizer, load_image_processor(config.vision.path), config)
    from dataset.prompt import Request

    prompt = assistant._prompt(Request([Turn("a?", "<think>\nhm\n</think>\n\nyes"), Turn("b?")]))
    assert tokenizer.decode(prompt).count("think") == 0 and "yes<|im_end|>" in tokenizer.decode(prompt)
    assert without_thoughts("<think>\nhm\n</think>\n\nyes").strip() == "yes"
    assert without_thoughts("<think>\nstill at it") == "" and without_thoughts("yes") == "yes"

    def think(images, prompt, options) -> None:
        for piece in ("<think>\n", "hm", "\n</think>\n\ny", "es"):
            options["streamer"].on_finalized_text(piece)
        options["streamer"].on_finalized_text("", stream_end=True)

    assistant._generate = think
    assert [piece.strip() for piece in assistant.stream(Request([Turn("a?")]))] == ["y", "es"]  # no empty piece


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("qwen1", "transformer.h.1.attn.c_attn.bias"),
        ("qwen2", "model.norm.weight"),
        ("qwen3-tied", "model.norm.weight"),
    ],
)
def test_a_missing_a_surplus_and_a_misshapen_tensor_are_named(families, loaded, tmp_path, name, tensor):
    tokenizer = loaded[name][1]
    lacking = damaged(families[name], tmp_path / "lacking", lambda state: state.pop(tensor))
    seen = "model.layers.1.self_attn.k_proj.bias" if name == "qwen1" else tensor
    with pytest.raises(UserError, match=f"language.path: .* lacks [13] tensors, {seen} first"):
        load_language(lacking, tokenizer, torch.float32)
    more = damaged(families[name], tmp_path / "more", lambda state: state.update({"model.layers.9.x": torch.ones(1)}))
    with pytest.raises(UserError, match="has surplus 1 tensors, model.layers.9.x first"):
        load_language(more, tokenizer, torch.float32)
    misshapen = damaged(families[name], tmp_path / "odd", lambda state: state.update({tensor: torch.ones(5)}))
    with pytest.raises(UserError, match="language.path: "):
        load_language(misshapen, tokenizer, torch.float32)


def test_an_unknown_kind_of_model_is_named_with_the_known_ones(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="is a 'llama' model; expected one of: qwen .Qwen-1., qwen2, qwen3"):
        load_language(str(tmp_path), None, torch.float32)

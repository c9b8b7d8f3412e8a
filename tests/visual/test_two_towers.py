"""Both towers: transformers' own logits, and a new text tower for a SigLIP without one."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, SiglipModel

from common.errors import UserError
from tests.helpers.tiny import TOKENIZER, save_clip, save_siglip
from tests.helpers.towers import save_two_towers
from training.losses import similarities
from visual.load import load_vision
from visual.two_towers import load_two_towers, new_text_tower

TEXTS = ["a red circle", "蓝色的正方形", "a large green star at the top left of a very large white picture"]


@pytest.mark.parametrize(("kind", "cls"), [("siglip", SiglipModel), ("clip", CLIPModel)])
def test_logits_are_those_of_transformers(tmp_path, kind, cls):
    towers = load_two_towers(str(save_two_towers(tmp_path, kind))).eval()
    pixels = torch.randn(4, 3, 28, 28)
    tokens = towers.tokenize(TEXTS)
    with torch.no_grad():
        wanted = cls.from_pretrained(tmp_path).eval()(pixel_values=pixels, **tokens).logits_per_text
        found = similarities(*towers(pixels, **tokens), towers.log_scale, towers.bias)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert found.std() > 0.01


def test_siglip_pads_to_its_last_position_and_clip_masks(tmp_path):
    siglip = load_two_towers(str(save_two_towers(tmp_path / "s"))).tokenize(["a"])
    clip = load_two_towers(str(save_two_towers(tmp_path / "c", "clip"))).tokenize(["a", "a red circle"])
    assert siglip.keys() == {"input_ids"} and siglip["input_ids"].shape == (1, 16)
    assert clip["attention_mask"].sum(1).tolist() == [1, clip["input_ids"].shape[1]]


def test_a_new_text_tower_leaves_the_vision_tower_as_it_was(tmp_path):
    folder = str(save_siglip(tmp_path))
    towers = new_text_tower(folder, AutoTokenizer.from_pretrained(TOKENIZER), width=64, layers=1, length=12).eval()
    pixels = torch.randn(2, 3, 42, 42)
    with torch.no_grad():
        states = towers.model.vision_model(pixel_values=pixels).last_hidden_state
        assert torch.equal(states, load_vision(folder)(pixels))
        assert towers.encode_images(pixels).shape == towers.encode_texts(towers.tokenize(["a", "b"])).shape == (2, 16)
    assert not any(name.startswith("vision_model.encoder") for name in towers.new)
    parts = {name: towers.part_of(name) for name, _ in towers.named_parameters()}
    assert parts["model.vision_model.embeddings.patch_embedding.weight"] == "vision"
    assert parts["model.text_model.head.weight"] == "language" and parts["model.logit_scale"] == "projector"


@pytest.mark.parametrize("save", [save_siglip, save_clip])
def test_a_vision_tower_alone_is_refused_in_one_line(tmp_path, save):
    with pytest.raises(UserError, match="no SigLIP or CLIP with a text tower; `python -m retrieval train` makes one"):
        load_two_towers(str(save(tmp_path)))


def test_a_text_tower_is_made_for_siglip_only(tmp_path):
    with pytest.raises(UserError, match="for a SigLIP only"):
        new_text_tower(str(save_clip(tmp_path)), None, width=64, layers=1, length=12)

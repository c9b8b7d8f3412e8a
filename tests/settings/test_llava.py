"""The key model: what follows from a LLaVA's config.json, and what contradicts it."""

from __future__ import annotations

import json

import pytest
import yaml

from settings import load_config, save_config
from tests.helpers.configs import MINIMAL, error_of

LLAVA = {
    "model_type": "llava",
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "full",
    "vision_config": {
        **{"model_type": "siglip_vision_model", "image_size": 42, "patch_size": 14, "num_hidden_layers": 3},
        "hidden_size": 16,
    },
    "text_config": {"model_type": "qwen2", "hidden_size": 32},
}


@pytest.fixture
def run(tmp_path):
    """A config that begins with a LLaVA, and a function that changes its config.json."""
    folder = tmp_path / "llava"
    folder.mkdir()
    content = yaml.safe_load(MINIMAL)
    for part in ("vision", "language"):
        del content[part]
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**content, "model": str(folder)}))

    def write(**changes):
        (folder / "config.json").write_text(json.dumps({**LLAVA, **changes}))
        return file

    return write


def test_tower_layer_tokens_and_system_follow_from_the_model(run, tmp_path):
    config = load_config(run())
    vision = config.vision
    assert (vision.layer, vision.final_norm, vision.drop_first_token, vision.image_context_length) == (
        -2,
        False,
        False,
        9,
    )
    assert config.vision.path == config.language.path == config.model == str(tmp_path / "llava")
    assert (config.projector.hidden_size, config.language.system) == (None, "")
    config = load_config(run(vision_feature_layer=[-1, 1], vision_feature_select_strategy="default"))
    assert (config.vision.layer, config.vision.image_context_length) == ([-1, -3], 8)
    assert load_config(run(), ["vision.image_size=84"]).vision.image_context_length == 36
    tied = {**LLAVA["vision_config"], "tie_last_hidden_states": True}
    assert load_config(run(vision_config=tied, vision_feature_layer=-1)).vision.final_norm is True


def test_values_that_agree_are_taken_and_a_saved_config_is_read_again(run, tmp_path):
    config = load_config(run(), ["vision.layer=-2", "vision.drop_first_token=false", "language.system=Be brief."])
    assert config.language.system == "Be brief."
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    (tmp_path / "llava" / "config.json").unlink()  # a checkpoint's config says everything itself
    assert load_config(tmp_path / "saved.yaml", check_models=False) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("vision.layer=-1", "vision.layer = -1: expected -2, which is what model = "),
        ("vision.drop_first_token=true", "vision.drop_first_token = true: expected false, which is"),
        ("vision.image_context_length=728", "vision.image_context_length = 728: expected 9, which is"),
        ("vision.final_norm=true", "vision.final_norm = true: expected false, which is"),
        ("projector.hidden_size=64", "projector.hidden_size = 64: expected null, which is"),
        ("vision.path=google/siglip", 'vision.path = "google/siglip": expected to be left out where model is set'),
        ("language.path=Qwen/Qwen3-1.7B", 'language.path = "Qwen/Qwen3-1.7B": expected to be left out where model'),
    ],
)
def test_a_key_that_contradicts_the_model_is_one_line(run, override, message):
    assert message in error_of(run(), override)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llava_onevision"}, "a llava_onevision model, expected LLaVA itself"),
        ({"model_type": "qwen2_5_vl"}, "a qwen2_5_vl model, expected LLaVA itself"),
        ({"text_config": {"model_type": "llama"}}, "its text_config is a llama model; expected one of qwen2, qwen3"),
        ({"vision_config": {"model_type": "pixtral"}}, "its vision_config is a pixtral model"),
        ({"projector_hidden_act": "relu"}, "its projector has relu between its layers; expected gelu"),
        ({"vision_feature_layer": 9}, "vision_feature_layer is 9 for an encoder of 3 blocks"),
        ({"text_config": None}, "expected a config.json with vision_config and text_config"),
    ],
)
def test_another_kind_of_model_is_refused_by_name(run, changes, message):
    found = error_of(run(**changes))
    assert "model = " in found and message in found


def test_a_model_that_is_not_here_is_one_line(run, monkeypatch):
    monkeypatch.setattr("common.hub.hub_answers", lambda: False)
    assert "neither a folder nor a hub name" in error_of(run(), "model=/no/such/folder")
    found = error_of(run(), "model=llava-hf/no-such-model")
    assert "not in the hub's cache, and the hub cannot be reached; run `hf download llava-hf/no-such-model" in found

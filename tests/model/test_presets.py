"""The presets in configs/: each can be built from a shrunken copy, and fits the card that it is for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from model.adapters import base_of
from model.memory import Batch, estimate
from model.model import build_model
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer, token_id
from settings import load_config
from settings.yaml_file import read_yaml
from tests.helpers.llava import save_llava
from tests.helpers.qwen1 import save_as_qwen1
from tests.helpers.qwen_vl import save_qwen_vl
from tests.helpers.tiny import REPO, save_qwen, save_qwen3, save_siglip

TOKENS = {"qwen": 151851, "qwen2": 151666, "qwen3": 151670}  # of the tokenizers, with the placeholder
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rope_theta": 1e6, "rms_norm_eps": 1e-6}
# As published; what a model without weights needs.
PUBLISHED = {
    "Qwen/Qwen2.5-0.5B-Instruct": {
        **QWEN2,
        **{"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
        **{"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    },
    "Qwen/Qwen2.5-7B-Instruct": {
        **QWEN2,
        **{"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
        **{"num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
    },
    "Qwen/Qwen-1_8B-Chat": {
        **{"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "layer_norm_epsilon": 1e-6, "no_bias": True},
        **{"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 24, "num_attention_heads": 16},
        **{"kv_channels": 128, "rotary_emb_base": 10000, "seq_length": 8192, "vocab_size": 151936},
    },
    "Qwen/Qwen3-1.7B": {
        **{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "rope_theta": 1e6, "head_dim": 128},
        **{"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
        **{"num_key_value_heads": 8, "vocab_size": 151936, "tie_word_embeddings": True},
    },
    "llava-hf/llava-interleave-qwen-0.5b-hf": {
        **{"model_type": "llava", "image_token_index": 151646, "vision_feature_layer": -1},
        **{"vision_feature_select_strategy": "full", "tie_word_embeddings": True},
        "text_config": {
            **{"model_type": "qwen2", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24},
            **{"num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 152000},
            "tie_word_embeddings": True,
        },
        "vision_config": {
            **{"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14, "hidden_size": 1152},
            **{"intermediate_size": 4304, "num_hidden_layers": 26, "num_attention_heads": 16},
            "vision_use_head": False,
        },
    },
    "Qwen/Qwen-VL-Chat": {
        **{"architectures": ["QWenLMHeadModel"], "model_type": "qwen", "layer_norm_epsilon": 1e-6, "no_bias": True},
        **{"hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32},
        **{"kv_channels": 128, "rotary_emb_base": 10000, "seq_length": 2048, "vocab_size": 151936},
        "visual": {
            **{"heads": 16, "image_size": 448, "image_start_id": 151857, "layers": 48, "mlp_ratio": 4.9231},
            **{"output_dim": 4096, "patch_size": 14, "width": 1664},
        },
    },
    "google/siglip-so400m-patch14-384": {
        **{"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14, "hidden_size": 1152},
        **{"intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16},
    },
}
CARDS = {  # GB of the card that a preset is for
    "llava-interleave-qwen-0.5b": 8,
    "qwen2.5-0.5b-8gb": 8,
    "qwen2.5-7b-qlora-24gb": 24,
    "qwen-1_8b-chat": 24,
    "qwen3-1.7b": 24,
    "qwen2.5-7b-80gb": 80,
    "qwen-vl-chat": 80,
}


@pytest.fixture(scope="module")
def shrunken(tmp_path_factory):
    """Small models of the presets' architectures, by hub name."""
    base = tmp_path_factory.mktemp("shrunken")
    return {
        "Qwen/Qwen2.5-0.5B-Instruct": save_qwen(base / "0.5b", tie_word_embeddings=True),
        "Qwen/Qwen2.5-7B-Instruct": save_qwen(base / "7b"),
        "Qwen/Qwen-1_8B-Chat": save_as_qwen1(save_qwen(base / "source", num_key_value_heads=4), base / "qwen1"),
        "Qwen/Qwen3-1.7B": save_qwen3(base / "qwen3", tie_word_embeddings=True),
        "google/siglip-so400m-patch14-384": save_siglip(base / "siglip", image_size=384),
        "llava-hf/llava-interleave-qwen-0.5b-hf": save_llava(base / "llava", image_size=384),
        "Qwen/Qwen-VL-Chat": save_qwen_vl(base / "qwen-vl", image_size=448, queries=256),
    }


def preset(name: str, *overrides: str):
    return load_config(REPO / "configs" / f"{name}.yaml", overrides)


def test_there_is_a_preset_for_each_card():
    assert {file.stem for file in (REPO / "configs").glob("*.yaml")} == CARDS.keys()


@pytest.mark.parametrize("name", CARDS)
def test_a_preset_builds_and_learns_from_a_shrunken_copy_of_its_models(shrunken, name):
    config = preset(name, *(f"{key}={shrunken[model]}" for key, model in models_of(name).items()))
    tokenizer = load_tokenizer(config.language.path)
    model = build_model(config, tokenizer).train()
    visual = config.vision.image_context_length
    ids = torch.tensor([[5, *[token_id(tokenizer, IMAGE_TOKEN)] * visual, 6, 7]])
    labels = torch.tensor([[-100] * (visual + 2) + [7]])
    pixels = torch.zeros(1, 3, *[base_of(model.vision).config.image_size] * 2)
    model(input_ids=ids, labels=labels, pixel_values=pixels, images_per_row=torch.tensor([1])).loss.backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    projector = len(list(model.projector.parameters()))
    assert projector == (13 if name == "qwen-vl-chat" else 4)
    assert len(trained) == projector + 2 * 7 * 2  # and A and B of seven linear layers in two blocks
    assert config.lora.target_modules == "all-linear"


def models_of(name: str) -> dict[str, str]:
    """The hub names of a preset's models by their keys, without asking the hub."""
    content = read_yaml(REPO / "configs" / f"{name}.yaml")
    if "model" in content:
        return {"model": content["model"]}
    return {f"{part}.path": content[part]["path"] for part in ("vision", "language")}


def needed(name: str, folder: Path) -> float:
    """Estimated GB (1e9 bytes) of a preset at its longest batch, with a quarter of the text learnt from."""
    paths = []
    for key, model in models_of(name).items():
        to = folder / model.replace("/", "-")
        to.mkdir(exist_ok=True)
        (to / "config.json").write_text(json.dumps(PUBLISHED[model]), encoding="utf-8")
        paths.append(f"{key}={to}")
        kind = PUBLISHED[model].get("text_config", PUBLISHED[model])["model_type"]
    config = preset(name, *paths)
    rows, length = config.train.per_device_train_batch_size, config.language.max_length
    labels = rows * (length - config.vision.image_context_length) // 4
    return estimate(config, TOKENS[kind], Batch(rows, length, rows, labels), torch.bfloat16).total / 1e9


@pytest.mark.parametrize("name", CARDS)
def test_a_preset_fits_its_card_and_the_docs_say_how_much_it_takes(name, tmp_path):
    found = needed(name, tmp_path)
    print(f"{name}: {found:.1f} GB, estimated")
    assert found < CARDS[name] - 1.5  # CUDA's context, fragmentation, and a screen
    for page in ("models.md", "models.zh-CN.md"):
        row = re.search(rf"\| `configs/{name}.yaml` \|.*", (REPO / "docs" / page).read_text(encoding="utf-8"))[0]
        assert row.endswith(f"| {CARDS[name]} GB | {found:.1f} |"), row

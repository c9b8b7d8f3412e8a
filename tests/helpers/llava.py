"""Tiny LLaVA folders as transformers writes them, or as older versions of it did."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2Config,
    Qwen3Config,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from settings import Config, load_config
from tests.helpers.qwen1 import write_shards
from tests.helpers.tiny import TOKENIZER

# As llava-hf/llava-interleave-qwen-0.5b-hf asks: no system message, no line break after <|im_end|>, a space after an
# earlier answer's role and none in the prompt for the next.
INTERLEAVE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ '\n' + part['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As llava-hf/llava-1.5-7b-hf asks: a system message as plain text, and no end token after an answer.
VICUNA = (
    "{% if messages[0]['role'] != 'system' %}{{ 'A chat with an assistant. ' }}{% endif %}"
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def save_llava(
    folder: Path,
    tower: str = "siglip",
    text: str = "qwen2",
    strategy: str = "full",
    layer: int | list[int] = -1,
    template: str = INTERLEAVE,
    image_size: int = 42,
    **changes,
) -> Path:
    """A random LLaVA with patches of 14 px; 42 px gives 3 x 3 of them."""
    torch.manual_seed(5)
    vision_class = SiglipVisionConfig if tower == "siglip" else CLIPVisionConfig
    more = {"vision_use_head": False} if tower == "siglip" else {}
    text_class, own = (Qwen2Config, {}) if text == "qwen2" else (Qwen3Config, {"head_dim": 16})
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    config = LlavaConfig(
        vision_config=vision_class(**SIZES, **more, image_size=image_size, patch_size=14),
        text_config=text_class(**TEXT, **own, vocab_size=768, num_key_value_heads=2, pad_token_id=550),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
        **changes,
    )
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor(tower, image_size),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy=strategy,
        chat_template=template,
        num_additional_image_tokens=int(tower == "clip"),
    ).save_pretrained(folder)
    return folder


def image_processor(tower: str, image_size: int):
    square = {"height": image_size, "width": image_size}
    if tower == "clip":
        return CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=square)
    return SiglipImageProcessorPil(size=square, image_mean=[0.5] * 3, image_std=[0.5] * 3)


# Prefixes of the names in a checkpoint, by the version of transformers that wrote it.
NAMES = {
    "old": [],
    "new": [
        (r"^vision_tower\.", "model.vision_tower."),
        (r"^multi_modal", "model.multi_modal"),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^language_model\.lm_head", "lm_head"),
    ],
    "flat": [(r"^vision_tower\.vision_model\.", "vision_tower.")],
}


def rename_weights(folder: Path, names: str, shards: int = 1) -> None:
    """Write a folder's weights under the names of another version, in shards."""
    file = folder / "model.safetensors"
    state = {}
    for name, tensor in load_file(file).items():
        if not name.startswith("vision_tower.vision_model."):
            name = name.replace("vision_tower.", "vision_tower.vision_model.")
        for pattern, new in NAMES[names]:
            name = re.sub(pattern, new, name)
        state[name] = tensor
    file.unlink()
    if shards > 1:
        write_shards(state, folder, shards)
    else:
        save_file(state, file, metadata={"format": "pt"})


def edit_config(folder: Path, **changes) -> None:
    """Change keys of config.json; None removes one, and ``part__key`` changes a part's."""
    file = folder / "config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        section = content[part] if part else content
        if value is None:
            section.pop(name, None)
        else:
            section[name] = value
    file.write_text(json.dumps(content), encoding="utf-8")


def start_from(run: Path, llava: Path, *overrides: str) -> Config:
    """The config of a small run (run.yaml), changed to begin with a LLaVA."""
    content = yaml.safe_load(run.read_text(encoding="utf-8"))
    content |= {"model": str(llava), "language": {"max_length": 256}}
    del content["vision"]
    run.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return load_config(run, overrides)

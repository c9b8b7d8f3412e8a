"""Small models in the real formats, under the real key names, for tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

REPO = Path(__file__).resolve().parent.parent.parent
TOKENIZER = REPO / "tests" / "helpers" / "tokenizer"  # 552 tokens of the demo's texts, in Qwen2's format


def save_siglip(
    folder: Path, image_size: int = 42, two_towers: bool = False, width: int = 16, patch_size: int = 14
) -> Path:
    """A SigLIP of two layers; 42 px gives 3 x 3 patches."""
    torch.manual_seed(1)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**sizes, "image_size": image_size, "patch_size": patch_size}
    if two_towers:
        text = {**sizes, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    else:
        model = SiglipVisionModel(SiglipVisionConfig(**vision))
    _shake(model)
    model.save_pretrained(folder)
    SiglipImageProcessorPil(
        size={"height": image_size, "width": image_size}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder


def save_clip(folder: Path, image_size: int = 42, two_towers: bool = False) -> Path:
    """A CLIP of three layers; 42 px gives CLS and 3 x 3 patches."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = {**sizes, "image_size": image_size, "patch_size": 14}
    if two_towers:
        text = {**sizes, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision))
    else:
        model = CLIPVisionModel(CLIPVisionConfig(**vision))
    _shake(model)
    model.save_pretrained(folder)
    square = {"height": image_size, "width": image_size}
    CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=square).save_pretrained(folder)
    return folder


# The switch of Qwen3's own template, with what it writes; the rest of that template is not needed here.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def save_qwen3(folder: Path, **changes) -> Path:
    """A Qwen3 of two layers: heads wider than hidden_size / heads, thinking tokens, a template that can think."""
    torch.manual_seed(4)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = THINKING
    settings = {
        "vocab_size": 768,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    model = Qwen3ForCausalLM(Qwen3Config(**{**settings, **changes}))
    _shake(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_qwen(folder: Path, **changes) -> Path:
    """A Qwen2 of two layers with grouped-query attention and the demo's tokenizer."""
    torch.manual_seed(2)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    settings = {
        "vocab_size": 768,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,  # tied and untrained, a model mostly repeats its last token
    }
    model = Qwen2ForCausalLM(Qwen2Config(**{**settings, **changes}))
    _shake(model)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder / name)
    return folder


def _shake(model: torch.nn.Module) -> None:
    """Larger weights than the usual start: with nearly equal logits, wrong code would still give right answers."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def enlarge_projector(model, std: float = 0.5) -> None:
    """Weights of ``std`` in the projector: with the usual 0.01, one picture gives the same answer as another."""
    with torch.no_grad():
        for parameter in model.projector.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=std)


def picture(color: str) -> Image.Image:
    """A plain picture."""
    return Image.new("RGB", (30, 60), color)


def never_ends(assistant) -> None:
    """Let answers be as long as asked for, up to 4,000 tokens: the model cannot end them."""
    assistant.model.language.generation_config.eos_token_id = None
    assistant.config.language.max_length = 4096

"""SigLIP and CLIP with both of their towers: vectors of pictures and of texts in one space.

A new text tower can be made for a SigLIP that comes without one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, SiglipConfig, SiglipTextConfig

from common.errors import UserError
from common.hub import TOWERS, load_strictly, model_folder, read_config
from visual.load import load_vision
from visual.SIGLIP_VIT import POSITION_IDS

FIRST_LOG_SCALE, FIRST_BIAS = 2.3026, -10.0  # ln 10 and -10: 2303.15343, section 3.2


class SiglipModel(transformers.SiglipModel):
    _keys_to_ignore_on_load_unexpected = [POSITION_IDS]


class CLIPModel(transformers.CLIPModel):
    _keys_to_ignore_on_load_unexpected = [POSITION_IDS]


CLASSES: dict[str, type[PreTrainedModel]] = {"siglip": SiglipModel, "clip": CLIPModel}


class TwoTowers(nn.Module):
    """Both towers of ``model`` and the tokenizer of the texts.

    ``new`` names the parameters that no file had: those of a text tower that was made, and of the pooling head.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, new: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.model, self.tokenizer, self.new = model, tokenizer, new

    @property
    def is_siglip(self) -> bool:
        return self.model.config.model_type == "siglip"

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    @property
    def log_scale(self) -> Tensor:
        return self.model.logit_scale

    @property
    def bias(self) -> Tensor | None:
        return self.model.logit_bias if self.is_siglip else None

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """``pixel_values`` [B, 3, H, W] -> vectors [B, D], not normalised."""
        return self.model.get_image_features(pixel_values=pixel_values.to(self.model.dtype)).pooler_output

    def encode_texts(self, tokens: dict[str, Tensor]) -> Tensor:
        """``tokens`` of :meth:`tokenize` -> vectors [B, D], not normalised."""
        return self.model.get_text_features(**tokens).pooler_output

    def tokenize(self, texts: list[str]) -> dict[str, Tensor]:
        """``input_ids`` [B, T], and CLIP's ``attention_mask`` [B, T]; texts are cut at the tower's last position.

        SigLIP was trained with every text padded to its last position and without a mask.
        """
        most = self.model.config.text_config.max_position_embeddings
        padding = "max_length" if self.is_siglip else True
        tokens = self.tokenizer(texts, padding=padding, truncation=True, max_length=most, return_tensors="pt")
        names = ["input_ids"] if self.is_siglip else ["input_ids", "attention_mask"]
        return {name: tokens[name] for name in names}

    def forward(self, pixel_values: Tensor, **tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of texts and of pictures, each [B, D]."""
        return self.encode_texts(tokens), self.encode_images(pixel_values)

    def part_of(self, name: str) -> str:
        """Whose learning rate a parameter has: vision, language (the text tower), or projector (all others)."""
        name = name.removeprefix("model.")
        if name in self.new and not name.startswith("text_"):
            return "projector"
        first = name.partition("_")[0]
        return {"vision": "vision", "visual": "vision", "text": "language"}.get(first, "projector")


def towers_folder(path: str, key: str) -> str:
    """The folder of both towers: ``path`` itself, or that in a checkpoint of ``retrieval train``."""
    folder = model_folder(path, key)
    inner = Path(folder) / TOWERS
    return str(inner) if inner.is_dir() else folder


def load_two_towers(path: str, key: str = "--model", dtype: torch.dtype = torch.float32) -> TwoTowers:
    """Both towers of a folder or a hub name, on the CPU.

    Raises:
        UserError: they are missing, incomplete or of another kind; names ``key``.
    """
    folder = towers_folder(path, key)
    content = read_config(folder, key)
    if not has_text_tower(content):
        raise UserError(f"{key} = {path}: no SigLIP or CLIP with a text tower; `python -m retrieval train` makes one")
    model = load_strictly(CLASSES[content["model_type"]], folder, dtype, key)
    return TwoTowers(model, load_text_tokenizer(folder, key))


def has_text_tower(content: dict[str, Any]) -> bool:
    """Whether a config.json is of a SigLIP or CLIP with both towers."""
    return content.get("model_type") in CLASSES and "text_config" in content


def load_text_tokenizer(folder: str, key: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{key} = {folder}: its tokenizer cannot be read ({reason})") from error


def new_text_tower(vision_path: str, tokenizer: Any, *, width: int, layers: int, length: int) -> TwoTowers:
    """A SigLIP from a vision tower alone and a text tower with random weights, drawn from torch's generator.

    Args:
        width: hidden size of the text tower; it has a head for every 64 of it, and MLPs 4 times as wide.
        length: tokens of a text; a longer one is cut.

    Raises:
        UserError: the vision tower is no SigLIP.
    """
    tower = load_vision(vision_path)
    if tower.config.model_type != "siglip_vision_model":
        raise UserError(f"vision.path = {vision_path}: a text tower can be made for a SigLIP only")
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    text = SiglipTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=length,
        projection_size=tower.config.hidden_size,
        **ids,
    )
    vision = {**tower.config.to_dict(), "vision_use_head": True}
    model = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=vision))
    found = model.vision_model.load_state_dict(tower.state_dict(), strict=False)
    with torch.no_grad():
        model.logit_scale.fill_(FIRST_LOG_SCALE)
        model.logit_bias.fill_(FIRST_BIAS)
    made = {f"vision_model.{name}" for name in found.missing_keys}
    made |= {name for name, _ in model.named_parameters() if name.startswith(("text_model.", "logit_"))}
    return TwoTowers(model, tokenizer, frozenset(made))

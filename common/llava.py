"""A folder in transformers' LLaVA format: one config.json and one set of weights for tower, projector and Qwen.

Only LLaVA itself (``model_type: llava``) with a SigLIP or CLIP tower. The names of the weights have changed over the
versions of transformers; all of them are read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.hub import read_header, weight_files

if TYPE_CHECKING:
    import torch

# Old: vision_tower.vision_model.*, language_model.model.*, language_model.lm_head.*. New: model.vision_tower.*,
# model.language_model.*, lm_head.*. The first pattern that fits is replaced.
_NAMES = {
    "vision": ((r"^(model\.)?vision_tower\.(vision_model\.)?", ""),),
    "language": ((r"^(language_model\.)?lm_head\.", "lm_head."), (r"^(model\.)?language_model\.(model\.)?", "model.")),
    "projector": ((r"^(model\.)?multi_modal_projector\.", ""),),
}
FINAL_NORM = {"post_layernorm.weight": 1.0, "post_layernorm.bias": 0.0}


def is_llava(content: dict[str, Any]) -> bool:
    """Whether ``content`` is the config.json of a LLaVA."""
    return content.get("model_type") == "llava"


def llava_config(folder: str | Path) -> Any:
    """transformers' LlavaConfig of a folder; whether the word matrices are shared is in ``text_config`` too."""
    from transformers import LlavaConfig  # takes seconds

    config = LlavaConfig.from_pretrained(folder)
    config.text_config.tie_word_embeddings = config.tie_word_embeddings
    if config.vision_config.model_type.startswith("siglip"):
        config.vision_config.vision_use_head = False  # nothing reads the pooled output
    return config


def read_part(folder: str | Path, part: str) -> dict[str, torch.Tensor]:
    """The tensors of ``vision``, ``language`` or ``projector``, by the names that the part alone gives them.

    Raises:
        UserError: the folder holds a tensor that belongs to none of the three.
    """
    from safetensors import safe_open

    found = {}
    for file in weight_files(Path(folder)):
        names = [name for name in read_header(file) if part_of(name, file) == part]
        with safe_open(file, "pt") as tensors:
            found.update({_own_name(name, part): tensors.get_tensor(name) for name in names})
    if part == "vision":
        found = {name: tensor for name, tensor in found.items() if not name.startswith("head.")}
    return found


def add_final_norm(state: dict[str, torch.Tensor], width: int) -> None:
    """Give a tower without its final norm one that changes nothing: some folders leave out what LLaVA does not read."""
    import torch

    for name, value in FINAL_NORM.items():
        state.setdefault(name, torch.full((width,), value))


def part_of(name: str, file: Path) -> str:
    """Which part a tensor belongs to. Raises UserError if to none."""
    for part, patterns in _NAMES.items():
        if any(re.match(pattern, name) for pattern, _ in patterns):
            return part
    raise UserError(f"{file} has a surplus tensor {name}, which belongs to no part of a LLaVA")


def _own_name(name: str, part: str) -> str:
    pattern, new = next(pair for pair in _NAMES[part] if re.match(pair[0], name))
    return re.sub(pattern, new, name)

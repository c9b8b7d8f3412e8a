"""A folder of a Qwen-VL of the first generation: a Qwen-1 whose config.json has a ``visual`` block.

Tower, resampler and language model are in one set of weights, and the vision tower's image size and normalisation are
in the code that came with it. That code is neither needed nor run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.hub import read_header, weight_files

if TYPE_CHECKING:
    import torch

VISUAL = "transformer.visual."
CONNECTOR = ("attn_pool.", "ln_post.", "proj")  # of what follows VISUAL; the rest is the tower's


def is_qwen_vl(content: dict[str, Any]) -> bool:
    """Whether ``content`` is the config.json of a Qwen-VL."""
    return content.get("architectures") == ["QWenLMHeadModel"] and isinstance(content.get("visual"), dict)


def visual_sizes(content: dict[str, Any]) -> dict[str, Any]:
    """The ``visual`` block of its config.json, complete.

    Raises:
        UserError: a size is missing.
    """
    visual = {"n_queries": 256, **content["visual"]}  # the published config leaves it out
    for name in ("image_size", "patch_size", "width", "layers", "heads", "mlp_ratio"):
        if name not in visual:
            raise UserError(f"the visual block of its config.json lacks {name}")
    return visual


def part_of(name: str) -> str:
    """``vision``, ``projector`` or ``language``: which part a tensor belongs to."""
    if not name.startswith(VISUAL):
        return "language"
    return "projector" if name.removeprefix(VISUAL).startswith(CONNECTOR) else "vision"


def read_part(folder: str | Path, part: str) -> dict[str, torch.Tensor]:
    """The tensors of ``vision``, ``projector`` or ``language`` by their names, without ``transformer.visual.``."""
    from safetensors import safe_open

    found = {}
    for file in weight_files(Path(folder)):
        names = [name for name in read_header(file) if part_of(name) == part]
        with safe_open(file, "pt") as tensors:
            found.update({name.removeprefix(VISUAL): tensors.get_tensor(name) for name in names})
    return found

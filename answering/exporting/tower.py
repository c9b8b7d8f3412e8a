"""A vision tower as LLaVA reads it: ``hidden_states[vision_feature_layer]``, in front of the tower's final norm.

SigLIP's last features here are those after the final norm, and there are two exact ways to say so:

- ``block``: one more encoder block whose output is x + s LN(x). Its attention adds nothing, its second norm is the
  final norm, and its MLP is [s I, -s I] act([z; -z]) = s z, because gelu(z) - gelu(-z) = z (erf, tanh and quick GELU
  alike). The projector's first matrix is divided by s, so that x / s + LN(x) arrives.
- ``tie``: ``tie_last_hidden_states: true``, by which transformers (5.18 and later) puts the normalised features into
  ``hidden_states[-1]``. Programs that do not know the key ignore it, and answer from other features.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from common.errors import UserError

# A power of two, so that dividing by it is exact. On the demo the logits differ by 1.7e-5 of 20.6 with 2**30, by 2e-3
# with 2**16, and by 0.5 with 2**8. In bf16 the numbers fit; fp16 ends at 2**16.
SCALE = 2.0**30
GELUS = ("gelu", "gelu_pytorch_tanh", "quick_gelu")


@dataclass
class TowerPart:
    """The tower's config and tensors, and the number that the projector's first matrix must be divided by."""

    config: PreTrainedConfig
    state: dict[str, torch.Tensor]
    divisor: float = 1.0


def has_final_norm(tower: PreTrainedModel) -> bool:
    """Whether the features are those after the final norm: SigLIP's last layer. CLIP's norm is for its class token."""
    return tower.config.model_type.startswith("siglip") and isinstance(tower.post_layernorm, nn.LayerNorm)


def tower_part(tower: PreTrainedModel, norm: str | None) -> TowerPart:
    """A tower so that LLaVA's layer -1 is its features.

    Args:
        norm: ``block`` or ``tie``, for a tower with a final norm; None means ``block``.

    Raises:
        UserError: the tower has no final norm, or its MLP is too narrow for ``block``.
    """
    config, state = copy.deepcopy(tower.config), dict(tower.state_dict())
    config.architectures = [next(base.__name__ for base in type(tower).__mro__ if base.__module__.startswith("transf"))]
    if config.model_type.startswith("siglip"):
        config.vision_use_head = False
    width = config.hidden_size
    if not has_final_norm(tower):
        if norm is not None:
            raise UserError(f"--norm = {norm}: this tower's features have no final norm; leave --norm out")
        state |= _identity_norm(width)
        return TowerPart(config, state)
    if norm == "tie":
        config.tie_last_hidden_states = True
        return TowerPart(config, state)
    if config.intermediate_size < 2 * width or config.hidden_act not in GELUS:
        raise UserError(
            f"--norm = block: needs an MLP of at least 2 x {width} with a GELU, and this tower's is "
            f"{config.intermediate_size} wide with {config.hidden_act}; use --norm tie"
        )
    state |= _norm_block(state, config)
    state |= _identity_norm(width)
    config.num_hidden_layers += 1
    return TowerPart(config, state, SCALE)


def _identity_norm(width: int) -> dict[str, torch.Tensor]:
    """A final norm that no LLaVA reads; programs expect its tensors."""
    return {"post_layernorm.weight": torch.ones(width), "post_layernorm.bias": torch.zeros(width)}


def _norm_block(state: dict[str, torch.Tensor], config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """The tensors of the block after the last one."""
    last = f"encoder.layers.{config.num_hidden_layers - 1}."
    start = f"encoder.layers.{config.num_hidden_layers}."
    # Zeros, with the shapes of the block before it. With a zero out_proj, attention adds nothing.
    block = {
        name.replace(last, start): torch.zeros_like(tensor) for name, tensor in state.items() if name.startswith(last)
    }
    width = config.hidden_size
    one = torch.eye(width)
    block[f"{start}layer_norm1.weight"] += 1.0
    block[f"{start}layer_norm2.weight"] = state["post_layernorm.weight"].clone()
    block[f"{start}layer_norm2.bias"] = state["post_layernorm.bias"].clone()
    block[f"{start}mlp.fc1.weight"][: 2 * width] = torch.cat([one, -one])  # [inner, D]
    block[f"{start}mlp.fc2.weight"][:, : 2 * width] = SCALE * torch.cat([one, -one], 1)  # [D, inner]
    return block

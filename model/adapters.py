"""What of a base model is trained: LoRA adapters, its last blocks, all of it or nothing; chosen here and asserted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import nn

from common.errors import UserError
from model.plain_peft import LoraConfig, LoraLayer, PeftModel, get_peft_model, get_peft_model_state_dict

if TYPE_CHECKING:
    from model.model import MMultiModal
    from settings import Config, Lora

# Those that take the adapter's start out of the base weights. Loading does it again, so it must come out the same.
_TAKES_FROM_BASE = re.compile(r"olora|pissa")


def prepare_part(part: nn.Module, how: str, lora: Lora, last_blocks: int | None = None) -> nn.Module:
    """Freeze a part, give it LoRA adapters, or leave it wholly or in its last blocks trainable."""
    part.requires_grad_(how == "full")
    if how == "last_blocks":
        for module in last_modules(part, last_blocks):
            module.requires_grad_(True)
    return add_lora(part, lora) if how == "lora" else part


def last_modules(tower: nn.Module, count: int) -> list[nn.Module]:
    """The last ``count`` blocks of a tower and the norm behind them."""
    blocks = tower.encoder.layers
    if count > len(blocks):
        raise UserError(f"vision.last_blocks: {count}, but the encoder has {len(blocks)} blocks")
    return [*blocks[-count:], tower.post_layernorm]


# Those that take the adapter's start out of the base weights. Loading does it again, so it must come out the same.


def add_lora(part: nn.Module, lora: Lora) -> PeftModel:
    """The part with fresh adapters; ``part.lora_start`` keeps what was taken out of its weights, if anything was.

    Raises:
        UserError: peft refuses the ``lora`` section for this model.
    """
    if lora.modules_to_save and lora.target_modules == "all-linear":
        raise UserError(
            "lora.modules_to_save: with target_modules = all-linear these would get adapters besides; name the modules "
            "that are to get them, such as lora.target_modules=[q_proj,k_proj,v_proj,o_proj]"
        )
    takes = _TAKES_FROM_BASE.match(str(lora.init_lora_weights))
    try:
        with torch.random.fork_rng(enabled=bool(takes)):
            if takes:
                torch.manual_seed(0)
            wrapped = get_peft_model(part, LoraConfig(**lora.model_dump()))
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"lora: {' '.join(str(error).split())}") from error
    if takes:
        state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
        wrapped.lora_start = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    return wrapped


def base_of(part: nn.Module) -> nn.Module:
    """A tower or a language model itself, out of its adapters."""
    return part.get_base_model() if isinstance(part, PeftModel) else part


def lora_layers(part: nn.Module) -> list[str]:
    """Names of the layers of a part that carry an adapter."""
    if not isinstance(part, PeftModel):
        return []
    return [name for name, module in part.get_base_model().named_modules() if isinstance(module, LoraLayer)]


def assert_trainable(model: MMultiModal, config: Config) -> None:
    """What the config says is trained, and nothing else: LoRA that reaches into the tower is a classic mistake."""
    how = {"vision": config.vision.train, "projector": "full", "language": config.language.train}
    last = set()
    if how["vision"] == "last_blocks":
        last = {id(p) for m in last_modules(model.vision, config.vision.last_blocks) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        setting = how[model.part_of(name)]
        wanted = setting == "full" or (setting == "lora" and "lora_" in name) or id(parameter) in last
        if setting == "lora" and parameter.requires_grad and not wanted:
            continue  # what the lora section asks for besides (modules_to_save, bias)
        if parameter.requires_grad != wanted:
            raise AssertionError(f"{name} should {'' if wanted else 'not '}be trainable with {setting}")
    for part, setting in (("vision", how["vision"]), ("language", how["language"])):
        layers = set(lora_layers(getattr(model, part)))
        if setting != "lora":
            wanted_layers: set[str] = set()
        elif config.lora.target_modules == "all-linear" and not config.lora.exclude_modules:
            wanted_layers = linear_layers(getattr(model, part).get_base_model())
        else:
            continue
        if layers != wanted_layers:
            raise AssertionError(f"{part}: adapters on {sorted(layers ^ wanted_layers)[:3]} are not as lora asks")


def linear_layers(base: nn.Module) -> set[str]:
    """Names of all linear layers of a transformers model, plain or inside an adapter, but its output matrix."""
    head = base.get_output_embeddings()
    return {
        name.removesuffix(".base_layer")
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and module is not head and "lora_" not in name
    }

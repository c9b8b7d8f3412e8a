"""What is trained of a base model: adapters, the last blocks, everything or nothing; chosen here and asserted.

LoRA is peft's. A prefix (qwen/prefix.py) and bottleneck adapters (model/bottleneck.py) are for the language model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel

from common.errors import UserError
from model.bottleneck import add_bottlenecks
from model.fused_lora import fuse_lora
from model.plain_peft import LoraConfig, LoraLayer, PeftModel, get_peft_model, get_peft_model_state_dict
from qwen.load import matrices
from qwen.prefix import add_prefix

if TYPE_CHECKING:
    from model.model import MMultiModal
    from settings import Config, Lora

# Starts that are computed from the base weights and subtracted from them. Loading a checkpoint does the same again, so
# the result must be the same every time.
_TAKES_FROM_BASE = re.compile(r"olora|pissa")


def prepare_part(
    part: PreTrainedModel, how: str, lora: Lora, last_blocks: int | None = None, rows: Sequence[int] = ()
) -> PreTrainedModel | PeftModel:
    """Set what is trained of a tower or language model: ``how`` is frozen, lora, last_blocks or full.

    ``rows`` are token ids whose rows in a language model's matrices are trained beside adapters.

    Raises:
        UserError: peft refuses ``lora`` for this model, or the model has fewer blocks than ``last_blocks``.
    """
    part.requires_grad_(how == "full")
    if how == "last_blocks" and last_blocks is not None:
        for module in last_modules(part, last_blocks):
            module.requires_grad_(True)
    return add_lora(part, with_rows(part, lora, rows) if rows else lora) if how == "lora" else part


def prepare_language(language: PreTrainedModel, config: Config) -> PreTrainedModel | PeftModel:
    """:func:`prepare_part` for the language model, which may also be trained by a prefix or by bottleneck adapters."""
    how, size = config.language.train, config.language.adapter_size
    rows = language.box_rows if config.data.has_boxes else ()
    if rows and how not in ("lora", "full"):
        raise UserError(
            f"language.train = {how}: data.sources has boxes, whose marks are new tokens to this model; set it to lora"
        )
    if how not in ("prefix", "adapter"):
        return prepare_part(language, how, config.lora, rows=rows)
    language.requires_grad_(False)
    if how == "prefix":
        add_prefix(language.model.layers, size)
    else:
        add_bottlenecks(language.model.layers, language.config.hidden_size, size)
    return language


def require_mergeable(config: Config) -> None:
    """Raises UserError if what the run trained cannot become part of its base models' weights."""
    if (how := config.language.train) in ("prefix", "adapter"):
        raise UserError(
            f"language.train = {how}: no matrix of the language model can hold it, so it cannot be exported; a run "
            "with language.train = lora or full can"
        )


def last_modules(tower: PreTrainedModel, count: int) -> list[nn.Module]:
    """The last ``count`` blocks of a tower and the norm after them.

    Raises:
        UserError: it has fewer blocks.
    """
    blocks = tower.blocks
    if count > len(blocks):
        raise UserError(f"vision.last_blocks: {count}, but the encoder has {len(blocks)} blocks")
    return [*blocks[-count:], tower.final_norm]


def with_rows(language: PreTrainedModel, lora: Lora, rows: Sequence[int]) -> Lora:
    """``lora`` that also trains ``rows`` of the embedding, and of the output matrix where that is another."""
    given = lora.trainable_token_indices or {}
    wanted = dict(given) if isinstance(given, dict) else {"embed_tokens": given}
    for name in matrices(language):
        wanted[name] = sorted({*wanted.get(name, []), *rows})
    return lora.model_copy(update={"trainable_token_indices": wanted})


def add_lora(part: PreTrainedModel, lora: Lora) -> PeftModel:
    """The part with fresh adapters. ``part.lora_start`` keeps the adapters that were subtracted from its weights.

    Raises:
        UserError: peft refuses the ``lora`` section for this model.
    """
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
    fuse_lora(wrapped)
    return wrapped


def base_of(part: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """A tower or a language model itself, without the ``PeftModel`` around it."""
    return part.get_base_model() if isinstance(part, PeftModel) else part


def lora_layers(part: PreTrainedModel | PeftModel) -> list[str]:
    """Names of the layers of a part that have an adapter."""
    if not isinstance(part, PeftModel):
        return []
    return [name for name, module in part.get_base_model().named_modules() if isinstance(module, LoraLayer)]


def linear_layers(base: PreTrainedModel) -> set[str]:
    """Names of all linear layers of a transformers model, plain or inside an adapter, except its output matrix."""
    head = base.get_output_embeddings()
    heads = [] if head is None else [*head.modules()]  # where rows of it are trained, peft's layer and the matrix in it
    return {
        name.removesuffix(".base_layer")
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and not any(module is one for one in heads) and "lora_" not in name
    }


def assert_trainable(model: MMultiModal, config: Config) -> None:
    """Check that what the config says is trained, and nothing else. LoRA that reaches into the tower is a classic bug.

    Raises:
        AssertionError: names the parameter or the layers.
    """
    how = {"vision": config.vision.train, "projector": "full", "language": config.language.train}
    names = {"lora": "lora_", "prefix": ".prefix.", "adapter": ".adapter."}
    last: set[int] = set()
    if config.vision.train == "last_blocks" and config.vision.last_blocks is not None:
        last = {id(p) for m in last_modules(model.vision, config.vision.last_blocks) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        setting = how[model.part_of(name)]
        wanted = setting == "full" or (setting in names and names[setting] in name) or id(parameter) in last
        if setting == "lora" and parameter.requires_grad and not wanted:
            continue  # lora.modules_to_save or lora.bias asks for it
        if parameter.requires_grad != wanted:
            raise AssertionError(f"{name} should {'' if wanted else 'not '}be trainable with {setting}")
    for part in ("vision", "language"):
        _assert_lora_layers(part, getattr(model, part), how[part], config.lora)


def _assert_lora_layers(name: str, part: PreTrainedModel | PeftModel, how: str, lora: Lora) -> None:
    """Adapters are on all linear layers of the part or on none. Modules that ``lora`` names are checked by peft."""
    if how != "lora":
        wanted: set[str] = set()
    elif lora.target_modules == "all-linear" and not lora.exclude_modules:
        wanted = linear_layers(part.get_base_model())
    else:
        return
    if different := set(lora_layers(part)) ^ wanted:
        raise AssertionError(f"{name}: adapters on {sorted(different)[:3]} are not as lora asks")

"""The weights of ``train.start_from`` in the model of a new run (model/start_from.py says what that is).

What the checkpoint and the run have in common is loaded. What only the run has is fresh, what only the checkpoint has
is left out, and all of it is listed. A tensor of the same name and another shape is an error that names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from common.errors import UserError
from common.hashing import hash_model
from model.adapters import add_lora, lora_layers
from model.checkpoint import (
    ADAPTER_FILE,
    START_FILE,
    base_models,
    base_state,
    check_bases,
    check_lora_start,
    fill_adapter,
    fill_trained,
    read_tensors,
)
from model.connectors import Connector
from model.manifest import read_manifest
from model.model import MMultiModal, assemble, load_parts
from model.plain_peft import PeftModel
from model.start_from import ADAPTERS, BASE_FILE, PARTS, Start
from qwen.tokenizer import Tokenizer
from visual.SIGLIP_VIT import interpolate_positions

if TYPE_CHECKING:
    from settings import Config

POSITIONS = "embeddings.position_embedding.weight"  # of a tower, [N, D]
TOKEN_ROWS = ("model.embed_tokens.weight", "lm_head.weight")  # of a language model, [V, D]


def build_from_start(
    config: Config, tokenizer: Tokenizer, dtype: torch.dtype, device: torch.device | str, start: Start
) -> tuple[MMultiModal, list[str]]:
    """:func:`model.model.build_model` with the weights of ``start``; and lines that say what came from it.

    ``config.projector.standardize`` becomes false if the checkpoint's projector was trained on plain features.

    Raises:
        UserError: a base model is another one, or a tensor has another shape; names it.
    """
    found = {key: (path, hash_model(path, key, verify=False)) for key, path in base_models(config).items()}
    check_bases(start.folder, read_manifest(start.folder), found)
    vision, language = load_parts(config, tokenizer, dtype, device)
    lines: list[str] = []
    vision = change_base("vision", vision, start, config, lines)
    language = change_base("language", language, start, config, lines)
    state = read_tensors(start.folder / "projector.safetensors")
    same_kind = config.projector.kind == start.config.projector.kind
    if same_kind:
        follow_statistics(config, state)
    model = assemble(config, vision, language)
    model.changed_bases = {part for part in PARTS if start.changes_base(part, config)}
    if same_kind:
        lines += fill_common("projector", model.projector, state)
    else:
        lines.append(f"fresh     projector: {config.projector.kind}; the checkpoint has {start.config.projector.kind}")
    for part in PARTS:
        lines += continue_adapters(part, getattr(model, part), start, config)
    return model, lines


def change_base(name: str, part: PreTrainedModel, start: Start, config: Config, lines: list[str]) -> PreTrainedModel:
    """Give a base model without adapters what the checkpoint's run trained of it, and its merged adapters."""
    folder, dtype = start.folder / name, part.dtype
    state = read_tensors(folder / BASE_FILE) if (folder / BASE_FILE).is_file() else {}
    if start.how(name) in ("full", "last_blocks"):
        state |= read_tensors(folder / "model.safetensors")
    if state:
        lines += fill_common(name, part, state)
    if start.merges(name, config):
        wrapped = add_lora(part.float(), start.config.lora)  # bf16 has too few bits for what adapters change
        fill_adapter(wrapped, folder / ADAPTER_FILE)
        check_lora_start(wrapped, folder / START_FILE)
        layers = len(lora_layers(wrapped))
        part = wrapped.merge_and_unload().to(dtype)
        lines.append(f"loaded    {name}: adapters of {layers} layers, merged into its weights")
    elif not state:
        lines.append(f"loaded    {name}: nothing, the checkpoint has the base model's weights")
    return part


def follow_statistics(config: Config, state: dict[str, torch.Tensor]) -> None:
    """Standardise features as the checkpoint's projector was trained to read them.

    Raises:
        UserError: the config says that they are taken as they are, and they were not.
    """
    if "feature_mean" not in state:
        config.projector.standardize = False
    elif not config.projector.standardize:
        raise UserError(
            "projector.standardize = false: the projector of train.start_from was trained on standardised features; "
            "set it to true"
        )


@torch.no_grad()
def fill_common(name: str, part: PreTrainedModel | Connector, state: dict[str, torch.Tensor]) -> list[str]:
    """Copy the tensors of ``state`` that a part has too; lines that say which.

    Positions of another number of patches are interpolated. A vocabulary that has grown gets the rows that there are.

    Raises:
        UserError: a tensor has another shape.
    """
    wanted = part.state_dict() if isinstance(part, Connector) else base_state(part)
    common = [tensor for tensor in wanted if tensor in state]
    notes = []
    for tensor in common:
        value, own = state[tensor], wanted[tensor]
        if tensor == POSITIONS and value.shape != own.shape:
            value = fitted_positions(part, value)
            notes.append(f"positions interpolated from {len(state[tensor])} to {len(own)}")
        elif tensor in TOKEN_ROWS and len(value) < len(own) and value.shape[1:] == own.shape[1:]:
            own = own[: len(value)]
            notes.append(f"{tensor} has {len(wanted[tensor]) - len(value)} more rows here, which are fresh")
        if value.shape != own.shape:
            raise UserError(
                f"train.start_from: {name}: {tensor} is {list(value.shape)} there and {list(own.shape)} here, so it "
                "cannot fit; set the sizes as they were"
            )
        own.copy_(value)
    lines = [f"loaded    {name}: " + "; ".join([named(common), *notes])]
    if fresh := [tensor for tensor in wanted if tensor not in state]:
        lines.append(f"fresh     {name}: {named(fresh)}")
    if left := [tensor for tensor in state if tensor not in wanted]:
        lines.append(f"left out  {name}: {named(left)}")
    return lines


def fitted_positions(tower: PreTrainedModel, positions: torch.Tensor) -> torch.Tensor:
    """The checkpoint's ``positions`` [N', D] at the resolution of ``tower``: [N, D]."""
    embeddings = tower.embeddings
    side = embeddings.image_size // embeddings.patch_size
    return interpolate_positions(positions, embeddings.num_positions - embeddings.num_patches, side)


def continue_adapters(name: str, part: PreTrainedModel | PeftModel, start: Start, config: Config) -> list[str]:
    """Load the checkpoint's adapters of a part that are trained further; lines that say so."""
    how = getattr(config, name).train
    if how not in ADAPTERS:
        return []
    what = f"adapters of {len(lora_layers(part))} layers" if how == "lora" else f"the {how} of every layer"
    if start.how(name) != how or start.merges(name, config):
        return [f"fresh     {name}: {what}"]
    if how == "lora":
        fill_adapter(part, start.folder / name / ADAPTER_FILE)
        check_lora_start(part, start.folder / name / START_FILE)
    else:
        fill_trained(part, how, start.folder / name)
    return [f"loaded    {name}: {what}, trained further"]


def named(tensors: list[str]) -> str:
    """A number of tensors and the first names."""
    more = ", ..." if len(tensors) > 4 else ""
    return f"{len(tensors)} tensors ({', '.join(tensors[:4])}{more})"

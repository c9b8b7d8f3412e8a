"""Checkpoints: folders that hold everything that was trained, and say what it was trained from.

    checkpoint-<step>/
        projector.safetensors
        language/  vision/     a peft adapter (lora) or model.safetensors (what else was trained); absent where frozen
        language/grown.safetensors   rows for new tokens, if the base model had no spare ones
        */base.safetensors     frozen weights of a part that are not the base model's (train.start_from)
        generation_config.json where answers end
        tokenizer/  image_processor/
        config.yaml            the whole run
        manifest.json          versions, base models and their hashes, what was trainable, seed, data, file hashes
        optimizer.safetensors, optimizer.json, random.safetensors, random.json, progress.json, trainer_state.json
                               to resume training

Everything is safetensors, JSON or YAML. No pickle is written, and none is read. A checkpoint is written in a temporary
folder that is renamed when everything is on the disk (model/run_checkpoints.py). Its manifest holds the hash of every
file, so a damaged one is found, and the one before it is used (model/manifest.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import GenerationConfig, PreTrainedModel

from common.errors import UserError
from common.hashing import hash_model
from dataset.image import load_image_processor
from model.adapters import base_of
from model.connectors import Connector
from model.manifest import Damaged, check_files, read_manifest
from model.model import MMultiModal, build_model
from model.plain_peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from model.run_checkpoints import first_undamaged
from model.start_from import BASE_FILE
from qwen.load import matrices
from qwen.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from settings import Config


ADAPTER_FILE = "adapter_model.safetensors"  # peft's name
GROWN_FILE, START_FILE = "grown.safetensors", "lora_start.safetensors"


# ---------------------------------------------------------------------------------------------- writing


def save_weights(
    model: MMultiModal,
    tokenizer: Tokenizer,
    image_processor: Any,
    config: Config,
    folder: Path,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write everything that was trained, and everything else that is needed beside the base models to use it.

    ``state`` replaces :func:`trained_state` if this process holds only its share of each tensor.
    """
    from settings import save_config

    state = trained_state(model, config) if state is None else state
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_plain(_under("projector", state)), folder / "projector.safetensors")
    for name, how in trained_parts(config).items():
        part = getattr(model, name)
        if how == "lora":
            part.save_pretrained(folder / name, save_embedding_layers=False)
            (folder / name / "README.md").unlink(missing_ok=True)  # peft's model card template
            if start := getattr(part, "lora_start", None):
                save_file(start, folder / name / START_FILE)
        elif how != "frozen":
            (folder / name).mkdir(exist_ok=True)
            save_file(_plain(_under(name, state)), folder / name / "model.safetensors")
        if base := _under(f"{name}_base", state):
            (folder / name).mkdir(exist_ok=True)
            save_file(_plain(base), folder / name / BASE_FILE)
    language = base_of(model.language)
    if config.language.train != "full" and (grown := grown_rows(language)):
        (folder / "language").mkdir(exist_ok=True)
        save_file(_plain(grown), folder / "language" / GROWN_FILE)
    language.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder / "tokenizer")
    image_processor.save_pretrained(folder / "image_processor")
    save_config(config, folder / "config.yaml")


def trained_state(model: MMultiModal, config: Config) -> dict[str, torch.Tensor]:
    """The trained weights by their names in the model, without those of adapters, which peft saves; and under
    ``vision_base.`` and ``language_base.`` frozen weights that are not the base model's.
    """
    parts = {"projector": model.projector.state_dict()}
    for name, how in trained_parts(config).items():
        if how not in ("frozen", "lora"):
            parts[name] = _trained(getattr(model, name), how)
        if name in model.changed_bases and how != "full":
            parts[f"{name}_base"] = base_state(getattr(model, name))
    return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}


def base_state(part: PreTrainedModel | PeftModel) -> dict[str, torch.Tensor]:
    """The weights of a tower or language model without its adapters, under the names they have without adapters."""
    state: dict[str, torch.Tensor] = {}
    for name, tensor in _untied(base_of(part)).items():
        if not _ADAPTERS.search(name):
            state[_WRAPPED.sub("", name)] = tensor
    return state


# Tensors of adapters, and what peft puts into the names of those that it wraps.
_ADAPTERS = re.compile(r"lora_|\.(modules_to_save|prefix|adapter)\.")
_WRAPPED = re.compile(r"\.(base_layer|original_module)(?=\.)")


def trained_parts(config: Config) -> dict[str, str]:
    """How each base model is trained: frozen, lora, last_blocks, full, prefix or adapter."""
    return {"vision": config.vision.train, "language": config.language.train}


def grown_rows(language: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The rows [n, D] that were added to the base model's matrices; empty if it had a spare row for every token."""
    if not hasattr(language, "grown_from"):  # the Q-Former alone has no language model
        return {}
    rows = {name: matrix[language.grown_from :] for name, matrix in matrices(language).items()}
    return {name: new for name, new in rows.items() if len(new)}


def _under(part: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of one part, without its name in theirs."""
    start = f"{part}."
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}


def _trained(part: nn.Module, how: str) -> dict[str, torch.Tensor]:
    """The content of model.safetensors for a part without adapters."""
    state = _untied(part)
    if how != "full":
        state = {name: state[name] for name, parameter in part.named_parameters() if parameter.requires_grad}
    return state


def _plain(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _untied(part: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict with each shared tensor once. safetensors refuses aliases, and loading ties the weights again."""
    once = {name for name, _ in [*part.named_parameters(), *part.named_buffers()]}
    return {name: tensor for name, tensor in part.state_dict().items() if name in once}


# ---------------------------------------------------------------------------------------------- reading


def load_weights(model: MMultiModal, config: Config, folder: Path) -> None:
    """Read trained weights into a model that was built from the same config. Their tensors must be the same.

    Raises:
        Damaged: a file is missing or unreadable.
        UserError: the tensors in a file are not those of the model; names the first.
    """
    _fill_projector(model.projector, config, folder / "projector.safetensors")
    for name, how in trained_parts(config).items():
        part = getattr(model, name)
        if (base := folder / name / BASE_FILE).is_file():
            fill_base(part, read_tensors(base), base)
            model.changed_bases.add(name)
        if how == "lora":
            fill_adapter(part, folder / name / ADAPTER_FILE)
            check_lora_start(part, folder / name / START_FILE)
        elif how != "frozen":
            fill_trained(part, how, folder / name)
    if config.language.train != "full" and (grown := grown_rows(base_of(model.language))):
        file = folder / "language" / GROWN_FILE
        state = read_tensors(file)
        _require_same(file, state, grown)
        with torch.no_grad():
            for name, rows in grown.items():
                rows.copy_(state[name])


@torch.no_grad()
def fill_base(part: PreTrainedModel | PeftModel, state: dict[str, torch.Tensor], file: Path) -> None:
    """Give a part the weights ``state`` of :func:`base_state`, which ``file`` held, in its own dtype.

    Raises:
        UserError: they are not those of the part; names the first.
    """
    wanted = base_state(part)
    _require_same(file, state, wanted)
    for name, tensor in wanted.items():
        tensor.copy_(like(tensor, state[name]))


def _fill_projector(projector: Connector, config: Config, file: Path) -> None:
    """A checkpoint without statistics is of a run that took features as they are, whatever the config's default is."""
    if config.projector.standardize and "feature_mean" not in read_tensors(file):
        config.projector.standardize = False
        projector.set_statistics(None, None)
    _fill(projector, file)


def fill_trained(part: nn.Module, how: str, folder: Path) -> None:
    """Read what was trained of a part, other than by LoRA, from its folder in a checkpoint."""
    _fill(part, folder / "model.safetensors", wanted=_trained(part, how))


def _fill(module: nn.Module, file: Path, wanted: dict[str, torch.Tensor] | None = None) -> None:
    """Read the tensors ``wanted`` (None: all) of a module from a file."""
    state = read_tensors(file)
    current = wanted or module.state_dict()
    _require_same(file, state, current)
    module.load_state_dict({name: like(current[name], state[name]) for name in state}, strict=wanted is None)


def like(tensor: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """``value``; this process's share of it if ``tensor`` is a DTensor. Every process must hold the whole ``value``."""
    if not isinstance(tensor, DTensor) or value.shape != tensor.shape:
        return value
    # src_data_rank=None: each process cuts its share out of its own copy, and nothing is sent.
    share = distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
    return share.to(tensor.device)


def fill_adapter(part: PeftModel, file: Path) -> None:
    state = read_tensors(file)
    _require_same(file, state, get_peft_model_state_dict(part, save_embedding_layers=False))
    set_peft_model_state_dict(part, state)


def check_lora_start(part: PeftModel, file: Path) -> None:
    """PiSSA and OLoRA subtract an adapter's start from the base weights: it must be the same here as in the run.

    Raises:
        UserError: the product B A of the two starts differs by more than 0.1 % of its largest number.
    """
    if not hasattr(part, "lora_start"):
        return
    saved = read_tensors(file)
    _require_same(file, saved, part.lora_start)
    for name in (name for name in saved if "lora_A" in name):
        other = name.replace("lora_A", "lora_B")
        wanted, found = (state[other].float() @ state[name].float() for state in (saved, part.lora_start))  # [out, in]
        if (wanted - found).abs().max() > 1e-3 * wanted.abs().max():
            raise UserError(f"{file}: the start of {name} comes out differently here; was another base model used?")


def _require_same(file: Path, state: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Raises UserError if the names or shapes of the two differ."""
    for problem, names in (("lacks", wanted.keys() - state.keys()), ("has surplus", state.keys() - wanted.keys())):
        if names:
            raise UserError(f"{file} {problem} {len(names)} tensors, {min(names)} first; was another base model used?")
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            shapes = f"{list(state[name].shape)}, the model has {list(tensor.shape)}"
            raise UserError(f"{file}: {name} is {shapes}; was another base model used?")


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint's file by name, on the CPU.

    Raises:
        Damaged: the file is missing or unreadable.
    """
    try:
        return load_file(file)
    except FileNotFoundError as error:
        raise Damaged(f"{file} is missing; the checkpoint is incomplete") from error
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{file} is damaged ({error}); use an earlier checkpoint") from error


class Loaded(NamedTuple):
    """What a checkpoint's folder and its base models give."""

    model: MMultiModal
    tokenizer: Tokenizer
    image_processor: Any  # transformers', which has no types
    config: Config


def load_checkpoint(
    folder: Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    verify: bool = True,
    dequantize: bool = False,
    overrides: Sequence[str] = (),
) -> Loaded:
    """A checkpoint's model on the CPU, in eval mode, and what goes with it.

    Needs nothing but the folder and the base models that its config names, whose hashes must be those in its manifest.

    Args:
        dtype: of frozen weights.
        device: where the model will run: 4-bit weights are there from the start.
        verify: read every file to check its hash. Otherwise a large file that is unchanged since it was last read is
            not read again (common/hash_cache.py).
        dequantize: give 4-bit weights ``dtype`` (:func:`model.model.build_model`).
        overrides: KEY=VALUE for keys of its config, such as the folder that a base model has moved to.

    Raises:
        Damaged: a file is missing, or is not what was saved.
        UserError: a base model is missing, or is another one.
    """
    from settings import load_config

    manifest = read_manifest(folder)
    check_files(folder, manifest, verify=verify)
    config = load_config(folder / "config.yaml", overrides, check_models=False)
    if config.train.qformer_alone:
        raise UserError(
            f"{folder}: its run trained the Q-Former alone, which cannot answer; name it as train.start_from"
        )
    paths = base_models(config)
    hashes = {key: hash_model(path, key, folder, verify=verify) for key, path in paths.items()}
    check_bases(folder, manifest, {key: (path, hashes[key]) for key, path in paths.items()})
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    model = build_model(config, tokenizer, dtype, device, dequantize=dequantize)
    load_weights(model, config, folder)
    base_of(model.language).generation_config = GenerationConfig.from_pretrained(folder)
    return Loaded(model.eval(), tokenizer, load_image_processor(str(folder / "image_processor")), config)


def check_bases(folder: Path, manifest: dict, found: dict[str, tuple[str, str]]) -> None:
    """Check that the base models in use are those of the checkpoint. ``found`` is the path and hash of each by its key.

    Raises:
        UserError: one is another.
    """
    for key, (path, digest) in found.items():
        if digest != manifest["base_models"][key]["sha256"]:
            raise UserError(f"{key}: {path} is not the model that {folder} was trained from (other weights)")


def load_undamaged(
    path: Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", **options: Any
) -> tuple[Path, Loaded]:
    """The folder and the content of a checkpoint, or of a run's best undamaged one; see :func:`load_checkpoint`."""
    return first_undamaged(path, lambda folder: load_checkpoint(folder, dtype, device, **options))


# ---------------------------------------------------------------------------------------------- base models


def base_models(config: Config) -> dict[str, str]:
    """The folder or hub name of each base model, by its key in the config."""
    if config.model is not None:
        return {"model": config.model}
    return {"vision.path": config.vision.path, "language.path": config.language.path}

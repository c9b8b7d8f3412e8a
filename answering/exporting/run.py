"""An export from beginning to end: refuse early, write beside the target, open it again, compare, and rename."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from answering.assistant import Assistant
from answering.exporting.card import Facts, model_card
from answering.exporting.compare import check, last_logits, reference_of, round_weights
from answering.exporting.formats import Format, Options, load_format
from answering.exporting.onnx_int8 import quantize
from common.errors import UserError
from common.files import publish_folder, write_text
from dataset.prompt import Request
from model.adapters import require_mergeable
from model.checkpoint import base_models, load_undamaged
from model.connectors import Connector
from model.connectors.mlp import MLPConnector
from model.manifest import read_manifest
from model.memory import empty_model
from model.plain_peft import PeftModel
from qwen.load import readable
from qwen.tokenizer import load_tokenizer
from settings import Config, Generate

SPARE = 100_000_000  # bytes for everything but the weights
ROUNDED_TO = {"fp32": torch.float32, "bf16": torch.bfloat16, "f32": torch.float32, "f16": torch.float16}
ROUNDED_TO |= {"int8": torch.float32}  # compared before it is quantised
NOT_EXACT = (
    "not exact: the model was trained without the first patch and sees it here; logits are compared with the "
    "checkpoint's when it sees it too"
)


@dataclass(frozen=True)
class HeldOut:
    """Questions that both models are asked; ``score(i, answer)`` is None for a question without a score."""

    requests: list[Request] = field(default_factory=list)
    score: Callable[[int, str], float | None] = lambda number, answer: None


def export(
    checkpoint: Path,
    output: Path,
    options: Options,
    config: Config,
    held_out: HeldOut,
    result: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint into the folder ``output``; nothing is there before all of it is right.

    ``result`` is evaluate.py's, for the model card.

    Raises:
        UserError: the format cannot hold this model, the disk has no room, or the export is not the same model.
    """
    require_mergeable(config)
    if config.language.picture_numbers:
        raise UserError("language.picture_numbers = true: exported templates write no numbers before pictures")
    form = load_format(options.format)
    form.require(config, options)
    require_room(config, output, form, options)
    source = open_source(checkpoint, config)
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        checked = write_checked(source, temporary, options, held_out)
        write_text(temporary / "README.md", model_card(facts_of(source, options, checked, result)))
        publish_folder(temporary, output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    total = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(f"done      {output}, {readable(total)}; its README.md has the commands for each program")


def require_room(config: Config, output: Path, form: Format, options: Options) -> None:
    """Raises UserError if the disk of ``output`` has no room for the export; reads no weights."""
    tokens = len(load_tokenizer(config.language.path, config.data.has_boxes))
    needed = form.size(empty_model(config, tokens, torch.float32), options) + SPARE
    parent = next(folder for folder in output.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(f"--output = {output}: needs {readable(needed)}, and {parent} has {readable(free)} free")


def open_source(checkpoint: Path, config: Config) -> Assistant:
    """The checkpoint's model on the CPU, in fp32, with its adapters merged; ``config`` says where its base models are.

    Raises:
        UserError: an adapter cannot be merged.
    """
    bases = [f"{key}={json.dumps(path)}" for key, path in base_models(config).items()]
    folder, (model, tokenizer, image_processor, config) = load_undamaged(checkpoint, dequantize=True, overrides=bases)
    model.merge_adapters()
    for part in (model.vision, model.language):
        if isinstance(part, PeftModel):
            raise UserError(f"{folder}: lora.lora_bias gives layers a bias that Qwen has not, so it cannot be exported")
    return Assistant(model, tokenizer, image_processor, config, folder)


def write_checked(source: Assistant, folder: Path, options: Options, held_out: HeldOut) -> list[str]:
    """Write an export, open it again and compare. Gives the lines that say how close it is."""
    form = load_format(options.format)
    ours = ask_ours(source, held_out.requests)
    if options.keep_first_patch:
        show_first_patch(source)
    reference = reference_of(source)
    print(f"writing   {options.dtype} weights", flush=True)
    fold(source.model.projector)
    form.write(source, folder, options)
    round_weights(source.model, ROUNDED_TO[options.dtype])
    rounded = last_logits(source.model, reference.ids[0], reference.pixels[0])
    print("checking  opened again", flush=True)
    peer = form.reopen(folder)
    lines = [check(reference, peer, rounded, form.BOUND)]
    if options.keep_first_patch:
        lines.append(NOT_EXACT)
    print("\n".join(f"compared  {line}" for line in lines), flush=True)
    if options.dtype == "int8":
        print("writing   int8 weights", flush=True)
        quantize(folder)
        peer = form.reopen(folder)
    if ours:
        theirs = [peer.answer(request, source.config.generate.max_new_tokens) for request in held_out.requests]
        asked = [agreement(ours, theirs)]
        if options.dtype == "int8":
            asked.append(loss(held_out, ours, theirs))
        print("\n".join(f"asked     {line}" for line in asked), flush=True)
        lines += asked
    return lines


def show_first_patch(source: Assistant) -> None:
    """Show the model the first patch too, as llama.cpp does."""
    source.model.drop_first_token = False
    source.config.vision.drop_first_token = False
    source.config.vision.image_context_length += 1


def fold(connector: Connector) -> None:
    """Put the statistics of the features into the first layer, as exports have them, before its weights are rounded."""
    if isinstance(connector, MLPConnector):
        state = connector.folded()
        connector.set_statistics(None, None)
        connector.load_state_dict(state)


def ask_ours(source: Assistant, requests: Sequence[Request]) -> list[str]:
    """Our greedy answer to each request."""
    greedy = Generate(max_new_tokens=source.config.generate.max_new_tokens).model_dump(exclude={"batch_size"})
    size = source.config.generate.batch_size
    batches = [list(requests[start : start + size]) for start in range(0, len(requests), size)]
    return [answer for batch in batches for answer in source.answer(batch, **greedy)]


def agreement(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """How many of our answers the export gives too."""
    same = sum(found == answer for found, answer in zip(theirs, ours, strict=True))
    return f"{same} of {len(ours)} held-out questions answered the same ({same / len(ours):.1%})"


def loss(held_out: HeldOut, ours: Sequence[str], theirs: Sequence[str]) -> str:
    """The score of our answers in fp32 and of the export's, and how much lower the export's is."""
    pairs = [
        (held_out.score(i, answer), held_out.score(i, found))
        for i, (answer, found) in enumerate(zip(ours, theirs, strict=True))
    ]
    scored = [(a, b) for a, b in pairs if a is not None and b is not None]  # captions have no score
    if not scored:
        return "no loss of accuracy can be given: none of the questions has a score"
    before, after = (sum(side) / len(scored) for side in zip(*scored, strict=True))
    return f"accuracy {before:.4f} in fp32, {after:.4f} in int8: {before - after:+.4f} lost on {len(scored)} questions"


def facts_of(source: Assistant, options: Options, checked: list[str], result: dict[str, Any] | None) -> Facts:
    """What the model card says."""
    assert source.checkpoint is not None, "an export is made from a checkpoint"
    return Facts(options, source.config, read_manifest(source.checkpoint), checked, result)

"""The format ``onnx``: graphs for onnxruntime, which runs on phones, in browsers and under TensorRT.

vision.onnx     pixel_values [n, 3, H, W] -> visual_tokens [n * N, D]: tower, standardisation and projector
language.onnx   input_ids [B, T], visual_tokens [K, D], attention_mask [B, P + T], positions [M] and the cache of P
                tokens -> logits [B, M, V] and the cache of P + T tokens
*.onnx.data     their weights
tokenizer.json, settings.json, answer.py (an example that needs onnxruntime, tokenizers, Pillow and numpy alone)
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from answering.exporting.formats import Options
from common.errors import UserError
from common.files import write_json, write_text
from common.optional import require_packages
from dataset.layout import NO_THOUGHTS, can_think
from dataset.prompt import IMAGE_TOKEN, Request
from model.adapters import base_of
from model.model import MMultiModal
from qwen.tokenizer import Tokenizer, token_id

if TYPE_CHECKING:
    from PIL import Image

    from answering.assistant import Assistant
    from settings import Config

# A share of the largest logit, both sides in fp32 on the same weights. Seen: 1e-6.
BOUND = 1e-4
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require(config: Config, options: Options) -> None:
    """See :class:`answering.exporting.formats.Format`."""
    if options.norm is not None:
        raise UserError(f"--norm = {options.norm}: the final norm is part of an ONNX graph; leave --norm out")
    require_packages(PACKAGES, "--format onnx")


def size(model: MMultiModal, options: Options) -> int:
    """Bytes of the weights in fp32, and again while int8 is made; see :class:`answering.exporting.formats.Format`."""
    weights = sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)
    return weights * 4 * (2 if options.dtype == "int8" else 1)


def write(source: Assistant, folder: Path, options: Options) -> None:
    """The graphs in fp32 and what the example needs; see :class:`answering.exporting.formats.Format`."""
    if not source.model.projector.in_sequence:
        raise UserError(
            f"--format = onnx: the connector {source.model.projector.name} is read from outside the sequence, which "
            "the graphs do not say; train with another connector to export the model"
        )
    if source.image_processor.do_center_crop:
        raise UserError("--format = onnx: this image processor cuts the middle out of pictures, which is not written")
    if IMAGE_TOKEN in str(source.tokenizer.chat_template):
        raise UserError("--format = onnx: its example writes ChatML, and this model has a chat template of its own")
    language = base_of(source.model.language)
    if any(kind != "full_attention" for kind in language.config.layer_types):
        raise UserError("--format = onnx: the language model has layers with a sliding window, which are not written")
    with eager_attention(base_of(source.model.vision)), eager_attention(language), quiet():
        write_vision(source.model, folder / "vision.onnx")
        write_language(language, source.model.num_visual_tokens, folder / "language.onnx")
    source.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "settings.json", settings_of(source))
    example = Path(__file__).with_name("onnx_example.py")
    write_text(folder / "answer.py", example.read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------------- graphs


class VisionGraph(nn.Module):
    """Pictures to visual tokens."""

    def __init__(self, model: MMultiModal) -> None:
        super().__init__()
        self.tower, self.model = base_of(model.vision), model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """``pixel_values`` [n, 3, H, W] -> visual tokens [n * N, D]."""
        return self.model.project(self.tower(pixel_values)).flatten(0, 1)


class LanguageGraph(nn.Module):
    """The language model with its cache as plain tensors, and the visual tokens among its words."""

    def __init__(self, language: PreTrainedModel) -> None:
        super().__init__()
        self.language = language

    def forward(
        self,
        input_ids: torch.Tensor,
        visual_tokens: torch.Tensor,
        attention_mask: torch.Tensor,
        positions: torch.Tensor,
        past: list[torch.Tensor],
    ) -> list[torch.Tensor]:
        """Logits and the longer cache.

        Args:
            input_ids: [B, T] int64, padded on the left.
            visual_tokens: [K, D], one for each placeholder in ``input_ids``, row by row; K may be 0.
            attention_mask: [B, P + T] int64, 0 at padding, with the P tokens in the cache.
            positions: [M] int64, which of the T positions get logits.
            past: key and value [B, heads, P, width] of each layer in turn; P may be 0.
        """
        embeds = self._embed(input_ids, visual_tokens)  # [B, T, D]
        length = input_ids.shape[1]
        seen = attention_mask.cumsum(1)  # [B, P + T]
        position_ids = (seen - 1).clamp(min=0)[:, -length:]  # [B, T]
        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        hidden_states = self.language.model(
            inputs_embeds=embeds,
            attention_mask={"full_attention": self._mask(attention_mask, length)},
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state  # [B, T, D]
        logits = self.language.lm_head(hidden_states.index_select(1, positions))  # [B, M, V]
        return [logits, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))]

    def _embed(self, input_ids: torch.Tensor, visual_tokens: torch.Tensor) -> torch.Tensor:
        """As qwen.Mqwen.ImageInputMixin.embed, with operations that every runtime has."""
        embeds = self.language.get_input_embeddings()(input_ids)  # [B, T, D]
        placeholder = input_ids.eq(self.language.image_token_id)  # [B, T]
        # Row 0 is for the words, so that there is a row to read without pictures too.
        rows = torch.cat([visual_tokens.new_zeros(1, visual_tokens.shape[1]), visual_tokens])  # [1 + K, D]
        which = placeholder.long().flatten().cumsum(0).reshape(input_ids.shape) * placeholder  # [B, T]
        return torch.where(placeholder.unsqueeze(-1), rows[which], embeds)

    def _mask(self, attention_mask: torch.Tensor, length: int) -> torch.Tensor:
        """What is added to the scores [B, 1, T, P + T]. Finite: rows of padding would else be NaN, and spread."""
        place = torch.ones_like(attention_mask).cumsum(1)  # [B, P + T]
        allowed = (place[:, None, :] <= place[:, -length:, None]) & attention_mask.bool()[:, None, :]  # [B, T, P + T]
        lowest = torch.finfo(torch.float32).min
        return torch.where(allowed, 0.0, lowest)[:, None]


def write_vision(model: MMultiModal, file: Path) -> None:
    """vision.onnx; traced with two pictures, because a dimension of 1 would be taken for a constant."""
    side = base_of(model.vision).config.image_size
    program = torch.onnx.export(
        VisionGraph(model).eval(),
        (torch.rand(2, 3, side, side),),
        dynamo=True,
        verbose=False,
        input_names=["pixel_values"],
        output_names=["visual_tokens"],
        dynamic_shapes=({0: "pictures"},),
    )
    save(program, file)


def write_language(language: PreTrainedModel, visual: int, file: Path) -> None:
    """language.onnx; traced with two rows of ``visual`` placeholders and some words each, and a cache."""
    config = language.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cached, length, rows = 3, visual + 4, 2
    ids = torch.ones(rows, length, dtype=torch.long)
    ids[:, :visual] = language.image_token_id
    names = [f"{kind}.{layer}" for layer in range(config.num_hidden_layers) for kind in ("key", "value")]
    past = [torch.rand(rows, config.num_key_value_heads, cached, width) for _ in names]
    program = torch.onnx.export(
        LanguageGraph(language).eval(),
        (
            ids,
            torch.rand(rows * visual, config.hidden_size),
            torch.ones(rows, cached + length, dtype=torch.long),
            torch.tensor([length - 2, length - 1]),
            past,
        ),
        dynamo=True,
        verbose=False,
        input_names=["input_ids", "visual_tokens", "attention_mask", "positions", *(f"past.{n}" for n in names)],
        output_names=["logits", *(f"present.{n}" for n in names)],
        dynamic_shapes=(
            {0: "batch", 1: "length"},
            {0: "visual"},
            {0: "batch", 1: "total"},
            {0: "kept"},
            [{0: "batch", 2: "past"} for _ in names],
        ),
    )
    save(program, file)


def save(program: Any, file: Path) -> None:
    """The graph, and its weights in a file beside it: a graph alone may have 2 GB."""
    program.save(str(file), external_data=True)


@contextmanager
def eager_attention(part: PreTrainedModel) -> Iterator[None]:
    """Attention as plain matrix products, for which every runtime has a kernel; afterwards as it was."""
    before = part.config._attn_implementation
    part.set_attn_implementation("eager")
    try:
        yield
    finally:
        part.set_attn_implementation(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's notices about how it works."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


# ---------------------------------------------------------------------------------------------- settings


def settings_of(source: Assistant) -> dict[str, Any]:
    """settings.json: the ids around questions and answers, how pixels are made, and when an answer ends."""
    tokenizer, processor, config = source.tokenizer, source.image_processor, source.config.language
    language = base_of(source.model.language)
    stops = language.generation_config.eos_token_id
    start, end, newline = (
        token_id(tokenizer, "<|im_start|>"),
        token_id(tokenizer, "<|im_end|>"),
        ids_of(tokenizer, "\n"),
    )
    thoughts = NO_THOUGHTS if can_think(tokenizer) and not config.thinking else ""
    return {
        "system": [start, *ids_of(tokenizer, f"system\n{config.system}"), end, *newline] if config.system else [],
        "user": [start, *ids_of(tokenizer, "user\n")],
        "assistant": [end, *newline, start, *ids_of(tokenizer, "assistant\n"), *ids_of(tokenizer, thoughts)],
        "end": [end, *newline],
        "image": token_id(tokenizer, IMAGE_TOKEN),
        "image_tokens": source.model.num_visual_tokens,
        "width": language.config.hidden_size,
        "stops": stops if isinstance(stops, list) else [stops],
        "size": [processor.size["width"], processor.size["height"]],
        "resample": int(processor.resample),
        "scale": processor.rescale_factor,
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
    }


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text, in which control tokens are ordinary text."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


# ---------------------------------------------------------------------------------------------- opened again


class OnnxPeer:
    """The graphs in onnxruntime, asked by the example's own code; see :class:`answering.exporting.formats.Reopened`."""

    def __init__(self, folder: Path) -> None:
        self.model = importlib.import_module("answering.exporting.onnx_example").OnnxModel(folder)

    def prompt(self, request: Request) -> list[int]:
        settings, encode = self.model.settings, self.model.tokenizer.encode
        ids = list(settings["system"])
        if request.system is not None:
            system = [settings["user"][0], *encode(f"system\n{request.system}").ids, *settings["end"]]
            ids = system if request.system else []
        for turn in request.turns:
            ids += self.model.turn(turn.question)
            ids += [] if turn.answer is None else [*encode(turn.answer).ids, *settings["end"]]
        return ids

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return torch.from_numpy(self.model.pixels(images))

    def logits(self, input_ids: list[int], pixel_values: torch.Tensor, last: int) -> torch.Tensor:
        return torch.from_numpy(self.model.logits(input_ids, pixel_values.numpy(), keep=last)[0][0])

    def answer(self, request: Request, max_new_tokens: int) -> str:
        return self.model.answer(self.prompt(request), self.model.pixels(request.images), max_new_tokens)


def reopen(folder: Path) -> OnnxPeer:
    """See :class:`answering.exporting.formats.Format`."""
    return OnnxPeer(folder)

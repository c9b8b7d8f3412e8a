"""Two towers in training: which weights are trained, their loss, and what a checkpoint holds of them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.hub import model_folder, read_config
from model.adapters import base_of, prepare_part
from model.plain_peft import PeftModel
from settings import Config
from training.losses import MAX_LOG_SCALE, sigmoid_loss, sigmoid_of, similarities, softmax_loss, softmax_of
from visual.two_towers import (
    TwoTowers,
    has_text_tower,
    load_text_tokenizer,
    load_two_towers,
    new_text_tower,
    towers_folder,
)

# SigLIP's pooling attention computes with its matrix directly, so that an adapter of it would have no effect.
NO_ADAPTER = r".*head\..*"


@dataclass(frozen=True)
class Options:
    """``loss`` is softmax or sigmoid; the others are the sizes of a new text tower."""

    loss: str
    text_width: int
    text_layers: int
    text_length: int


@dataclass
class Output:
    loss: Tensor


class Contrastive(nn.Module):
    """The towers with their loss, as the loop of training/ calls a model."""

    def __init__(self, towers: TwoTowers, loss: str) -> None:
        super().__init__()
        self.towers, self.kind = towers, loss

    def forward(
        self,
        pixel_values: Tensor,
        images_per_row: Tensor,
        num_items_in_batch: Tensor,
        use_all: bool = False,
        **tokens: Tensor,
    ) -> Output:
        """This process's share of the loss of all pairs: ``num_items_in_batch`` shares make a step."""
        texts, images = self.towers(pixel_values, **tokens)  # [B, D] each
        scale, bias = self.towers.log_scale, self.towers.bias
        if self.kind == "softmax":
            return Output(softmax_loss(texts, images, scale) / num_items_in_batch)
        assert bias is not None, "build_towers refuses CLIP with the sigmoid loss"
        return Output(sigmoid_loss(texts, images, scale, bias) / num_items_in_batch)

    def loss_of(self, texts: Tensor, images: Tensor) -> float:
        """The loss of pairs that this process holds all of."""
        scale, bias = self.towers.log_scale, self.towers.bias
        if self.kind == "softmax":
            return float(softmax_of(similarities(texts, images, scale.clamp(max=MAX_LOG_SCALE))))
        return float(sigmoid_of(similarities(texts, images, scale, bias)))

    def part_of(self, name: str) -> str:
        return self.towers.part_of(name.removeprefix("towers."))


def build_towers(config: Config, options: Options) -> TwoTowers:
    """The towers of ``vision.path``, with a new text tower where it has none, and what is trained of them.

    Raises:
        UserError: the model is missing or of another kind, or a setting does not fit it.
    """
    content = read_config(towers_folder(config.vision.path, "vision.path"), "vision.path")
    if has_text_tower(content):
        towers = load_two_towers(config.vision.path, "vision.path")
    else:
        tokenizer = load_text_tokenizer(model_folder(config.language.path, "language.path"), "language.path")
        sizes = {"width": options.text_width, "layers": options.text_layers, "length": options.text_length}
        towers = new_text_tower(config.vision.path, tokenizer, **sizes)
    if options.loss == "sigmoid" and not towers.is_siglip:
        raise UserError("--loss sigmoid: CLIP has no bias for it; use softmax")
    choose_trained(towers, config, options)
    return towers


def choose_trained(towers: TwoTowers, config: Config, options: Options) -> None:
    """``vision.train`` and ``language.train`` are for the two towers; what is new is trained in full."""
    model, text = towers.model.requires_grad_(False), "full" if towers.new else config.language.train
    if text not in ("frozen", "lora", "full"):
        raise UserError(f"language.train = {text}: a text tower takes frozen, lora or full")
    lora = config.lora
    if towers.is_siglip and lora.exclude_modules is None:
        lora = lora.model_copy(update={"exclude_modules": NO_ADAPTER})
    model.vision_model = prepare_part(model.vision_model, config.vision.train, lora, config.vision.last_blocks)
    model.text_model = prepare_part(model.text_model, text, config.lora)
    if towers.new:
        base_of(model.vision_model).head.requires_grad_(True)
    if not towers.is_siglip:
        model.visual_projection.requires_grad_(config.vision.train != "frozen")
        model.text_projection.requires_grad_(text != "frozen")
    towers.log_scale.requires_grad_(True)
    if towers.bias is not None:
        towers.bias.requires_grad_(options.loss == "sigmoid")


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def fill_trained(model: nn.Module, state: dict[str, Tensor], file: Any) -> None:
    """Raises UserError if the tensors that ``file`` held are not those that are trained."""
    wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if {name: p.shape for name, p in wanted.items()} != {name: value.shape for name, value in state.items()}:
        raise UserError(f"{file}: its tensors are not those that this run trains; was vision.path another model?")
    for name, parameter in wanted.items():
        parameter.copy_(state[name])


def merged(towers: TwoTowers) -> nn.Module:
    """A copy of both towers with their adapters merged: what transformers, `vision.path` and `--model` open."""
    model = copy.deepcopy(towers.model)
    for name in ("vision_model", "text_model"):
        if isinstance(part := getattr(model, name), PeftModel):
            setattr(model, name, part.merge_and_unload())
    return model

"""The whole model: a SigLIP tower, a projector, and a Qwen that takes the projected features among its words.

``visual/`` and ``qwen/`` do not know each other; they meet here.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.utils import logging as transformers_logging

from common.errors import UserError
from model.adapters import assert_trainable, base_of, prepare_part
from model.connectors import Connector, build_connector
from model.plain_peft import PeftModel
from qwen.load import load_language
from visual.geometry import PatchGrid, patch_grid
from visual.load import load_vision

if TYPE_CHECKING:
    from settings import Config

PARTS = ("vision", "projector", "language")


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and notices from between a script's own lines."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # peft 0.21 still asks transformers for gradient checkpointing under its old name.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)


class MMultiModal(nn.Module):
    """Vision tower -> projector -> extended Qwen.

    Args:
        vision: maps ``pixel_values`` [K, 3, H, W] to features [K, 729, Dv]; perhaps inside a ``PeftModel``.
        language: a Qwen with :class:`qwen.Mqwen.ImageInputMixin`, perhaps inside a ``PeftModel``.
        projector: maps the features [K, 728, Dv] to visual tokens [K, N, Dl].
        drop_first_token: leave out feature 0. SigLIP has no class token, so with so400m/14 at 384 px this gives 728 of
            729 real patches: the design's choice, stored with every checkpoint.
        train_vision: let gradients into the tower; otherwise it runs without a graph.
    """

    def __init__(
        self,
        vision: nn.Module,
        language: nn.Module,
        projector: Connector,
        *,
        drop_first_token: bool = True,
        train_vision: bool = False,
    ) -> None:
        super().__init__()
        self.vision, self.language, self.projector = vision, language, projector
        self.drop_first_token, self.train_vision = drop_first_token, train_vision

    @property
    def patch_grid(self) -> PatchGrid:
        """The features of one picture that the projector is given."""
        return patch_grid(base_of(self.vision).config.to_dict(), self.drop_first_token)

    @property
    def num_visual_tokens(self) -> int:
        """How many visual tokens one picture becomes: N."""
        return self.projector.num_tokens(self.patch_grid)

    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """``pixel_values`` [K, 3, H, W] -> visual tokens in the language model's space [K, N, Dl]."""
        with torch.set_grad_enabled(self.train_vision and torch.is_grad_enabled()):
            features = self.vision(pixel_values)  # [K, 729, Dv]
        return self.project(features)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """The tower's features [K, 729, Dv] -> visual tokens [K, N, Dl]."""
        if self.drop_first_token:
            features = features[:, 1:]  # [K, 728, Dv]
        return self.projector(features.to(self.projector.dtype))  # [K, N, Dl]

    def images_by_row(self, images_per_row, pixel_values=None, image_features=None, image_index=None):
        """Visual tokens of each row, a list of [n_b, N, Dl]; None where the batch has no image at all."""
        if pixel_values is None and image_features is None:
            return None
        tokens = self.encode_images(pixel_values) if image_features is None else self.project(image_features)
        if image_index is not None:
            tokens = tokens[image_index]  # [K, N, Dl] of the unique ones
        return list(tokens.split(images_per_row.tolist()))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        images_per_row: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
        use_all: bool = False,
        **kwargs,
    ):
        """``input_ids`` [B, T], ``pixel_values`` [K, 3, H, W], ``images_per_row`` [B] summing to K, ``labels`` [B, T].

        ``image_features`` [K, 729, Dv] take the place of pixels where the tower has seen them already. With
        ``image_index`` [K], images that come more than once are given once, and this says which stands where.
        ``use_all`` gives the projector (and a trained tower) gradients of zero where the batch has no image.

        Returns transformers' ``CausalLMOutputWithPast``: the loss with labels, logits [B, T, V] without
        (see :meth:`qwen.Mqwen.ImageInputMixin.forward`).
        """
        images = self.images_by_row(images_per_row, pixel_values, image_features, image_index)
        output = self.language(
            input_ids=input_ids, attention_mask=attention_mask, images=images, labels=labels, **kwargs
        )
        if use_all and images is None:
            output.loss = output.loss + 0.0 * self._blank_tokens().sum()
        return output

    def _blank_tokens(self) -> torch.Tensor:
        """What a black image becomes, or without a trained tower, features of zero: [1, N, Dl]."""
        config = base_of(self.vision).config
        if self.train_vision:
            return self.encode_images(torch.zeros(1, 3, config.image_size, config.image_size, device=self.device))
        features = torch.zeros(1, self.patch_grid.encoded, config.hidden_size, device=self.device)
        return self.project(features)

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        images_per_row: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Ids of the answers, [B, new], without the prompt. Batches must be padded on the left."""
        images = self.images_by_row(images_per_row, pixel_values)
        ids = self.language.generate(input_ids=input_ids, attention_mask=attention_mask, images=images, **kwargs)
        return ids[:, input_ids.shape[1] :]

    def train(self, mode: bool = True) -> MMultiModal:
        """As in torch, but a frozen tower stays in eval mode."""
        super().train(mode)
        if not self.train_vision:
            self.vision.eval()
        return self

    def gradient_checkpointing_enable(self) -> None:
        """Recompute activations in the backward pass: of the language model, and of the tower where it is trained.

        Non-reentrant, so the frozen embedding needs no hook and the tower builds no graph of its own.
        """
        for part in (self.language, *([self.vision] if self.train_vision else [])):
            base_of(part).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def set_attention(self, implementation: str) -> None:
        """Which attention the language model is trained with: ``sdpa``, ``eager`` or ``flex_attention``."""
        base_of(self.language).set_attn_implementation(implementation)

    def merge_adapters(self) -> None:
        """Fold adapters into the weights they adapt, for answering: a token then takes 0.7 to 0.8 of the time on a CPU.

        Only weights in fp32 take them in: the 8 bits that bf16 keeps of a number are few for what adapters change.
        """
        for name in ("vision", "language"):
            part = getattr(self, name)
            if not isinstance(part, PeftModel) or part.peft_config["default"].lora_bias:  # a bias has no place to go
                continue
            if all(p.dtype == torch.float32 for p in part.parameters()):
                setattr(self, name, part.merge_and_unload())

    @property
    def _no_split_modules(self) -> list[str]:
        """accelerate's name for the classes of layers that FSDP gathers one at a time: the language model's, which run
        in every batch. The tower's do not run where a batch has no image, and processes would wait for each other."""
        return list({type(layer).__name__ for layer in base_of(self.language).model.layers})

    def part_of(self, name: str) -> str:
        """Which of PARTS a parameter belongs to, by its name."""
        return name.split(".", 1)[0]

    def trainable_counts(self) -> dict[str, tuple[int, int]]:
        """(trainable, all) parameters of each part."""
        counts = {part: [0, 0] for part in PARTS}
        for name, parameter in self.named_parameters():
            counts[self.part_of(name)][0] += parameter.numel() if parameter.requires_grad else 0
            counts[self.part_of(name)][1] += parameter.numel()
        return {part: (trainable, total) for part, (trainable, total) in counts.items()}

    @property
    def device(self) -> torch.device:
        return next(self.projector.parameters()).device


def build_model(
    config: Config, tokenizer, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> MMultiModal:
    """The model of a config on the CPU: base weights in ``dtype``, projector and adapters fresh, trainable parts fp32.

    ``device`` is where it will run: 4-bit weights are there from the start.

    Raises:
        UserError: a base model is missing, incomplete or of an unknown kind, or gives another number of visual tokens.
    """
    vision = load_vision(config.vision.path, dtype, image_size=config.vision.image_size, layer=config.vision.layer)
    language = load_language(config.language.path, tokenizer, dtype, config.language.load_in_4bit, device)
    longest = getattr(language.config, "seq_length", None)
    if longest is not None and config.language.max_length > longest:
        raise UserError(
            f"language.max_length: {config.language.max_length}, but this Qwen-1 answers rightly up to its seq_length; "
            f"set language.max_length={longest}"
        )
    return assemble(config, vision, language)


def assemble(config: Config, vision: nn.Module, language: nn.Module) -> MMultiModal:
    """The whole model of its two base models: what is trained is chosen here, and asserted."""
    widths = vision.config.hidden_size, language.config.hidden_size
    model = MMultiModal(
        prepare_part(vision, config.vision.train, config.lora, config.vision.last_blocks),
        prepare_part(language, config.language.train, config.lora),
        build_connector(*widths, hidden_size=config.projector.hidden_size),
        drop_first_token=config.vision.drop_first_token,
        train_vision=config.vision.train != "frozen",
    )
    check_token_count(model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:  # bf16 has 8 bits of mantissa: updates of 1e-4 of a weight would be lost
            parameter.data = parameter.data.float()
    assert_trainable(model, config)
    return model.eval()


def check_token_count(model: MMultiModal, config: Config) -> None:
    """Prompts hold ``vision.image_context_length`` placeholders a picture, so the model must give as many tokens.

    Raises:
        UserError: it gives another number; names the right one.
    """
    tokens = model.num_visual_tokens
    if tokens != config.vision.image_context_length:
        raise UserError(
            f"vision.image_context_length: {config.vision.image_context_length}, but {config.vision.path} gives "
            f"{tokens} visual tokens; set vision.image_context_length={tokens}"
        )


_TAKES_FROM_BASE = re.compile(r"olora|pissa")

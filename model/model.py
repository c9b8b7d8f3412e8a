"""The whole model: a vision tower, a projector, and a Qwen that takes the visual tokens among its words.

``visual/`` and ``qwen/`` do not know each other. They meet here.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import logging as transformers_logging

from common.errors import UserError
from common.hub import model_folder, read_config
from common.llava import read_part
from common.qwen_vl import is_qwen_vl
from common.qwen_vl import read_part as read_qwen_vl
from dataset.layout import layout_of
from model.adapters import assert_trainable, base_of, prepare_language, prepare_part
from model.connectors import Connector, build_connector
from model.connectors.cross_attention import CrossAttentionConnector, PictureCache, Pictures
from model.fused_lora import unfuse_lora
from model.plain_peft import PeftModel
from qwen.load import load_language
from qwen.Mqwen import ImageInputMixin
from qwen.tokenizer import Tokenizer, token_id
from visual.geometry import PatchGrid, patch_grid
from visual.load import Tower, load_vision
from visual.RESNET import ResNetTower
from visual.SIGLIP_VIT import feature_width
from visual.TIMM import TimmTower

if TYPE_CHECKING:
    from settings import Config

PARTS = ("vision", "projector", "language")


def quiet_libraries() -> None:
    """Turn off the libraries' progress bars and notices, which would appear between a command's own lines."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # peft warns of shapes, ties and merges that are right here, or that our own checks refuse.
    warnings.filterwarnings("ignore", module=r"peft\.")
    # peft 0.21 still asks transformers for gradient checkpointing under its old name.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)


class MMultiModal(nn.Module):
    """Vision tower -> projector -> extended Qwen.

    Args:
        vision: maps ``pixel_values`` [K, 3, H, W] to features [K, 729, Dv]; perhaps inside a ``PeftModel``.
        language: a Qwen with :class:`qwen.Mqwen.ImageInputMixin`, perhaps inside a ``PeftModel``.
        projector: maps the features [K, 728, Dv] to visual tokens [K, N, Dl]; with cross-attention, its layers are
            attached to the language model's.
        drop_first_token: leave out feature 0. SigLIP has no class token, so with so400m/14 at 384 px this gives 728 of
            729 real patches: the design's choice, stored with every checkpoint.
        train_vision: let gradients into the tower; otherwise it runs without a graph.
    """

    vision: PreTrainedModel | PeftModel
    language: PreTrainedModel | PeftModel
    projector: Connector

    def __init__(
        self,
        vision: PreTrainedModel | PeftModel,
        language: PreTrainedModel | PeftModel,
        projector: Connector,
        *,
        drop_first_token: bool = True,
        train_vision: bool = False,
    ) -> None:
        super().__init__()
        self.vision, self.language, self.projector = vision, language, projector
        self.drop_first_token, self.train_vision = drop_first_token, train_vision
        self.changed_bases: set[str] = set()  # parts whose frozen weights are train.start_from's, not the base model's
        if isinstance(projector, CrossAttentionConnector):
            projector.attach(base_of(language).model.layers)

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
        if self.train_vision:
            return self.project(self.vision(pixel_values))
        # Without autocast, which would put every layer norm and what follows it into fp32: a frozen tower is in the
        # dtype that it computes in, as when it answers.
        with torch.no_grad(), torch.autocast(pixel_values.device.type, enabled=False):
            features = self.vision(pixel_values)  # [K, 729, Dv]
        return self.project(features)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """The tower's features [K, 729, Dv] -> visual tokens [K, N, Dl]."""
        return self.projector(self.kept(features))  # [K, N, Dl]

    @torch.inference_mode()
    def where_queries_look(self, pixel_values: torch.Tensor) -> torch.Tensor | None:
        """How much each learnt query attends to each feature [K, M, N] of ``pixel_values`` [K, 3, H, W].

        None if the connector has no such queries.
        """
        features = self.projector.standardised(self.kept(self.vision(pixel_values)))
        looks = self.projector.looks(features)
        return None if looks is None else looks.float()

    def kept(self, features: torch.Tensor) -> torch.Tensor:
        """The features that the projector is given: [K, 729, Dv] -> [K, 728, Dv]."""
        return features[:, 1:] if self.drop_first_token else features

    def images_by_row(
        self,
        images_per_row: torch.Tensor | None,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_index: torch.Tensor | None = None,
    ) -> list[torch.Tensor] | None:
        """Visual tokens of each row, a list of [n_b, N, Dl]; None if the batch has no image. See :meth:`forward`."""
        if image_features is not None:
            tokens = self.project(image_features)  # [U, N, Dl], U different images
        elif pixel_values is not None:
            tokens = self.encode_images(pixel_values)
        else:
            return None
        if images_per_row is None:
            raise ValueError("images need images_per_row, which says how many belong to each row")
        if image_index is not None:
            tokens = tokens[image_index]  # [K, N, Dl], an image that occurs twice is there twice
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
    ) -> CausalLMOutputWithPast:
        """The loss with ``labels`` [B, T], logits [B, T, V] without (:meth:`qwen.Mqwen.ImageInputMixin.forward`).

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 0 at padding.
            pixel_values: [K, 3, H, W].
            images_per_row: [B], how many images belong to each row; they sum to K.
            image_features: [K, 729, Dv], the tower's output for these pixels, which replaces them.
            image_index: [K]. If images occur more than once, pixels or features hold each once, and this says which
                of them is at each occurrence.
            use_all: give the projector (and a trained tower) gradients of zero if the batch has no image, because
                processes that train together wait for the gradients of every parameter.
        """
        images = self.images_by_row(images_per_row, pixel_values, image_features, image_index)
        shown = self.shown(images, input_ids, kwargs.get("segments"), kwargs.get("past_key_values"))
        output = self.language(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **shown, **kwargs)
        if use_all and images is None:
            output.loss = output.loss + 0.0 * self._unused()
        return output

    def shown(
        self,
        images: list[torch.Tensor] | None,
        input_ids: torch.Tensor,
        segments: torch.Tensor | None = None,
        cache: DynamicCache | None = None,
    ) -> dict[str, Any]:
        """What the language model is told of ``images``: visual tokens among its words, or pictures outside of them.

        Pictures outside go into the ``cache``, where there is one, and later calls find them there.
        """
        if self.projector.in_sequence:
            return {"images": images}
        if images is None:
            return {}
        pictures = Pictures.of(images, input_ids.eq(base_of(self.language).image_token_id), segments)
        if cache is None:
            return {"pictures": pictures}
        cache.pictures = pictures
        return {}

    def new_cache(self) -> DynamicCache:
        """An empty cache for keys and values."""
        kind = DynamicCache if self.projector.in_sequence else PictureCache
        return kind(config=base_of(self.language).config)

    def _unused(self) -> torch.Tensor:
        """A number that every parameter outside the language model had a part in."""
        used = self._blank_tokens().sum()
        return used if self.projector.in_sequence else used + sum(p.sum() for p in self.projector.parameters())

    def _blank_tokens(self) -> torch.Tensor:
        """Visual tokens [1, N, Dl] of a black image; of features that are 0 where the tower is frozen."""
        config = base_of(self.vision).config
        if self.train_vision:
            return self.encode_images(torch.zeros(1, 3, config.image_size, config.image_size, device=self.device))
        features = torch.zeros(1, self.patch_grid.encoded, feature_width(base_of(self.vision)), device=self.device)
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
        """Ids of the answers [B, new] without the prompt. Batches must be padded on the left."""
        images = self.images_by_row(images_per_row, pixel_values)
        cache = None
        if images is not None and not self.projector.in_sequence:
            cache = kwargs.setdefault("past_key_values", self.new_cache())
        shown = self.shown(images, input_ids, cache=cache)
        if cache is not None:
            cache.batch_repeat_interleave(kwargs.get("num_beams", 1))  # generate repeats every input but the cache
        ids = self.language.generate(input_ids=input_ids, attention_mask=attention_mask, **shown, **kwargs)
        return ids[:, input_ids.shape[1] :]

    def train(self, mode: bool = True) -> MMultiModal:
        """The same as torch's, but a frozen tower stays in eval mode."""
        super().train(mode)
        if not self.train_vision:
            self.vision.eval()
        return self

    def gradient_checkpointing_enable(self) -> None:
        """Recompute activations in the backward pass: the language model's, and those of a trained tower.

        Non-reentrant, so that the frozen embedding needs no hook and the tower builds no graph of its own.
        """
        for part in (self.language, *([self.vision] if self.train_vision else [])):
            base_of(part).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def set_attention(self, implementation: str) -> None:
        """Choose the language model's attention, by transformers' name: ``sdpa``, ``eager``, ``flex_attention``, ..."""
        base_of(self.language).set_attn_implementation(implementation)

    def merge_adapters(self, rounded: bool = False) -> None:
        """Merge adapters into the weights, for answering: on a CPU, a token then takes 0.7 to 0.8 of the time.

        Only into weights in fp32, unless ``rounded``: in bf16 each sum is rounded to 8 bits, and so is part of what the
        adapters change. 4-bit weights stay as they are.
        """
        mergeable = {torch.float32, torch.bfloat16} if rounded else {torch.float32}
        for name in ("vision", "language"):
            part = getattr(self, name)
            # With lora.lora_bias, an adapter has a bias, and these linear layers have none to merge it into.
            if not isinstance(part, PeftModel) or part.peft_config["default"].lora_bias:
                continue
            if {p.dtype for p in part.parameters()} <= mergeable:
                merged = part.merge_and_unload()
                unfuse_lora(merged)  # the layers' own classes: the kernels of qwen/decoding_step.py refuse others
                setattr(self, name, merged)

    @property
    def _no_split_modules(self) -> list[str]:
        """The classes of layers that FSDP gathers one at a time, under accelerate's name for them.

        Only the language model's, which run in every batch. The tower's do not run in a batch without images, and the
        processes would wait for each other.
        """
        return list({type(layer).__name__ for layer in base_of(self.language).model.layers})

    def part_of(self, name: str) -> str:
        """Which of PARTS a parameter belongs to, from its name."""
        return name.split(".", 1)[0]

    def trainable_counts(self) -> dict[str, tuple[int, int]]:
        """(trainable, all) parameters of each part."""
        counts = dict.fromkeys(PARTS, (0, 0))
        for name, parameter in self.named_parameters():
            trainable, total = counts[self.part_of(name)]
            size = parameter.numel()
            counts[self.part_of(name)] = trainable + size * parameter.requires_grad, total + size
        return counts

    @property
    def device(self) -> torch.device:
        return next(self.projector.parameters()).device


def build_model(
    config: Config,
    tokenizer: Tokenizer,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    dequantize: bool = False,
) -> MMultiModal:
    """The model of a config on the CPU: base weights in ``dtype``, fresh projector and adapters, trained weights fp32.

    ``device`` is where it will run: 4-bit weights are made there. With ``dequantize`` they become ``dtype`` again, with
    the values that 4 bits gave them, so that adapters can be merged into them.

    Raises:
        UserError: a base model is missing, incomplete or of an unknown kind, or gives another number of visual tokens.
    """
    model = assemble(config, *load_parts(config, tokenizer, dtype, device, dequantize=dequantize))
    if config.model is not None:
        fill_projector(model.projector, config.model)
    return model


def load_parts(
    config: Config,
    tokenizer: Tokenizer,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    dequantize: bool = False,
) -> tuple[Tower, ImageInputMixin]:
    """Tower and language model as their folders have them, without adapters; arguments and errors of build_model."""
    vision = load_vision(config.vision.path, dtype, **tower_options(config))
    language = load_language(config.language.path, tokenizer, dtype, config.language.load_in_4bit, device)
    if dequantize and config.language.load_in_4bit:
        language = language.dequantize(dtype)
    longest = getattr(language.config, "seq_length", None)
    if longest is not None and config.language.max_length > longest:
        raise UserError(
            f"language.max_length: {config.language.max_length}, but this Qwen-1 is right only up to its seq_length; "
            f"set language.max_length={longest}"
        )
    stop = token_id(tokenizer, layout_of(tokenizer, config.language.thinking).end)
    if stop not in language.generation_config.eos_token_id:  # of a LLaVA whose template ends answers otherwise
        language.generation_config.eos_token_id.append(stop)
    return vision, language


def tower_options(config: Config) -> dict[str, Any]:
    """What :func:`visual.load.load_vision` and :func:`visual.load.empty_vision` are told about the tower."""
    vision = config.vision
    return {"image_size": vision.image_size, "layer": vision.layer, "final_norm": vision.final_norm}


def fill_projector(projector: Connector, path: str) -> None:
    """Give the projector the weights of the LLaVA or Qwen-VL that a run begins with.

    Raises:
        UserError: its tensors are missing, or have other shapes.
    """
    folder = model_folder(path, "model")
    if is_qwen_vl(read_config(folder, "model")):
        state = read_qwen_vl(folder, "projector")
        state.pop("attn_pool.pos_embed", None)  # the sine positions, which the resampler computes
        found = {name.removeprefix("attn_pool."): tensor for name, tensor in state.items()}
    else:
        state = read_part(folder, "projector")
        found = {name.replace("linear_1", "0").replace("linear_2", "2"): tensor for name, tensor in state.items()}
    wanted = projector.state_dict()
    for name in wanted:
        if name.endswith(".bias"):  # multimodal_projector_bias: false
            found.setdefault(name, torch.zeros_like(wanted[name]))
    shapes = [{name: list(tensor.shape) for name, tensor in tensors.items()} for tensors in (found, wanted)]
    if shapes[0] != shapes[1]:
        raise UserError(f"model = {path}: its projector has {shapes[0]}, expected {shapes[1]}")
    projector.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in found.items()})


def assemble(config: Config, vision: Tower, language: ImageInputMixin) -> MMultiModal:
    """The whole model from its two base models. What the config trains is set trainable, and that is asserted.

    Raises:
        UserError: the model gives another number of visual tokens than ``vision.image_context_length``, the connector
            cannot take these features, or peft refuses the ``lora`` section.
    """
    if config.vision.train != "frozen" and isinstance(vision, ResNetTower | TimmTower):
        raise UserError(f"vision.train = {config.vision.train}: a ResNet or a tower of timm can only be frozen here")
    model = MMultiModal(  # parts draw their first weights in this order, by which a seed gives the same run
        prepare_part(vision, config.vision.train, config.lora, config.vision.last_blocks),
        prepare_language(language, config),
        new_connector(config, vision, language),
        drop_first_token=config.vision.drop_first_token,
        train_vision=config.vision.train != "frozen",
    )
    check_token_count(model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:  # bf16 has 8 bits of mantissa, so an update of 1e-4 of a weight would be lost
            parameter.data = parameter.data.float()
    assert_trainable(model, config)
    return model.eval()


def new_connector(config: Config, vision: Tower, language: ImageInputMixin) -> Connector:
    """A fresh connector between two base models.

    Raises:
        UserError: it cannot take these features.
    """
    return build_connector(
        feature_width(vision),
        language.config.hidden_size,
        kind=config.projector.kind,
        grid=patch_grid(vision.config.to_dict(), config.vision.drop_first_token),
        decoder_layers=language.config.num_hidden_layers,
        standardize=config.projector.standardize,
        **config.projector.sizes,
    )


def check_token_count(model: MMultiModal, config: Config) -> None:
    """Prompts hold ``vision.image_context_length`` placeholders for a picture; the model must give as many tokens.

    Raises:
        UserError: it gives another number; names the right one.
    """
    tokens = model.num_visual_tokens
    if tokens != config.vision.image_context_length:
        raise UserError(
            f"vision.image_context_length: {config.vision.image_context_length}, but {config.vision.path} with "
            f"projector.kind = {config.projector.kind} gives {tokens} visual tokens; set "
            f"vision.image_context_length={tokens}"
        )


_TAKES_FROM_BASE = re.compile(r"olora|pissa")

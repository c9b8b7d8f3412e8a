"""How much memory a training run will take, from configs alone, before any weight is read.

Weights, gradients and optimiser states are counted exactly, on a model without data. Activations are a rule of thumb,
calibrated against what autograd really keeps (``tests/model/test_memory.py``); CUDA's own context and fragmentation,
about a GiB together, come on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from model.model import MMultiModal, assemble
from qwen.load import empty_language, four_bit_bytes, readable
from settings import Config
from visual.load import empty_vision


@dataclass
class Batch:
    """What a batch holds: padded rows, tokens in each, images in all, tokens that are learnt from in all."""

    rows: int
    length: int
    images: int
    labels: int


@dataclass
class Estimate:
    """Bytes. ``trained`` are the trainable weights, which ``weights`` leaves out."""

    weights: int
    trained: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.gradients + self.optimizer + self.activations

    def __str__(self) -> str:
        parts = {
            "frozen weights": self.weights,
            "trainables": self.trained,
            "gradients": self.gradients,
            "optimiser": self.optimizer,
            "activations": self.activations,
        }
        return f"{readable(self.total)}: " + ", ".join(f"{name} {readable(size)}" for name, size in parts.items())


def estimate(config: Config, tokens: int, batch: Batch, dtype: torch.dtype) -> Estimate:
    """What training by ``config`` needs for ``batch``; ``tokens`` is the length of the tokenizer.

    Reads nothing but the two base models' config.json.
    """
    model = empty_model(config, tokens, dtype)
    train = config.train
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    if config.language.load_in_4bit:
        quantised = sum(p.numel() for p in frozen_linears(model.language))
        frozen -= quantised * dtype.itemsize - four_bit_bytes(quantised)
    return Estimate(
        weights=frozen,
        trained=4 * trainable,
        gradients=4 * trainable,
        optimizer=int(optimizer_bytes(train.optim) * trainable),
        activations=activation_bytes(model, config, batch, dtype, train.gradient_checkpointing),
    )


def empty_model(config: Config, tokens: int, dtype: torch.dtype) -> MMultiModal:
    """The whole model of a config on the meta device: every parameter's shape and dtype, and no data."""
    lora = config.lora.model_copy(update={"init_lora_weights": False})  # no start to compute
    plain = config.model_copy(update={"lora": lora})
    with torch.device("meta"):
        vision = empty_vision(config.vision.path, image_size=config.vision.image_size, layer=config.vision.layer).to(
            dtype
        )
        language = empty_language(config.language.path, tokens).to(dtype)
        return assemble(plain, vision, language)


def frozen_linears(language: nn.Module) -> list[nn.Parameter]:
    """The weights that 4-bit loading quantises: all linear layers but the output matrix."""
    found = [
        module.weight
        for name, module in language.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name and "lm_head" not in name
    ]
    return [weight for weight in found if not weight.requires_grad]


def optimizer_bytes(name: str) -> float:
    """Bytes of optimiser state for each trained weight: two moments, in 32 or 8 bits."""
    return 2 + 2 * 4 / 256 if "8bit" in name else 8.0  # 8 bits: a scale for each block of 256 (bitsandbytes)


def activation_bytes(model: MMultiModal, config: Config, batch: Batch, dtype: torch.dtype, checkpointing: bool) -> int:
    """The most that is kept for the backward pass at one time, or in passing where nothing is kept."""
    language = model.language.config
    tokens = batch.rows * batch.length
    kv_width = language.num_key_value_heads * (
        getattr(language, "head_dim", None) or language.hidden_size // language.num_attention_heads
    )
    dropout = config.language.train == "lora" and config.lora.lora_dropout > 0
    block = tokens * block_bytes(language.hidden_size, language.intermediate_size, kv_width, dtype, dropout)
    kept = kept_bytes(block, tokens * language.hidden_size * dtype.itemsize, language.num_hidden_layers, checkpointing)
    # Logits in the run's dtype and in fp32, their softmax, and its gradient.
    head = batch.labels * language.vocab_size * (dtype.itemsize + 12)
    mask = batch.rows * batch.length**2 * (1 + dtype.itemsize)  # of the branches: as truth values and as numbers
    tower = model.vision.config
    patches = batch.images * model.patch_grid.encoded
    one = patches * block_bytes(tower.hidden_size, tower.intermediate_size, tower.hidden_size, dtype)
    trained = {"frozen": 0, "last_blocks": config.vision.last_blocks}.get(config.vision.train, tower.num_hidden_layers)
    seen = kept_bytes(one, patches * tower.hidden_size * dtype.itemsize, trained, checkpointing) if trained else one
    return int(kept + head + mask + seen)


def block_bytes(width: int, inner: int, kv_width: int, dtype: torch.dtype, dropout: bool = False) -> int:
    """What one transformer block keeps for each token, with adapters on all its linear layers.

    In the run's dtype 7 widths, keys and values, and 4 of the MLP's inner width; in 16 bits, what the norms and
    adapters cast to fp32 besides. With dropout every adapter keeps an input of its own, and what of it fell out.
    """
    narrow = dtype.itemsize < 4
    kept = dtype.itemsize * (7 * width + 2 * kv_width + 4 * inner) + (13 * width if narrow else 0)
    return int(kept + (4 if narrow else 5.8) * (6 * width + inner) * dropout)


def kept_bytes(block: int, boundary: int, blocks: int, checkpointing: bool) -> int:
    """All blocks' activations, or with checkpointing what enters each of them and the one that is being recomputed."""
    return block + boundary * blocks if checkpointing else block * blocks

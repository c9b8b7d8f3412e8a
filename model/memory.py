"""How much memory a training run will need, from configs alone, before any weight is read.

Weights, gradients and optimiser states are counted exactly, on a model without data. Activations are a rule of thumb
that was fitted to what autograd keeps (``tests/model/test_memory.py``); compiled layers keep less, about three
quarters. CUDA's context and fragmentation need about 1 GiB more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from model.adapters import base_of
from model.connectors import Connector
from model.connectors.cross_attention import CrossAttentionConnector, GatedCrossAttention
from model.model import MMultiModal, assemble, new_connector, tower_options
from qwen.load import empty_language, four_bit_bytes, readable
from visual.load import empty_vision
from visual.SIGLIP_VIT import feature_width

if TYPE_CHECKING:
    from settings import Config


@dataclass
class Batch:
    """The size of a batch: padded rows, tokens in each row, and in all rows images and tokens with a label."""

    rows: int
    length: int
    images: int
    labels: int


@dataclass
class Estimate:
    """Bytes. ``weights`` are the frozen ones, ``trained`` the others."""

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
    """The memory of training by ``config`` with batches of the size ``batch``.

    Reads only the config.json of the two base models. ``tokens`` is the length of the tokenizer, ``dtype`` that of
    frozen weights and activations.
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
    """The whole model of a config on the meta device: every parameter has a shape and a dtype, and no data."""
    lora = config.lora.model_copy(update={"init_lora_weights": False})  # starts such as PiSSA's need the weights
    plain = config.model_copy(update={"lora": lora})
    with torch.device("meta"):
        vision = empty_vision(config.vision.path, **tower_options(config))
        language = empty_language(config.language.path, tokens)
        return assemble(plain, vision.to(dtype), language.to(dtype))


def frozen_linears(language: nn.Module) -> list[torch.Tensor]:
    """The weights that 4-bit loading quantises: those of all linear layers except the output matrix."""
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
    """Bytes that are kept for the backward pass at one time, or by the largest step of a part that keeps nothing."""
    language = model.language.config
    tokens = batch.rows * batch.length
    kv_width = language.num_key_value_heads * (
        getattr(language, "head_dim", None) or language.hidden_size // language.num_attention_heads
    )
    lora = config.language.train == "lora"
    adapters = {
        "dropout": lora and config.lora.lora_dropout > 0,
        "fused": not (lora and (config.language.load_in_4bit or config.lora.use_dora or config.lora.lora_bias)),
    }
    block = tokens * block_bytes(language.hidden_size, language.intermediate_size, kv_width, dtype, **adapters)
    kept = kept_bytes(block, tokens * language.hidden_size * dtype.itemsize, language.num_hidden_layers, checkpointing)
    # In fp32: the softmax, its gradient and the gradient of the logits.
    head = batch.labels * language.vocab_size * 12
    mask = batch.rows * batch.length**2 * (1 + dtype.itemsize)  # of branches, as bool and in the run's dtype
    tower = model.vision.config
    patches = batch.images * model.patch_grid.encoded
    one = patches * block_bytes(tower.hidden_size, tower.intermediate_size, tower.hidden_size, dtype)
    trained = {"frozen": 0, "last_blocks": config.vision.last_blocks}.get(config.vision.train, tower.num_hidden_layers)
    if trained:
        kept += kept_bytes(one, patches * tower.hidden_size * dtype.itemsize, trained, checkpointing)
    # One at a time: a block of the tower, the head, and a block that is recomputed.
    largest = max(one, head, block if checkpointing else 0)
    return int(kept + largest + mask + connector_bytes(model, config, batch, dtype, checkpointing))


def connector_bytes(model: MMultiModal, config: Config, batch: Batch, dtype: torch.dtype, checkpointing: bool) -> int:
    """Bytes that the connector keeps for the backward pass: counted in a forward pass of tensors without data."""
    if not batch.images:
        return 0
    vision, language = base_of(model.vision), base_of(model.language)
    with torch.device("meta"):
        connector = new_connector(config, vision, language)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", dtype, enabled=dtype.itemsize < 4):
        connector.to_empty(device="cpu")
        pictures = batch.images, model.patch_grid.features, feature_width(vision)
        if not isinstance(connector, CrossAttentionConnector):
            return saved_bytes(connector, lambda: connector(torch.zeros(pictures)))
        layer = connector.layers[0]
        assert isinstance(layer, GatedCrossAttention)
        each = -(-batch.images // batch.rows)  # pictures of a row
        hidden_states = torch.zeros(batch.rows, batch.length, language.config.hidden_size, requires_grad=True)
        features = torch.zeros(batch.rows, each, *pictures[1:])
        seen = torch.ones(batch.rows, batch.length, each, dtype=torch.bool)
        one = saved_bytes(connector, lambda: layer(hidden_states, layer.keys_values(features), seen))
    # Its layers are recomputed with the decoder layers that they are in front of.
    return one if checkpointing else one * len(connector.layers)


def saved_bytes(connector: Connector, forward: Callable[[], torch.Tensor]) -> int:
    """Bytes that autograd keeps of ``forward``, without the parameters of ``connector``."""
    known = {parameter.untyped_storage()._cdata for parameter in connector.parameters()}
    kept: dict[int, torch.Tensor] = {}  # by storage; the tensors are held, so that no two have the same

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alone = tensor.detach()  # an output that its own operation saves would hold itself, and never be freed
        if (storage := tensor.untyped_storage()._cdata) not in known:
            kept[storage] = alone
        return alone

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def block_bytes(
    width: int, inner: int, kv_width: int, dtype: torch.dtype, dropout: bool = False, fused: bool = True
) -> int:
    """Bytes that one transformer block keeps for each token, with adapters on all its linear layers.

    In the run's dtype: 7 times the width, keys and values, and 4 times the MLP's inner width. If that has 16 bits, the
    norms also cast 5 bytes a width to fp32. Adapters with dropout keep its mask. peft's own ones (not
    :mod:`model.fused_lora`) also cast 8 bytes a width, and with dropout each keeps its own input.
    """
    narrow = dtype.itemsize < 4
    kept = dtype.itemsize * (7 * width + 2 * kv_width + 4 * inner) + ((5 if fused else 13) * width if narrow else 0)
    of_dropout = 1.0 if fused else 4.0 if narrow else 5.8
    return int(kept + of_dropout * (6 * width + inner) * dropout)


def kept_bytes(block: int, boundary: int, blocks: int, checkpointing: bool) -> int:
    """The activations of all blocks that are kept; with checkpointing, the input of each."""
    return boundary * blocks if checkpointing else block * blocks

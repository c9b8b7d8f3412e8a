"""A model learns from a message tree what it learns from separate rows, with every attention."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers.integrations.flex_attention import WrappedFlexAttention

from dataset.collate import samples_of_batch
from dataset.image import load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.prompt import IGNORE_INDEX
from model.model import build_model
from qwen.tokenizer import load_tokenizer
from tests.helpers.conversations import CONVERSATIONS
from tests.helpers.tiny import enlarge_projector

X = IGNORE_INDEX


def loss_and_gradients(
    config, dtype: torch.dtype, checkpointing: bool, batch_size: int, attention: str = "sdpa", device: str = "cpu"
):
    """Over all train conversations, in batches as the dataset gives them, with one weight per supervised token."""
    tokenizer = load_tokenizer(config.language.path)
    torch.manual_seed(0)
    model = build_model(config, tokenizer).train().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # lora_B starts at zero, and the projector nearly so
                parameter.add_(torch.randn(parameter.shape, dtype=torch.float64).to(dtype) * 0.2)
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.to(device).set_attention(attention)
    dataset = ImageCaptionDataset(config, tokenizer, load_image_processor(config.vision.path))
    count = sum(label != X for i in range(len(dataset)) for label in dataset[i]["labels"])
    total = 0.0
    for start in range(0, len(dataset), batch_size):
        batch = samples_of_batch(dataset, list(range(start, min(start + batch_size, len(dataset)))))
        batch = {key: value.to(device) for key, value in batch.items()}
        batch["pixel_values"] = batch["pixel_values"].to(dtype)
        loss = model(**batch, num_items_in_batch=count).loss
        loss.backward()
        total += loss.item()
    return total, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}, len(dataset)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # The norm and rotary code of transformers casts to float32 even in float64: 1e-7 is what that leaves.
    [(torch.float64, 1e-6), (torch.float32, 2e-5)],
)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])  # 3: trees and single rows, padded
@pytest.mark.parametrize("attention", ["sdpa", "tree_attention"])
@pytest.mark.parametrize("packed", [False, True])
def test_trees_give_the_loss_and_the_gradients_of_separate_rows(
    make_config, dtype, tolerance, checkpointing, batch_size, attention, packed
):
    options = {"pictures": 5, "conversations": CONVERSATIONS}
    lora = "lora.lora_dropout=0.0"
    packing = ["data.packing=true", "data.tokens_per_batch=4096"] if packed else []
    rows = loss_and_gradients(make_config(lora, "data.message_trees=false", **options), dtype, False, 1)
    trees = loss_and_gradients(make_config(lora, *packing, **options), dtype, checkpointing, batch_size, attention)
    assert (rows[2], trees[2]) == (8, 4)
    assert trees[0] == pytest.approx(rows[0], rel=tolerance)
    assert trees[1].keys() == rows[1].keys() and len(rows[1]) > 20
    for name, gradient in rows[1].items():
        scale = gradient.abs().max()
        assert scale > 0
        assert (trees[1][name] - gradient).abs().max() <= tolerance * scale, name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's backward pass needs CUDA")
@pytest.mark.parametrize("batch_size", [1, 3])
def test_flex_attention_gives_the_loss_and_the_gradients_of_sdpa(make_config, batch_size):
    config = make_config("lora.lora_dropout=0.0", pictures=5, conversations=CONVERSATIONS)
    torch.backends.cuda.matmul.allow_tf32 = False
    sdpa, flex = (
        loss_and_gradients(config, torch.float32, False, batch_size, attention, "cuda")
        for attention in ("sdpa", "flex_attention")
    )
    assert flex[0] == pytest.approx(sdpa[0], rel=1e-4)
    for name, gradient in sdpa[1].items():
        assert (flex[1][name] - gradient).abs().max() <= 1e-3 * gradient.abs().max(), name


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@torch.no_grad()
def test_flex_attention_gives_the_same_loss(make_config, monkeypatch):
    monkeypatch.setattr(
        WrappedFlexAttention, "__call__", lambda self: flex_attention
    )  # not compiled: a minute on a CPU
    config = make_config("lora.lora_dropout=0.0", pictures=5, conversations=CONVERSATIONS)
    tokenizer = load_tokenizer(config.language.path)
    model = build_model(config, tokenizer)
    enlarge_projector(model)
    dataset = ImageCaptionDataset(config, tokenizer, load_image_processor(config.vision.path))
    trees, rows = ([0, 1], [len(dataset) - 1, len(dataset) - 2])
    for indices in (trees, rows):
        batch = samples_of_batch(dataset, indices)
        assert ("segments" in batch) == (indices == trees)
        model.set_attention("sdpa")
        by_sdpa = model(**batch).loss.item()
        model.set_attention("flex_attention")
        assert model(**batch).loss.item() == pytest.approx(by_sdpa, rel=1e-5)


def test_eager_attention_gives_the_same_loss(make_config):
    config = make_config("lora.lora_dropout=0.0", pictures=5, conversations=CONVERSATIONS)
    tokenizer = load_tokenizer(config.language.path)
    model = build_model(config, tokenizer)
    dataset = ImageCaptionDataset(config, tokenizer, load_image_processor(config.vision.path))
    batch = samples_of_batch(dataset, [0, 1])
    by_sdpa = model(**batch).loss.item()
    model.set_attention("eager")
    assert model(**batch).loss.item() == pytest.approx(by_sdpa, rel=1e-5)

"""The rows of new tokens for boxes: trained beside adapters, kept in checkpoints, merged for answering."""

from __future__ import annotations

import pytest
import torch

from common.errors import UserError
from dataset.image import load_image_processor
from model.adapters import linear_layers, lora_layers
from model.checkpoint import load_checkpoint, save_weights
from model.manifest import write_manifest
from model.model import build_model
from qwen.load import matrices
from qwen.tokenizer import load_tokenizer, untrained_box_rows
from tests.helpers.tiny import save_qwen
from training.setup import describe_run

DECLARED = "data.sources.0.boxes=pixels"


def with_boxes(make_config, qwen, *overrides):
    config = make_config(DECLARED, f"language.path={qwen}", *overrides)
    tokenizer = load_tokenizer(config.language.path, boxes=True)
    torch.manual_seed(0)
    return config, tokenizer, build_model(config, tokenizer)


def tokens_of(tokenizer):
    return torch.tensor([[5, *untrained_box_rows(tokenizer), 7]])


@pytest.mark.parametrize(("tied", "vocabulary"), [(True, 768), (False, 768), (True, 554)])
def test_rows_are_trained_saved_and_merged(make_config, tmp_path, tied, vocabulary):
    """554: the model has no spare row, so its matrices grow, and the new rows' start is in the checkpoint too."""
    qwen = save_qwen(tmp_path / "qwen", tie_word_embeddings=tied, vocab_size=vocabulary)
    config, tokenizer, model = with_boxes(make_config, qwen)
    rows = [name for name, p in model.named_parameters() if p.requires_grad and "trainable_tokens" in name]
    assert len(rows) == (1 if tied else 2)
    assert set(lora_layers(model.language)) == linear_layers(model.language.get_base_model())
    before = {name: matrix.clone() for name, matrix in matrices(model.language.get_base_model()).items()}
    assert len(before) == (1 if tied else 2)

    ids = tokens_of(tokenizer)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    logits = model.eval()(input_ids=ids).logits
    for name, matrix in matrices(model.language.get_base_model()).items():
        assert torch.equal(matrix, before[name])  # the base model's own rows are as they were

    folder = tmp_path / "checkpoint-1"
    save_weights(model, tokenizer, load_image_processor(config.vision.path), config, folder)
    write_manifest(folder, describe_run(config, model, 1))
    restored = load_checkpoint(folder).model
    assert torch.equal(restored(input_ids=ids).logits, logits)
    restored.merge_adapters()
    assert torch.allclose(restored(input_ids=ids).logits, logits, atol=1e-5)
    for name, matrix in matrices(restored.language).items():
        changed = (matrix != before[name]).any(1).nonzero().flatten().tolist()
        assert changed == untrained_box_rows(tokenizer), name


def test_rows_that_the_config_trains_too_are_kept(make_config, tmp_path):
    qwen = save_qwen(tmp_path / "qwen", tie_word_embeddings=False)
    _, tokenizer, model = with_boxes(make_config, qwen, "lora.trainable_token_indices=[3]")
    found = model.language.peft_config["default"].trainable_token_indices
    boxes = untrained_box_rows(tokenizer)
    assert found == {"embed_tokens": [3, *boxes], "lm_head": boxes}


def test_a_frozen_language_model_is_refused(make_config, qwen_folder):
    with pytest.raises(UserError, match=r"language.train = frozen: .* new tokens to this model; set it to lora"):
        with_boxes(make_config, qwen_folder, "language.train=frozen")


def test_without_boxes_nothing_changes(make_config):
    config = make_config()
    model = build_model(config, load_tokenizer(config.language.path))
    assert not any("trainable_tokens" in name for name, _ in model.named_parameters())

"""Checkpoints: what is written restores the model exactly, and what does not belong to it is refused."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    GenerationConfig,
)

from common import hash_cache, hashing
from common.errors import UserError
from dataset.image import load_image_processor, prepare_image
from model.checkpoint import load_checkpoint, load_undamaged
from model.manifest import write_manifest
from model.plain_peft import get_peft_model_state_dict
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer
from settings import load_config, save_config
from tests.helpers.models import build, build_with_batch, move_trained, save
from tests.helpers.qwen1 import write_shards
from tests.helpers.tiny import save_clip, save_qwen, save_siglip
from training.setup import build_loop, describe_run


@pytest.fixture
def built(make_config):
    """(config, model, tokenizer, a batch of two rows) of a tiny LoRA run."""
    config = make_config()
    return (config, *build_with_batch(config))


def test_statistics_of_the_features_are_restored(make_config, tmp_path):
    config = make_config()
    model, _, batch = build_with_batch(config)
    width = model.vision.config.hidden_size
    model.projector.set_statistics(torch.randn(width), torch.rand(width) + 0.5)
    restored = load_checkpoint(save(config, model, tmp_path / "checkpoint-1")).model
    assert torch.equal(restored.projector.feature_mean, model.projector.feature_mean)
    batch.pop("labels")
    assert torch.equal(restored(**batch).logits, model.eval()(**batch).logits)


def test_a_checkpoint_of_an_earlier_version_opens_with_a_plain_projector(make_config, tmp_path):
    """Its config has no projector.standardize, whose default is true, and its projector file no statistics."""
    config = make_config("projector.standardize=false")
    model, _, batch = build_with_batch(config)
    folder = save(config, model, tmp_path / "checkpoint-1")
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    assert "  standardize: false\n" in text
    (folder / "config.yaml").write_text(text.replace("  standardize: false\n", ""), encoding="utf-8")
    write_manifest(folder, describe_run(config, model, seed=0))
    restored, _, _, config_again = load_checkpoint(folder)
    assert restored.projector.feature_mean is None and config_again.projector.standardize is False
    batch.pop("labels")
    assert torch.equal(restored(**batch).logits, model.eval()(**batch).logits)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["language.train=full"],
        ["vision.train=lora"],
        ["vision.train=full", "language.train=frozen"],
        ["lora.exclude_modules=[q_proj]"],
        ["lora.target_modules=[q_proj]", "lora.modules_to_save=[lm_head]"],
        ["lora.bias=all"],
        ["lora.lora_bias=true"],
    ],
)
def test_a_checkpoint_alone_restores_every_trained_weight(make_config, tmp_path, overrides):
    config = make_config(*overrides)
    model, tokenizer, batch = build_with_batch(config)
    move_trained(model)
    folder = save(config, model, tmp_path / "checkpoint-1")
    restored, tokenizer_again, processor, config_again = load_checkpoint(folder)
    batch.pop("labels")
    assert torch.equal(restored(**batch).logits, model.eval()(**batch).logits)
    assert config_again == config and processor.size == {"height": 42, "width": 42}
    assert tokenizer_again.get_vocab() == tokenizer.get_vocab()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(restored.named_parameters())[name])


def test_a_fully_trained_model_with_tied_embeddings_is_restored(make_config, tmp_path):
    base = save_qwen(tmp_path / "tied", tie_word_embeddings=True)
    config = make_config("language.train=full", f"language.path={base}")
    model, tokenizer, batch = build_with_batch(config)
    with torch.no_grad():
        model.language.lm_head.weight.mul_(1.5)
    folder = save(config, model, tmp_path / "checkpoint-1")
    restored, *_ = load_checkpoint(folder)
    assert restored.language.lm_head.weight is restored.language.get_input_embeddings().weight
    assert torch.equal(restored.language.lm_head.weight, model.language.lm_head.weight)


def test_checkpoint_holds_no_pickle_and_reads_none(built, tmp_path):
    config, model, *_ = built
    folder = save(config, model, tmp_path / "checkpoint-1")
    suffixes = {p.suffix for p in folder.rglob("*") if p.is_file()}
    assert suffixes <= {".safetensors", ".json", ".yaml", ".jinja"}
    marker = tmp_path / "executed"

    class Trap:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    for name in ("pytorch_model.bin", "training_args.bin", "language/adapter_model.bin", "optimizer.pt"):
        (folder / name).write_bytes(pickle.dumps(Trap()))
    load_checkpoint(folder)
    assert not marker.exists()


def test_adapter_tensors_must_be_exactly_the_models(built, tmp_path):
    config, model, *_ = built
    folder = save(config, model, tmp_path / "checkpoint-1")
    state = get_peft_model_state_dict(model.language)
    name = min(state)
    save_file({k: v for k, v in state.items() if k != name}, folder / "language" / "adapter_model.safetensors")
    write_manifest(folder, describe_run(config, model, 0))
    with pytest.raises(UserError, match="lacks 1 tensors"):
        load_checkpoint(folder)


def test_another_base_model_is_refused(make_config, tmp_path):
    base = save_qwen(tmp_path / "base")
    config = make_config(f"language.path={base}")
    model = build(config)
    folder = save(config, model, tmp_path / "checkpoint-1")
    shutil.rmtree(base)
    save_qwen(base, rms_norm_eps=1e-5)
    with pytest.raises(UserError, match="language.path: .* is not the model that .* was trained from"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "overrides",
    [
        ["lora.use_rslora=true"],
        ["lora.use_dora=true"],
        ["lora.init_lora_weights=gaussian"],
        ["lora.init_lora_weights=orthogonal"],
        ["lora.init_lora_weights=olora"],
        ["lora.init_lora_weights=pissa"],
        ["lora.init_lora_weights=pissa_niter_4"],
        ["lora.target_modules=[q_proj,v_proj]"],
    ],
)
def test_lora_variants_are_trained_saved_and_restored(make_config, tmp_path, overrides):
    config = make_config(*overrides)
    torch.manual_seed(5)
    model = build(config)
    move_trained(model)
    folder = save(config, model, tmp_path / "checkpoint-1")
    torch.manual_seed(6)  # loading does not depend on the random state
    restored, *_ = load_checkpoint(folder)
    ids = torch.randint(0, 600, (2, 20), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(restored(ids).logits, model(ids).logits, rtol=0, atol=1e-6)


def test_a_start_that_comes_out_otherwise_is_refused(make_config, tmp_path, monkeypatch):
    config = make_config("lora.init_lora_weights=pissa_niter_1")
    folder = save(config, build(config), tmp_path / "checkpoint-1")
    seed = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda number: seed(number + 1))
    with pytest.raises(UserError, match="lora_start.safetensors: the start of .* comes out differently"):
        load_checkpoint(folder)


@pytest.mark.parametrize("tied", [False, True])
def test_where_there_is_no_spare_row_the_matrix_grows_and_the_checkpoint_holds_the_rows(make_config, tmp_path, tied):
    base = save_qwen(tmp_path / "full", vocab_size=552, tie_word_embeddings=tied)
    config = make_config(f"language.path={base}")
    tokenizer = load_tokenizer(str(base))
    model = build(config)
    language = model.language.get_base_model()
    rows = language.get_input_embeddings().weight
    assert rows.shape[0] == 553 == language.config.vocab_size and tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) == 552
    assert (language.get_output_embeddings().weight is rows) == tied
    original = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(rows[:552], original)
    torch.testing.assert_close(rows[552], original.mean(0))
    with torch.no_grad():
        rows[552] += 1.0  # as if another version had initialised it differently
    folder = save(config, model, tmp_path / "checkpoint-1")
    names = {"embed_tokens"} if tied else {"embed_tokens", "lm_head"}
    assert load_file(folder / "language" / "grown.safetensors").keys() == names
    restored, *_ = load_checkpoint(folder)
    assert torch.equal(restored.language.get_base_model().get_input_embeddings().weight, rows)


def test_the_checkpoints_generation_config_says_where_answers_end(checkpoint):
    written = GenerationConfig.from_pretrained(checkpoint)
    model, tokenizer, *_ = load_checkpoint(checkpoint)
    stops = [tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")]
    assert written.eos_token_id == stops == model.language.get_base_model().generation_config.eos_token_id
    assert written.pad_token_id == tokenizer.pad_token_id


def test_a_checkpoint_names_what_its_base_model_lacks_and_says_where_to_put_it(make_config, tmp_path):
    base = save_qwen(tmp_path / "base", tie_word_embeddings=True)
    state = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    write_shards(state, base, shards=3)
    config = make_config(f"language.path={base}", "train.max_steps=2")
    loop = build_loop(config, tmp_path / "run")
    loop.train()
    folder = tmp_path / "run" / "checkpoint-2"
    load_checkpoint(folder)
    shard = base / "model-00002-of-00003.safetensors"
    shard.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="language.path: .* lacks 1 of 3 weight files, .*; download the rest"):
        load_checkpoint(folder)
    (tmp_path / "elsewhere").rename(shard)
    base.rename(tmp_path / "moved")
    missing = f"language.path = {base}: no such folder, and {folder} was trained from it"
    with pytest.raises(UserError, match=f"{missing}; name its folder with --base-language DIR"):
        load_checkpoint(folder)
    state["model.norm.weight"] += 0.5  # another model of the same sizes
    write_shards(state, tmp_path / "moved", shards=3)
    (tmp_path / "moved").rename(base)
    with pytest.raises(UserError, match=f"language.path: {base} is not the model that {folder} was trained from"):
        load_checkpoint(folder)
    again = build_loop(config, tmp_path / "run")
    with pytest.raises(UserError, match=f"language.path: {base} is not the model that {folder} was trained from"):
        again.train(resume=folder)


@pytest.mark.parametrize(("save_tower", "tokens"), [(save_siglip, 24), (save_clip, 25)], ids=["siglip", "clip"])
def test_the_processor_goes_to_the_same_resolution_and_into_the_checkpoint(make_config, tmp_path, save_tower, tokens):
    tower = save_tower(tmp_path / "tower")
    options = [f"vision.path={tower}", "vision.image_size=70", f"vision.image_context_length={tokens}"]
    config = make_config(*options, "vision.layer=-2", "vision.train=lora")
    processor = load_image_processor(config.vision.path, config.vision.image_size)
    model = build(config)
    restored, _, again, _ = load_checkpoint(save(config, model, tmp_path / "checkpoint-1"))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    pixels = prepare_image(picture, processor)
    assert pixels.shape == (3, 70, 70) and torch.equal(prepare_image(picture, again), pixels)
    assert torch.equal(restored.encode_images(pixels[None]), model.encode_images(pixels[None]))


def test_resolution_and_layer_are_saved_with_the_run(make_config, tmp_path):
    tower = save_siglip(tmp_path / "tower")
    config = make_config(f"vision.path={tower}", "vision.image_size=70", "vision.image_context_length=24")
    save_config(config, tmp_path / "again.yaml")
    assert load_config(tmp_path / "again.yaml") == config


def test_a_loaded_checkpoint_reads_its_large_files_once_unless_it_is_verified(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "SMALL", 1)
    monkeypatch.setattr(hash_cache, "SETTLED", -1.0)
    read: list[str] = []
    original = hashing.sha256
    monkeypatch.setattr(hashing, "sha256", lambda file: read.append(file.name) or original(file))
    load_checkpoint(checkpoint, verify=False)
    weights = {"model.safetensors", "projector.safetensors", "adapter_model.safetensors"}
    assert weights <= set(read) and read.count("model.safetensors") == 2  # the tower's and the language model's
    read.clear()
    load_checkpoint(checkpoint, verify=False)
    assert read == []
    load_undamaged(checkpoint.parent, verify=True)
    assert weights <= set(read) and read.count("model.safetensors") == 2


def test_a_base_model_that_changed_is_found_without_verify_too(checkpoint, qwen_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "SMALL", 1)
    monkeypatch.setattr(hash_cache, "SETTLED", -1.0)
    load_checkpoint(checkpoint, verify=False)
    weights = qwen_folder / "model.safetensors"
    original, status = weights.read_bytes(), weights.stat()
    try:
        weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        with pytest.raises(UserError, match="language.path: .* is not the model that .* was trained from"):
            load_checkpoint(checkpoint, verify=False)
    finally:
        weights.write_bytes(original)
        os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))

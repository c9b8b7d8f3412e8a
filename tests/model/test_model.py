"""The whole model: against a reference made only of transformers' own parts, what is trained, what is saved."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from torch import nn
from transformers import Qwen2ForCausalLM, SiglipVisionModel

from common.errors import UserError
from dataset.collate import samples_of_batch
from dataset.image import load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from model.checkpoint import load_checkpoint, load_undamaged, save_weights
from model.manifest import Damaged, write_manifest
from model.model import build_model
from model.plain_peft import get_peft_model_state_dict
from model.run_checkpoints import choices_of, latest_checkpoint
from qwen.tokenizer import load_tokenizer
from tests.helpers.tiny import save_clip, save_qwen, save_siglip
from training.setup import describe_run


@pytest.fixture
def built(make_config):
    """(config, model, tokenizer, a batch of two rows) of a tiny LoRA run."""
    config = make_config()
    return (config, *build(config))


def build(config):
    tokenizer = load_tokenizer(config.language.path)
    torch.manual_seed(0)
    model = build_model(config, tokenizer)
    dataset = ImageCaptionDataset(config, tokenizer, load_image_processor(config.vision.path))
    return model, tokenizer, samples_of_batch(dataset, [0, 1])


def save(config, model, tokenizer, folder):
    save_weights(model, tokenizer, load_image_processor(config.vision.path), config, folder)
    write_manifest(folder, describe_run(config, model, seed=0))
    return folder


@pytest.mark.parametrize("drop", [True, False])
def test_logits_equal_a_reference_of_transformers_own_parts(make_config, drop):
    """SiglipVisionModel -> two nn.Linear -> Qwen2ForCausalLM(inputs_embeds=...), the same weights."""
    tokens = 8 if drop else 9
    config = make_config(f"vision.drop_first_token={str(drop).lower()}", f"vision.image_context_length={tokens}")
    model, tokenizer, batch = build(config)
    vision = SiglipVisionModel.from_pretrained(config.vision.path, dtype=torch.float32).eval()
    language = Qwen2ForCausalLM.from_pretrained(config.language.path, dtype=torch.float32).eval()
    first, second = nn.Linear(16, 32), nn.Linear(32, 32)
    weights = model.projector.state_dict()
    first.load_state_dict({"weight": weights["0.weight"], "bias": weights["0.bias"]})
    second.load_state_dict({"weight": weights["2.weight"], "bias": weights["2.bias"]})
    with torch.no_grad():
        patches = vision(pixel_values=batch["pixel_values"]).last_hidden_state
        assert patches.shape == (2, 9, 16)
        features = second(nn.functional.gelu(first(patches[:, 1:] if drop else patches)))
        embeds = language.get_input_embeddings()(batch["input_ids"])
        for row, ids in enumerate(batch["input_ids"]):
            embeds[row, ids == model.language.base_model.model.image_token_id] = features[row]
        wanted = language(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits
        found = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_projector_starts_as_the_design_says(make_config):
    config = make_config("projector.hidden_size=4000")
    model, *_ = build(config)
    weights = model.projector.state_dict()
    weight = weights["0.weight"]
    assert weight.shape == (4000, 16) and weights["2.weight"].shape == (32, 4000)
    assert weight.std().item() == pytest.approx(0.01, rel=0.05) and abs(weight.mean().item()) < 1e-3
    assert not weights["0.bias"].any() and not weights["2.bias"].any()


def test_gradients_reach_projector_and_lora_and_never_the_tower(built):
    config, model, _, batch = built
    model.train()
    assert not model.vision.training
    model(**batch).loss.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    lora = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert with_gradient == lora | {f"projector.{n}" for n in ("0.weight", "0.bias", "2.weight", "2.bias")}
    assert all(name.startswith("language.") for name in lora) and len(lora) == 2 * 7 * 2  # 7 linears, 2 layers, A and B
    assert next(model.projector.parameters()).grad.abs().sum() > 0


def test_the_frozen_tower_builds_no_graph(built):
    _, model, _, batch = built
    seen = []
    model.vision.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    model(**batch)
    assert seen == [False]


@pytest.mark.parametrize(
    ("overrides", "trained"),
    [
        (["language.train=frozen"], {"vision": 0, "language": 0}),
        (["language.train=full"], {"vision": 0, "language": "all"}),
        (["vision.train=full", "language.train=frozen"], {"vision": "all", "language": 0}),
        (["vision.train=lora"], {"vision": "some", "language": "some"}),
    ],
)
def test_each_part_is_frozen_lora_or_full(make_config, overrides, trained):
    model, _, batch = build(make_config(*overrides))
    counts = model.trainable_counts()
    assert counts["projector"][0] == counts["projector"][1] > 0
    for part, wanted in trained.items():
        done, total = counts[part]
        assert {0: done == 0, "all": done == total, "some": 0 < done < total}[wanted]
    model.train()(**batch).loss.backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all("head" in name or "post_layernorm" in name for name in missing), missing


def test_trainable_weights_are_fp32_and_frozen_ones_in_the_runs_dtype(make_config):
    config = make_config()
    model = build_model(config, load_tokenizer(config.language.path), torch.bfloat16)
    dtypes = {(p.requires_grad, p.dtype) for p in model.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}


@pytest.mark.parametrize("overrides", [[], ["vision.train=lora"], ["lora.use_dora=true"]])
def test_adapters_are_folded_into_fp32_weights_and_logits_stay(make_config, overrides):
    model, _, batch = build(make_config(*overrides))
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, so that an adapter changes nothing
                parameter.normal_(std=0.2)
        adapted = model.eval()(**inputs).logits
        model.merge_adapters()
        merged = model(**inputs).logits
        left = [name for name, _ in model.named_parameters() if "lora_" in name]
        plain = build(make_config("language.train=frozen"))[0].eval()(**inputs).logits
    assert left == [] and (adapted - plain).abs().max() > 0.01
    torch.testing.assert_close(merged, adapted, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("overrides", "dtype"), [([], torch.bfloat16), (["lora.lora_bias=true"], torch.float32)])
def test_adapters_stay_where_the_weights_cannot_take_them_in(make_config, overrides, dtype):
    config = make_config(*overrides)
    model = build_model(config, load_tokenizer(config.language.path), dtype)
    before = [name for name, _ in model.named_parameters()]
    model.merge_adapters()
    assert [name for name, _ in model.named_parameters()] == before


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lora.modules_to_save=[lm_head]", "lora.modules_to_save: .*name the modules"),
        ("lora.target_modules=[nothing]", "lora: Target modules .*nothing"),
    ],
)
def test_adapters_that_cannot_be_are_one_line(make_config, override, words):
    with pytest.raises(UserError, match=words):
        build(make_config(override))


def test_gradient_checkpointing_changes_no_gradient(built):
    _, model, _, batch = built
    model.train()
    model(**batch).loss.backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch).loss.backward()
    assert model.language.get_base_model().model.gradient_checkpointing
    for name, gradient in plain.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient)


def test_wrong_token_count_names_the_right_number(make_config, tmp_path):
    config = make_config()
    config.vision.image_context_length = 9
    with pytest.raises(UserError, match="gives 8 visual tokens; set vision.image_context_length=8"):
        build_model(config, load_tokenizer(config.language.path))


@pytest.mark.parametrize(
    ("kind", "changes", "tokens"),
    [
        ("siglip", ["vision.drop_first_token=false"], 9),
        ("siglip", ["vision.image_size=70"], 24),
        ("clip", [], 9),  # the class token is dropped
        ("clip", ["vision.image_size=70"], 25),
    ],
)
def test_the_right_number_follows_the_tower_its_size_and_what_is_dropped(make_config, tmp_path, kind, changes, tokens):
    folder = {"siglip": save_siglip, "clip": save_clip}[kind](tmp_path / "tower")
    config = make_config(f"vision.path={folder}", f"vision.image_context_length={tokens}", *changes)
    tokenizer = load_tokenizer(config.language.path)
    tower = build_model(config, tokenizer).vision
    size = tower.config.image_size
    dropped = int(config.vision.drop_first_token)
    assert tower(torch.zeros(1, 3, size, size)).shape[1] - dropped == tokens
    config.vision.image_context_length = 8
    with pytest.raises(UserError, match=f"gives {tokens} visual tokens; set vision.image_context_length={tokens}"):
        build_model(config, tokenizer)


def test_both_towers_in_one_folder_load_as_the_vision_tower(make_config, tmp_path):
    both = save_siglip(tmp_path / "both", two_towers=True)
    model, _, batch = build(make_config(f"vision.path={both}"))
    reference = SiglipVisionModel.from_pretrained(both, dtype=torch.float32).eval()
    wanted = reference(pixel_values=batch["pixel_values"]).last_hidden_state
    assert torch.equal(model.vision(batch["pixel_values"]), wanted)


def test_a_base_model_that_lacks_a_tensor_is_refused(make_config, tmp_path, qwen_folder):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "cut"
    shutil.copytree(qwen_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="language.path: .* lacks 1 tensors, model.layers.1.mlp.up_proj.weight first"):
        build(make_config(f"language.path={folder}"))


# ---------------------------------------------------------------------------------------------- checkpoints


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
    model, tokenizer, batch = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    folder = save(config, model, tokenizer, tmp_path / "checkpoint-1")
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
    model, tokenizer, batch = build(config)
    with torch.no_grad():
        model.language.lm_head.weight.mul_(1.5)
    folder = save(config, model, tokenizer, tmp_path / "checkpoint-1")
    restored, *_ = load_checkpoint(folder)
    assert restored.language.lm_head.weight is restored.language.get_input_embeddings().weight
    assert torch.equal(restored.language.lm_head.weight, model.language.lm_head.weight)


def test_checkpoint_holds_no_pickle_and_reads_none(built, tmp_path):
    config, model, tokenizer, _ = built
    folder = save(config, model, tokenizer, tmp_path / "checkpoint-1")
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


def test_manifest_says_what_the_checkpoint_is(built, tmp_path):
    config, model, tokenizer, _ = built
    folder = save(config, model, tokenizer, tmp_path / "checkpoint-1")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["base_models"]["language.path"]["path"] == config.language.path
    assert len(manifest["base_models"]["vision.path"]["sha256"]) == 64 and len(manifest["data"]["sha256"]) == 64
    assert manifest["trainable_parameters"] == {p: n for p, (n, _) in model.trainable_counts().items()}
    assert manifest["trainable"]["projector.0.weight"] == [32, 16]
    assert {"projector.safetensors", "language/adapter_model.safetensors", "config.yaml"} <= manifest["files"].keys()


@pytest.mark.parametrize("damage", ["missing", "flipped", "cut"])
def test_a_damaged_checkpoint_names_the_file(built, tmp_path, damage):
    config, model, tokenizer, _ = built
    folder = save(config, model, tokenizer, tmp_path / "checkpoint-1")
    file = folder / "projector.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        content[-1] ^= 1
        file.write_bytes(content if damage == "flipped" else content[:-10])
    with pytest.raises(UserError, match="projector.safetensors"):
        load_checkpoint(folder)


def test_adapter_tensors_must_be_exactly_the_models(built, tmp_path):
    from safetensors.torch import save_file

    config, model, tokenizer, _ = built
    folder = save(config, model, tokenizer, tmp_path / "checkpoint-1")
    state = get_peft_model_state_dict(model.language)
    name = min(state)
    save_file({k: v for k, v in state.items() if k != name}, folder / "language" / "adapter_model.safetensors")
    write_manifest(folder, describe_run(config, model, 0))
    with pytest.raises(UserError, match="lacks 1 tensors"):
        load_checkpoint(folder)


def test_another_base_model_is_refused(make_config, tmp_path):
    base = save_qwen(tmp_path / "base")
    config = make_config(f"language.path={base}")
    model, tokenizer, _ = build(config)
    folder = save(config, model, tokenizer, tmp_path / "checkpoint-1")
    shutil.rmtree(base)
    save_qwen(base, rms_norm_eps=1e-5)
    with pytest.raises(UserError, match="language.path: .* is not the model that .* was trained from"):
        load_checkpoint(folder)


def test_a_runs_folder_stands_for_its_best_checkpoint(tmp_path):
    for step in (2, 10, 30):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
        (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": 2 if step > 2 else None}))
    (tmp_path / "checkpoint-30" / "manifest.json").unlink()  # a save that was cut short
    assert latest_checkpoint(tmp_path).name == "checkpoint-10"
    assert [folder.name for folder in choices_of(tmp_path)] == ["checkpoint-2", "checkpoint-10"]
    assert [folder.name for folder in choices_of(tmp_path / "checkpoint-10")] == ["checkpoint-10"]


def test_where_a_runs_best_checkpoint_is_damaged_another_answers_and_a_warning_says_so(built, tmp_path, caplog):
    config, model, tokenizer, _ = built
    folders = [save(config, model, tokenizer, tmp_path / f"checkpoint-{step}") for step in (1, 2, 3)]
    (folders[2] / "config.yaml").write_text("data: {}", encoding="utf-8")
    (folders[1] / "projector.safetensors").unlink()
    folder, (restored, *_) = load_undamaged(tmp_path)
    assert folder == folders[0]
    assert torch.equal(*(m.projector.state_dict()["0.weight"] for m in (restored, model)))
    assert [record.getMessage().split(" is damaged")[0] for record in caplog.records] == [
        "checkpoint-3",
        "checkpoint-2",
    ]
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(Damaged, match="checkpoint-1.*not what was saved"):
        load_undamaged(tmp_path)

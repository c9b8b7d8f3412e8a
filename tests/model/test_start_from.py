"""A new run from the weights of a checkpoint: what is loaded, what is fresh, what cannot fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.errors import UserError
from model.checkpoint import load_checkpoint
from model.start_from import find_start
from tests.helpers.models import build, build_with_batch, move_trained, save
from tests.helpers.tiny import save_qwen
from training.setup import build_loop
from visual.SIGLIP_VIT import interpolate_positions

QUIET = ["lora.lora_dropout=0.0", "train.max_steps=2", "train.save_steps=1", "train.eval_strategy=no"]


@pytest.fixture
def stage(make_config, tmp_path):
    """A function that saves a checkpoint of a model whose trained weights have moved, and gives its folder."""

    def saved(*overrides: str, name: str = "one") -> Path:
        config = make_config(*QUIET, *overrides, f"train.run={name}")
        torch.manual_seed(5)
        model = build(config)
        move_trained(model)
        if config.projector.standardize:
            model.projector.set_statistics(torch.full((16,), 0.25), torch.full((16,), 2.0))
        return save(config, model, tmp_path / "start" / name / "checkpoint-1")

    return saved


@pytest.fixture
def begin(make_config, capsys):
    """A function that builds the loop of a run that starts from a checkpoint, prepared for its first step."""

    def loop(folder: Path, *overrides: str):
        config = make_config(*QUIET, f"train.start_from={folder}", *overrides, "train.run=two")
        built = build_loop(config, Path(config.train.output) / "two", start=find_start(config))
        built.prepare()
        return built, capsys.readouterr().out

    return loop


def logits_of(model, batch) -> torch.Tensor:
    return model.eval()(**{**batch, "labels": None}).logits


@pytest.fixture
def batch(make_config):
    return build_with_batch(make_config())[2]


def test_a_projector_is_taken_with_the_statistics_it_was_trained_with(stage, begin):
    folder = stage("language.train=frozen")
    loop, printed = begin(folder)
    state = load_file(folder / "projector.safetensors")
    assert all(torch.equal(tensor, state[name]) for name, tensor in loop.model.projector.state_dict().items())
    assert (loop.model.projector.feature_mean == 0.25).all() and "standardised by" not in printed
    assert f"start     {folder}: its weights alone, in a new run from step 0" in printed
    assert "--resume would continue that run" in printed
    assert "loaded    projector: 6 tensors (feature_mean, feature_std, 0.weight, 0.bias, ...)" in printed
    assert "fresh     language: adapters of 14 layers" in printed
    assert "loaded    vision: nothing, the checkpoint has the base model's weights" in printed
    assert loop.progress.step == 0


def test_another_kind_of_projector_is_fresh_with_statistics_of_its_own(stage, begin):
    loop, printed = begin(stage("language.train=frozen"), "projector.kind=linear")
    assert "fresh     projector: linear; the checkpoint has mlp" in printed and "standardised by" in printed
    assert (loop.model.projector.feature_mean != 0.25).all()


def test_a_projector_of_plain_features_keeps_them_plain(stage, begin):
    loop, printed = begin(stage("projector.standardize=false"))
    assert loop.model.projector.feature_mean is None and "standardised by" not in printed
    assert loop.config.projector.standardize is False
    with pytest.raises(UserError, match="projector.standardize = false: .*trained on standardised features"):
        begin(stage(), "projector.standardize=false")


@pytest.mark.parametrize("how", ["continue", "merge"])
def test_adapters_are_trained_further_or_merged_and_the_model_computes_the_same(how, stage, begin, batch):
    folder = stage("vision.train=lora")
    start = load_checkpoint(folder).model
    loop, printed = begin(folder, f"train.start_from_adapters={how}", "vision.train=lora")
    torch.testing.assert_close(logits_of(loop.model, batch), logits_of(start, batch), rtol=0, atol=2e-5)
    adapters = {name: tensor for name, tensor in loop.model.language.named_parameters() if "lora_B" in name}
    assert all(bool(tensor.any()) == (how == "continue") for tensor in adapters.values())
    words = "trained further" if how == "continue" else "merged into its weights"
    assert f"loaded    language: adapters of 14 layers, {words}" in printed
    assert loop.model.changed_bases == (set() if how == "continue" else {"vision", "language"})


@pytest.mark.parametrize("train", ["lora", "frozen", "full"])
def test_a_run_on_merged_weights_is_saved_whole_resumed_and_opened_without_its_start(train, stage, begin, batch):
    folder = stage()
    options = ["train.start_from_adapters=merge", f"language.train={train}"]
    loop, _ = begin(folder, *options)
    run = loop.run
    loop.train()
    shutil.rmtree(folder)
    last = load_checkpoint(run / "checkpoint-2").model
    torch.testing.assert_close(logits_of(last, batch), logits_of(loop.model, batch), rtol=0, atol=0)
    files = {file.name for file in (run / "checkpoint-2" / "language").iterdir()} - {"adapter_config.json"}
    wanted = {"lora": {"base.safetensors", "adapter_model.safetensors"}, "full": {"model.safetensors"}}
    assert files == wanted.get(train, {"base.safetensors"})
    resumed = build_loop(loop.config, run)
    resumed.train(resume=run / "checkpoint-1")
    for one, other in zip(resumed.model.parameters(), loop.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_tower_that_was_trained_keeps_its_weights_when_it_is_frozen_at_another_resolution(stage, begin):
    folder = stage("vision.train=full", "language.train=frozen")
    loop, printed = begin(folder, "vision.image_size=70", "vision.image_context_length=24")
    state = load_file(folder / "vision" / "model.safetensors")
    name = "embeddings.position_embedding.weight"
    assert torch.equal(loop.model.vision.state_dict()[name], interpolate_positions(state[name], 0, 5))
    patch = "embeddings.patch_embedding.weight"
    assert torch.equal(loop.model.vision.state_dict()[patch], state[patch])
    assert "positions interpolated from 9 to 25" in printed
    loop.train()
    again = load_checkpoint(loop.run / "checkpoint-2").model
    assert torch.equal(again.vision.state_dict()[name], loop.model.vision.state_dict()[name])
    assert not any(p.requires_grad for p in again.vision.parameters())


def test_the_last_blocks_of_a_tower_are_loaded_and_the_rest_is_the_base_models(stage, begin):
    folder = stage("vision.train=last_blocks", "vision.last_blocks=1")
    loop, printed = begin(folder)
    state = load_file(folder / "vision" / "model.safetensors")
    weights = loop.model.vision.state_dict()
    assert state and all(torch.equal(weights[name], tensor) for name, tensor in state.items())
    assert "fresh     vision: " in printed


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ([], ["projector.hidden_size=48"], r"projector: 0.weight is \[32, 16\] there and \[48, 16\] here"),
        ([], ["lora.r=8"], "its adapters have lora.r = 4, and here it is 8; set it as it was, or .*adapters=merge"),
        ([], ["language.train=full"], "it has lora adapters, and language.train = full cannot train them further"),
        (["vision.train=full"], ["vision.layer=-2"], "its tower was trained with vision.layer = -1, and here it is -2"),
        (
            [],
            ["train.start_from_adapters=merge", "lora.init_lora_weights=pissa"],
            "it changes the weights of the language model, and lora.init_lora_weights = pissa",
        ),
        (["language.train=full"], ["language.load_in_4bit=true"], "it changes the language model's weights"),
    ],
)
def test_what_cannot_fit_is_refused_by_name(before, now, words, stage, begin):
    with pytest.raises(UserError, match=f"^train.start_from.*{words}"):
        begin(stage(*before), *now)


def test_features_of_a_tower_that_was_trained_are_not_cached(stage, begin, tmp_path):
    with pytest.raises(UserError, match="data.feature_cache: train.start_from changes the tower"):
        begin(stage("vision.train=full"), f"data.feature_cache={tmp_path / 'cache'}")


def test_a_missing_start_and_another_base_model_are_refused(stage, begin, tmp_path):
    with pytest.raises(UserError, match="^train.start_from = .*no checkpoint at"):
        begin(tmp_path / "nothing")
    other = save_qwen(tmp_path / "other", intermediate_size=64)
    with pytest.raises(UserError, match="language.path: .* is not the model that"):
        begin(stage(), f"language.path={other}")

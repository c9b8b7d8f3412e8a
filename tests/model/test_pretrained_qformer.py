"""A projector that begins with the Q-Former of a BLIP-2, which the tests save."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig

from common.errors import UserError
from model.connectors import QFormerConnector
from model.pretrained_qformer import fill_qformer
from settings import load_config
from training.qformer_stage import TextQFormer
from training.resume import check_changes
from training.setup import build_loop

WIDTH = 16  # of the features of the tests' tower
SIZES = {"queries": 4, "layers": 3, "hidden_size": 128}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, Blip2ForConditionalGeneration]:
    """A tiny BLIP-2 and its folder: three layers of 128 with 2 heads, 4 queries, a language model 8 wide."""
    torch.manual_seed(0)
    qformer = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 512}
    vision = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 16, "num_hidden_layers": 1, "vocab_size": 50}
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**vision, image_size=28, patch_size=14).to_dict(),
        qformer_config=Blip2QFormerConfig(**qformer, encoder_hidden_size=WIDTH).to_dict(),
        text_config=OPTConfig(**text, num_attention_heads=2).to_dict(),
        num_query_tokens=4,
    )
    model = Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.query_tokens.normal_()
    folder = tmp_path_factory.mktemp("blip2")
    model.save_pretrained(folder)
    return folder, model


def test_its_queries_see_what_those_of_the_blip_2_see(saved):
    folder, blip2 = saved
    projector = QFormerConnector(WIDTH, 10, **SIZES).eval()
    before = projector.language_projection.weight.clone()
    lines = fill_qformer(projector, str(folder))
    assert lines[1] == "fresh     projector: language_projection.weight, language_projection.bias"
    assert torch.equal(projector.language_projection.weight, before)
    projector.language_projection = blip2.language_projection
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        features = blip2.vision_model(pixels).last_hidden_state  # [2, 5, WIDTH]
        assert torch.equal(projector(features), blip2.get_image_features(pixels).pooler_output)


def test_words_heads_and_their_layers_of_the_first_stage_stay_fresh(saved):
    folder, blip2 = saved
    projector = TextQFormer(WIDTH, 20, **SIZES)
    before = {name: tensor.clone() for name, tensor in projector.state_dict().items()}
    fill_qformer(projector, str(folder))
    theirs = blip2.state_dict()
    for name, tensor in projector.state_dict().items():
        assert torch.equal(tensor, theirs[name] if name in theirs else before[name]), name
    assert "qformer.encoder.layer.0.intermediate.dense.weight" in before.keys() - theirs.keys()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"queries": 5}, "it has 4 queries; set projector.queries to that, now 5"),
        ({"layers": 2}, "has num_hidden_layers 3, and the run's has 2; projector.layers must go with it"),
        ({"hidden_size": 64}, "has hidden_size 128, and the run's has 64; projector.hidden_size must go with it"),
    ],
)
def test_other_sizes_are_refused_by_name(saved, sizes, message):
    with pytest.raises(UserError, match=message):
        fill_qformer(QFormerConnector(WIDTH, 10, **(SIZES | sizes)), str(saved[0]))
    with pytest.raises(UserError, match="has encoder_hidden_size .*; vision.path must go with it"):
        fill_qformer(QFormerConnector(WIDTH + 2, 10, **SIZES), str(saved[0]))


def test_a_folder_that_is_no_blip_2_or_lacks_a_tensor_is_refused(saved, tmp_path, qwen_folder):
    projector = QFormerConnector(WIDTH, 10, **SIZES)
    with pytest.raises(UserError, match=r"^projector\.path = .*no qformer_config; expected a folder of a BLIP-2"):
        fill_qformer(projector, str(qwen_folder))
    folder = Path(shutil.copytree(saved[0], tmp_path / "blip2"))
    state = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in state.items() if "query_tokens" not in name}, folder / "model.safetensors"
    )
    with pytest.raises(UserError, match=r"^projector\.path = .* lack query_tokens; download it again"):
        fill_qformer(projector, str(folder))


def test_a_new_run_begins_with_it_and_a_resumed_one_does_not_need_it(saved, tmp_path, make_config, capsys):
    folder = Path(shutil.copytree(saved[0], tmp_path / "blip2"))
    sizes = [f"projector.{key}={value}" for key, value in SIZES.items()]
    fits = ["vision.image_context_length=4", "projector.standardize=false"]
    config = make_config("projector.kind=qformer", f"projector.path={folder}", *sizes, *fits)
    loop = build_loop(config, tmp_path / "run")
    loop.prepare()
    assert torch.equal(loop.model.projector.query_tokens, saved[1].query_tokens)
    assert (
        f"loaded    projector: {len(saved[1].qformer.state_dict()) + 1} tensors of {folder}" in capsys.readouterr().out
    )
    build_loop(config, tmp_path / "run").train()
    shutil.rmtree(folder)
    checkpoint = tmp_path / "run" / "checkpoint-2"
    config.projector.path = None
    assert [line.split(":")[0] for line in check_changes(config, checkpoint)] == ["projector.path"]
    again = build_loop(config, tmp_path / "run")
    again.train(checkpoint)
    assert again.progress.step == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("projector.kind=mlp", "projector.path.*expected null with projector.kind = mlp"),
        ("projector.standardize=true", "projector.standardize.*expected false with projector.path"),
        ("train.start_from=checkpoints/stage1", "projector.path.*expected null with train.start_from"),
        ("projector.path=./nowhere", "projector.path.*no such folder"),
    ],
)
def test_settings_that_do_not_go_with_it_are_refused(saved, make_config, tmp_path, change, message):
    make_config()
    given = ["projector.kind=qformer", f"projector.path={json.dumps(str(saved[0]))}", "projector.standardize=false"]
    given += ["projector.queries=4", "vision.image_context_length=4"]
    if change == "projector.kind=mlp":
        given = [*given[:3], "vision.image_context_length=8"]
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "run.yaml", [*given, change])

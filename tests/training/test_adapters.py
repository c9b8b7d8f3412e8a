"""A prefix and bottleneck adapters from train.py to an answer: trained, resumed, started from, asked, refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from answering.assistant import Assistant
from common.errors import UserError
from dataset.prompt import Request, Turn, question_with_images
from model.adapters import require_mergeable
from model.start_from import find_start
from tests.helpers.asking import reference_answers, requests
from tests.helpers.runs import conversations
from tests.helpers.tiny import enlarge_projector, picture
from tests.model.test_tree_loss import loss_and_gradients
from training.setup import build_loop, choose_attention

OPTIONS = ["train.max_steps=4", "train.save_steps=2", "train.eval_strategy=no", "train.gradient_checkpointing=true"]
KINDS = {"prefix": "language.prefix_tokens=3", "adapter": "language.adapter_width=4"}


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def run(kind, make_config, tmp_path):
    """A finished run and its config."""
    config = make_config(*OPTIONS, f"language.train={kind}", KINDS[kind], pictures=9, conversations=conversations(9))
    loop = build_loop(config, tmp_path / "run")
    loop.train()
    return config, loop


def test_it_learns_from_a_tree_what_it_learns_from_separate_rows(kind, make_config):
    options = [f"language.train={kind}", KINDS[kind], "train.eval_strategy=no"]
    found = []
    for trees in ("true", "false"):
        config = make_config(*options, f"data.message_trees={trees}", pictures=9, conversations=conversations(9))
        found.append(loss_and_gradients(config, torch.float64, checkpointing=trees == "true", batch_size=3))
    (tree_loss, tree, samples), (loss, rows, more) = found
    assert samples < more and tree_loss == pytest.approx(loss, abs=1e-6)
    assert any(f".{kind}." in name for name in rows)
    for name, gradient in rows.items():
        torch.testing.assert_close(tree[name], gradient, rtol=0, atol=1e-6)


def test_a_checkpoint_holds_it_alone_and_a_resumed_run_ends_with_the_same(kind, run):
    config, loop = run
    folder = loop.run / "checkpoint-4" / "language"
    state = load_file(folder / "model.safetensors")
    assert state and all(f".{kind}." in name for name in state)
    early = load_file(loop.run / "checkpoint-2" / "language" / "model.safetensors")
    assert any(not torch.equal(early[name], tensor) for name, tensor in state.items())
    shutil.rmtree(loop.run / "checkpoint-4")
    build_loop(config, loop.run).train(resume=loop.run / "checkpoint-2")
    again = load_file(folder / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_answers_are_the_same_with_the_prefix_cache_and_the_map_fits(run):
    _, loop = run
    assistant = Assistant.load(loop.run / "checkpoint-4", "cpu")
    enlarge_projector(assistant.model)
    wanted = reference_answers(assistant, requests(), max_new_tokens=6)
    assert assistant.answer(requests(), max_new_tokens=6) == wanted
    assert ["".join(assistant.stream(one, max_new_tokens=6)).strip() for one in requests()] == wanted
    shown = Request([Turn(question_with_images("What color?", 1), "red")], [picture("red")])
    assert assistant.where_it_looks(shown).weights.shape[1:] == (3, 3)


def test_a_new_run_continues_it_and_refuses_to_merge_it_or_another_size(kind, run, make_config, tmp_path):
    _, loop = run
    start = f"train.start_from={loop.run / 'checkpoint-4'}"
    same = [*OPTIONS, f"language.train={kind}", KINDS[kind], start, "train.run=two"]
    config = make_config(*same)
    second = build_loop(config, tmp_path / "two", start=find_start(config))
    state = load_file(loop.run / "checkpoint-4" / "language" / "model.safetensors")
    weights = second.model.language.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())
    with pytest.raises(UserError, match=f"it has {kind} adapters, which no weight can hold"):
        find_start(make_config(*same, "train.start_from_adapters=merge"))
    size = KINDS[kind].split("=")[0]
    with pytest.raises(UserError, match=f"its {kind} has {size} = ., and here it is 7"):
        find_start(make_config(*same, f"{size}=7"))


def test_what_it_cannot_do_is_refused_by_name(run):
    config, loop = run
    with pytest.raises(UserError, match=f"language.train = {config.language.train}: .*cannot be exported"):
        require_mergeable(config)
    if config.language.train == "prefix":
        config.language.attention = "tree_attention"
        with pytest.raises(UserError, match="language.attention = tree_attention: .*set it to sdpa"):
            choose_attention(config, loop.model, torch.bfloat16)


def test_a_size_of_another_kind_is_an_error(make_config):
    with pytest.raises(UserError, match="language.prefix_tokens = 4: expected null where language.train is not prefix"):
        make_config("language.prefix_tokens=4")
    with pytest.raises(UserError, match="language.adapter_width = 4: expected null where language.train is not adapt"):
        make_config("language.adapter_width=4", "language.train=prefix")


def test_what_is_trained_is_printed(make_config, capsys):
    config = make_config("language.train=prefix", "language.prefix_tokens=3", "train.eval_strategy=no")
    build_loop(config, Path(config.train.output) / "a")
    printed = capsys.readouterr().out
    assert "language 192 of" in " ".join(printed.split())  # 2 layers x 2 heads x 3 tokens x 8 wide, keys and values
    assert "prefix    3 keys and values in front of every layer" in printed

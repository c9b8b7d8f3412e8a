"""BLIP-2's first stage: the Q-Former alone, trained, resumed, and the second stage that starts from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.errors import UserError
from dataset.collate import samples_of_batch
from dataset.image import load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from model.checkpoint import load_checkpoint
from model.start_from import find_start
from qwen.tokenizer import load_tokenizer
from tests.helpers.runs import conversations
from training.qformer_stage import LONGEST, build_qformer_stage
from training.setup import build_loop

SIZES = ["projector.kind=qformer", "projector.queries=4", "projector.layers=2", "projector.hidden_size=16"]
ALONE = [*SIZES, "vision.image_context_length=4", "language.train=frozen", "train.losses=[itc,itm,itg,mlm]"]
OPTIONS = [*ALONE, "train.max_steps=4", "train.save_steps=2", "train.per_device_train_batch_size=3"]


@pytest.fixture
def config(make_config):
    return make_config(*OPTIONS, "train.eval_strategy=no", pictures=9, conversations=conversations(9))


@pytest.fixture
def stage(config):
    torch.manual_seed(0)
    tokenizer = load_tokenizer(config.language.path)
    model = build_qformer_stage(config, tokenizer, torch.float32)
    dataset = ImageCaptionDataset(config, tokenizer, load_image_processor(config.vision.path))
    return model, samples_of_batch(dataset, [0, 1, 2]), tokenizer


def test_its_captions_are_what_the_labels_of_one_branch_say(stage):
    model, batch, tokenizer = stage
    ids, words = model.captions(batch["labels"], batch["segments"])
    texts = [tokenizer.decode(row[real]) for row, real in zip(ids, words, strict=True)]
    assert all(text.removesuffix("<|im_end|>\n").removesuffix("<|im_end|>") for text in texts)
    for row, real, labels, segments in zip(ids, words, batch["labels"], batch["segments"], strict=True):
        of_branches = [labels[(labels != -100) & (segments == branch)].tolist() for branch in segments.unique()]
        assert row[real].tolist() in [branch[:LONGEST] for branch in of_branches]


def test_words_reach_only_what_their_loss_lets_them(stage):
    model, batch, _ = stage
    projector = model.projector
    features = torch.randn(1, 8, 16)
    ids, words = torch.tensor([[7, 8, 9]]), torch.ones(1, 3, dtype=torch.bool)
    changed = torch.tensor([[7, 8, 10]])
    for loss, queries_differ, earlier_differ in (("itc", False, True), ("itm", True, True), ("itg", False, False)):
        (queries, texts), (other, later) = (projector.encode(features, one, words, loss) for one in (ids, changed))
        assert torch.allclose(queries, other, atol=1e-6) is not queries_differ, loss
        assert torch.allclose(texts[:, :2], later[:, :2], atol=1e-6) is not earlier_differ, loss
    queries, _ = projector.encode(features, ids, words, "itc")
    plain = projector.qformer(query_embeds=projector.query_tokens, encoder_hidden_states=features).last_hidden_state
    torch.testing.assert_close(queries, plain, rtol=0, atol=1e-5)  # what the second stage computes
    _, texts = projector.encode(features, ids, words, "itc")
    _, same = projector.encode(features + 1, ids, words, "itc")
    torch.testing.assert_close(texts, same)


def test_the_step_has_a_gradient_for_every_weight_and_counts_by_labels(stage):
    model, batch, _ = stage
    model.train()(**batch).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not any(p.requires_grad for p in model.vision.parameters())
    labels = int((batch["labels"][:, 1:] != -100).sum())
    torch.manual_seed(1)
    whole = model.eval()(**batch).loss
    torch.manual_seed(1)
    torch.testing.assert_close(model(**batch, num_items_in_batch=4 * labels).loss, whole / 4)


def test_a_resumed_run_ends_with_the_same_and_answers_nothing(config, tmp_path, capsys):
    build_loop(config, tmp_path / "one").train()
    assert "losses    itc, itm, itg, mlm, of the Q-Former alone" in capsys.readouterr().out
    last = tmp_path / "one" / "checkpoint-4"
    wanted = load_file(last / "projector.safetensors")
    with pytest.raises(UserError, match="trained the Q-Former alone, which cannot answer"):
        load_checkpoint(last)
    shutil.rmtree(last)
    build_loop(config, tmp_path / "one").train(resume=tmp_path / "one" / "checkpoint-2")
    again = load_file(last / "projector.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in wanted.items())


def test_the_second_stage_takes_the_qformer_and_leaves_its_words_out(config, make_config, tmp_path, capsys):
    build_loop(config, tmp_path / "one").train()
    first = load_file(tmp_path / "one" / "checkpoint-4" / "projector.safetensors")
    plain = [*SIZES, "vision.image_context_length=4", "language.train=frozen", "train.eval_strategy=no"]
    second = make_config(*plain, f"train.start_from={tmp_path / 'one'}", "train.run=two")
    capsys.readouterr()
    loop = build_loop(second, Path(second.train.output) / "two", start=find_start(second))
    printed = capsys.readouterr().out
    assert "fresh     projector: 2 tensors (language_projection.weight, language_projection.bias)" in printed
    assert "left out  projector: " in printed
    weights = loop.model.projector.state_dict()
    for name in ("query_tokens", "feature_mean", "qformer.encoder.layer.0.intermediate_query.dense.weight"):
        assert torch.equal(weights[name], first[name]), name
    loop.train()


def test_its_validation_loss_is_measured_and_nothing_is_asked(make_config, tmp_path):
    options = ["train.eval_strategy=steps", "train.eval_steps=2", "train.eval_questions=0"]
    config = make_config(*OPTIONS, *options, pictures=9, conversations=conversations(9))
    loop = build_loop(config, tmp_path / "run")
    loop.train()
    assert [entry["step"] for entry in loop.progress.log_history if "eval_loss" in entry] == [2, 4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.losses=[itc,answers]", r"train.losses = .*expected \[answers\], or each of itc"),
        ("projector.kind=resampler projector.layers=null projector.hidden_size=null", "projector.kind = .*expected"),
        ("language.train=lora", "language.train = .*expected .*frozen.* with train.losses"),
        ("train.eval_strategy=steps", "train.eval_questions = 20: expected 0 with train.losses"),
    ],
)
def test_what_it_cannot_have_is_refused_by_name(make_config, change, words):
    with pytest.raises(UserError, match=words):
        make_config(*OPTIONS, *change.split())

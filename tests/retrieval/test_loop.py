"""Training: a checkpoint is a whole model, resuming is exact, adapters are merged, a new text tower learns."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from answering.checkpoints import checkpoints_under, open_config
from common.errors import UserError
from retrieval.__main__ import main
from retrieval.contrastive import Options
from retrieval.encoder import load_encoder
from retrieval.loop import build_loop
from retrieval.zero_shot import probabilities
from settings import Config, load_config, save_config
from tests.helpers.forked import forks
from tests.helpers.runs import losses, state_of
from tests.helpers.tiny import save_siglip
from tests.helpers.towers import COLORS, save_two_towers
from visual.load import load_vision
from visual.two_towers import load_two_towers

OPTIONS = Options("softmax", 64, 1, 16)


@pytest.fixture
def make_run(make_config, tmp_path):
    """A function that writes a run on pictures of four colours, with a caption each."""

    def make(vision: Path, *overrides: str, pictures: int = 16) -> tuple[Path, Config]:
        config = make_config(pictures=pictures)
        groups = {}
        for entry in json.loads(config.data.image_map.read_text(encoding="utf-8")).values():
            color = list(COLORS)[entry["ID"] % 4]
            Image.new("RGB", (20, 20), COLORS[color]).save(entry["path"])
            split = "validation" if entry["ID"] >= pictures - 4 else "train"
            turns = [{"q": "<|extra_0|>\nDescribe the picture.", "a": [f"it is {color}", f"a {color} picture"]}]
            groups[str(entry["ID"])] = [{"source": "s", "language": "en", "split": split, "turns": turns}]
        config.data.annotations.write_text(json.dumps(groups), encoding="utf-8")
        file = tmp_path / "run.yaml"
        save_config(config, file)
        settings = [
            f"vision.path={vision}",
            f"train.output={tmp_path / 'runs'}",
            "train.per_device_train_batch_size=4",
            "train.gradient_accumulation_steps=1",
            "train.max_steps=4",
            "train.save_steps=2",
            "train.eval_strategy=steps",
            "train.eval_steps=2",
            "train.learning_rate=0.003",
            "train.lr_scheduler_type=constant",
            "train.warmup_steps=0",
            "train.save_total_limit=null",
            "data.progress=false",
            *overrides,
        ]
        return file, load_config(file, settings, check_models=False)

    return make


def run_of(config: Config, file: Path, *arguments: str) -> tuple[int, Path]:
    save_config(config, file)
    return main(["train", "--config", str(file), *arguments]), config.train.output / config.train.run


def test_a_checkpoint_is_a_whole_model_whose_tower_a_run_can_begin_with(make_run, tmp_path, capsys):
    file, config = make_run(save_two_towers(tmp_path / "towers"), "vision.train=full", "language.train=full")
    status, run = run_of(config, file)
    assert status == 0
    assert "12 pictures with 24 captions, 4 for validation" in (printed := capsys.readouterr().out)
    assert "eval_loss" in printed and "eval_text_to_image" in printed
    tuned, start = load_two_towers(str(run / "checkpoint-4")), load_two_towers(str(tmp_path / "towers"))
    for part in ("vision_model.encoder.layers.0.mlp.fc1.weight", "text_model.head.weight", "logit_scale"):
        assert not torch.equal(tuned.model.get_parameter(part), start.model.get_parameter(part))
    pixels = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        states = tuned.model.vision_model(pixel_values=pixels).last_hidden_state
        assert torch.equal(load_vision(str(run / "checkpoint-4" / "towers"))(pixels), states)


def test_a_checkpoint_of_towers_is_not_offered_to_answer_and_says_what_it_is_for(make_run, tmp_path):
    file, config = make_run(save_two_towers(tmp_path / "towers"), "train.max_steps=2", "train.eval_strategy=no")
    _, run = run_of(config, file)
    assert checkpoints_under(config.train.output) == []
    for path in (run, run / "checkpoint-2"):
        with pytest.raises(UserError, match="checkpoint-2: two towers, .*; use python -m retrieval with --model"):
            open_config(path)


def test_a_resumed_run_ends_bit_equal(make_run, tmp_path):
    file, config = make_run(save_two_towers(tmp_path / "towers"), "language.train=full")
    status, run = run_of(config, file, "--loss", "softmax")
    whole = load_file(run / "checkpoint-4" / "trained.safetensors")
    (run / "checkpoint-4" / "manifest.json").unlink()
    assert status == 0 and run_of(config, file, "--resume")[0] == 0
    again = load_file(run / "checkpoint-4" / "trained.safetensors")
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    assert (run / "checkpoint-4" / "manifest.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX processes")
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_two_processes_learn_what_one_learns(make_run, tmp_path, loss):
    """Every text is compared with the pictures of both processes: 4 by 4, not twice 2 by 2."""
    found = {}
    for ranks in (1, 2):
        overrides = (f"train.per_device_train_batch_size={4 // ranks}", f"train.run=of{ranks}", "train.logging_steps=1")
        file, config = make_run(
            save_two_towers(tmp_path / "towers"), "vision.train=lora", "language.train=full", *overrides
        )
        save_config(config, file)
        command = ("train", "--config", str(file), "--loss", loss)
        result = forks().run(*command, script="retrieval.__main__", log=tmp_path / "log", ranks=ranks)
        assert result["codes"] == [0] * ranks, result["output"]
        run = config.train.output / config.train.run
        found[ranks] = losses(state_of(run, 4)), load_file(run / "checkpoint-4" / "trained.safetensors")
    (wanted, weights), (same, theirs) = found[1], found[2]
    assert wanted.keys() == same.keys() and len(wanted) == 4 + 4 + 2  # loss and norm of each step, two evaluations
    for key, value in wanted.items():
        assert same[key] == pytest.approx(value, rel=1e-5 if key[1] != "grad_norm" else 1e-4), key
    assert weights.keys() == theirs.keys()
    for name in (name for name in weights if "k_proj.bias" not in name):  # these have no gradient but rounding
        torch.testing.assert_close(theirs[name], weights[name], rtol=1e-3, atol=1e-4)  # float32 through Adam's division


def test_resuming_with_another_loss_is_refused(make_run, tmp_path, capsys):
    file, config = make_run(save_two_towers(tmp_path / "towers"), "language.train=full", "train.max_steps=2")
    assert run_of(config, file)[0] == 0 and run_of(config, file, "--resume", "--loss", "softmax")[0] == 2
    assert "--resume: --loss softmax, but checkpoint-2 has sigmoid" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_adapters_of_both_towers_are_merged_into_what_is_saved(make_run, tmp_path, kind):
    vision = save_two_towers(tmp_path / "towers", kind)
    _, config = make_run(vision, "vision.train=lora", "language.train=lora", "train.max_steps=2")
    loop = build_loop(config, tmp_path / "run", OPTIONS)
    loop.train()
    saved, start = load_two_towers(str(tmp_path / "run" / "checkpoint-2")).eval(), load_two_towers(str(vision)).eval()
    pixels, tokens = torch.randn(3, 3, 28, 28), saved.tokenize(["it is red", "a blue picture", "x"])
    loop.model.eval()
    with torch.no_grad():
        for ours, theirs, before in zip(
            loop.model.towers(pixels, **tokens), saved(pixels, **tokens), start(pixels, **tokens), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
            assert (ours - before).abs().max() > 1e-3
    trained = [name for name, p in loop.model.named_parameters() if p.requires_grad]
    assert not any("vision_model" in name and "head" in name and "lora" in name for name in trained)


def test_a_new_text_tower_learns_and_leaves_the_frozen_tower_as_it_was(make_run, tmp_path):
    vision = save_siglip(tmp_path / "vision")
    settings = ["train.max_steps=60", "train.eval_steps=60", "train.save_steps=60", "train.learning_rate=0.001"]
    _, config = make_run(vision, *settings, pictures=8)  # four to train, one of each colour
    loop = build_loop(config, tmp_path / "run", OPTIONS)
    loop.train()
    saved, before = load_two_towers(str(tmp_path / "run" / "checkpoint-60")), load_vision(str(vision)).state_dict()
    after = saved.model.vision_model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    (last,) = [line for line in loop.progress.log_history if "eval_text_to_image" in line]
    assert last["eval_text_to_image"] == 1.0 and last["eval_chance"] == 0.25


def test_every_picture_is_shown_once_in_an_epoch_and_captions_take_turns(make_run, tmp_path):
    _, config = make_run(save_two_towers(tmp_path / "towers"), pictures=18)  # 14 to train, 3 steps of 4
    feed = build_loop(config, tmp_path / "run", OPTIONS).feed
    epochs = [[name for _ in range(3) for batch in feed.step() for name in batch["info"].ids] for _ in range(2)]
    assert all(len(set(names)) == 12 for names in epochs) and epochs[0] != epochs[1]
    assert feed.position()["epoch"] == 1 and feed.epoch_ended and feed.epoch == 2.0
    texts = [
        tuple(
            feed.encoder.towers.tokenizer.decode(row, skip_special_tokens=True).split()[0] for row in one["input_ids"]
        )
        for one in (feed.batch(feed.pictures[:2]), (setattr(feed, "number", 2), feed.batch(feed.pictures[:2]))[1])
    ]
    assert texts == [("a", "a"), ("it", "it")]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.per_device_train_batch_size=99"], "12 pictures with captions, but a step shows 99"),
        (["language.train=prefix"], "language.train = prefix: a text tower takes frozen, lora or full"),
        (["train.fsdp=true"], "train.fsdp: two towers fit on one GPU"),
    ],
)
def test_a_mistake_is_one_line(make_run, tmp_path, capsys, overrides, message):
    file, config = make_run(save_two_towers(tmp_path / "towers"), *overrides)
    capsys.readouterr()
    assert run_of(config, file)[0] == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_clip_has_no_sigmoid_loss(make_run, tmp_path, capsys):
    file, config = make_run(save_two_towers(tmp_path / "towers", "clip"))
    assert run_of(config, file, "--loss", "sigmoid")[0] == 2
    assert "--loss sigmoid: CLIP has no bias for it; use softmax" in capsys.readouterr().err


def test_labels_of_towers_tuned_with_softmax_have_probabilities_that_sum_to_one(make_run, tmp_path):
    towers = save_two_towers(tmp_path / "towers")
    file, config = make_run(towers, "language.train=full", "train.max_steps=2", "train.eval_strategy=no")
    assert run_of(config, file, "--loss", "softmax")[0] == 0
    cosines = np.array([[0.1, 0.3]], np.float32)
    run = config.train.output / config.train.run / "checkpoint-2"
    for tuned in (run, run / "towers"):
        chances = probabilities(load_encoder(str(tuned), torch.device("cpu")), cosines)
        assert chances.sum() == pytest.approx(1.0) and chances[0, 1] > chances[0, 0]
    assert probabilities(load_encoder(str(towers), torch.device("cpu")), cosines).sum() != pytest.approx(1.0)

"""Memory and time of a run, before it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dataset.image import load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.streaming import StreamedDataset
from dataset.write_shards import write_shards
from qwen.tokenizer import load_tokenizer
from settings import load_config, save_config
from tests.helpers.forked import forks
from tests.helpers.runs import conversations
from training.dry_run import STEPS, SpreadFeed, Times, clock, describe, how_often, spread, validation_part

BATCHES = [[number] for number in range(100)]


def dry_run(config, *arguments: str) -> dict:
    file = Path(config.train.output).parent / "config.yaml"
    save_config(config, file)
    return forks().run("--config", str(file), "--dry-run", *arguments, log=file.with_suffix(".log"))


# ---------------------------------------------------------------------------------------------- a spread of batches


@pytest.mark.parametrize("each", [1, 3, 8])
def test_each_step_takes_evenly_spaced_quantiles_and_all_steps_together_cover_them(each):
    taken = [batch[0] for batch in spread(BATCHES, 8, each)]
    steps = [taken[i : i + each] for i in range(0, len(taken), each)]
    assert len(steps) == 8 and all(b - a >= 99 // each for s in steps for a, b in zip(s, s[1:], strict=False))
    assert len(set(taken)) == 8 * each and min(taken) < 100 / (8 * each) and max(taken) > 99 - 100 / (8 * each)
    assert sum(taken) / len(taken) == pytest.approx(49.5, abs=0.6)  # the mean of all


def test_few_batches_are_taken_several_times():
    assert spread([[1], [2]], 4, 1) == [[1], [1], [2], [2]] and spread([[1]], 2, 2) == [[1]] * 4


@pytest.fixture
def parts(make_config):
    config = make_config(
        "train.gradient_accumulation_steps=2", "train.per_device_train_batch_size=1", pictures=9,
        conversations=conversations(9),
    )  # fmt: skip
    tools = load_tokenizer(config.language.path), load_image_processor(config.vision.path)
    return config, *(ImageCaptionDataset(config, *tools, split) for split in ("train", "validation"))


def test_the_first_step_is_on_the_longest_batch_and_the_others_are_a_spread(parts):
    config, dataset, validation = parts
    feed = SpreadFeed(config, dataset, validation)
    lengths = sorted(dataset.lengths)
    first, *others = ([dataset.cost(batch) for batch in feed.order.batches[i : i + 2]] for i in range(0, 18, 2))
    assert first == [lengths[-1]] * 2 and len(others) == STEPS  # two batches for each step
    mean = sum(map(sum, others)) / (2 * STEPS)
    assert mean == pytest.approx(sum(lengths) / len(lengths), rel=0.05) and min(others)[0] == lengths[0]
    assert [len(batch["info"].ids) > 0 for batch in feed.step() + feed.step()] == [True] * 4
    assert sum(batch["input_ids"].shape[0] for batch in feed.validation()) == len(validation)


def test_a_streams_evaluation_costs_what_that_of_the_two_files_does(parts, tmp_path):
    config, _, validation = parts
    (tmp_path / "shards").mkdir()
    write_shards(config, tmp_path / "shards", 1)
    shards = [
        f"data.stream={tmp_path}/shards/train-*.tar",
        f"data.stream_validation={tmp_path}/shards/validation-*.tar",
    ]
    options = ["data.stream_window=1", "train.per_device_train_batch_size=1"]
    streamed = load_config(tmp_path / "run.yaml", [*shards, *options])
    stream = StreamedDataset(streamed, validation.tokenizer, validation.image_processor, "validation")
    part, cost = validation_part(streamed, stream)
    whole, wanted = validation_part(config, validation)
    assert whole is validation and cost == wanted == sum(validation.lengths) and len(part) == 1


# ---------------------------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize(
    ("strategy", "total", "times"), [("no", 100, 0), ("steps", 100, 4), ("steps", 101, 5), ("epoch", 100, 3)]
)
def test_evaluations_and_checkpoints_are_counted_with_the_last_step(strategy, total, times):
    assert how_often(strategy, 25, total, per_epoch=40) == times


def test_the_time_is_the_sum_of_its_parts_and_a_range(make_config):
    config = make_config("train.eval_strategy=steps", "train.eval_steps=50", "train.save_steps=30")
    times = Times(start=20, first=4, rounds=[2.0, 2.2, 1.8], waiting=0.05, epoch=3, evaluation=10, save=5)
    step, time = describe(times, config, total=100, per_epoch=40)
    assert step == "step      2 s (1.8 to 2.2 in 3 rounds of 8 steps), 5.0% of it waiting for data"
    # 100 steps of 2 s, 2 evaluations of 10 s, 4 checkpoints of 5 s, 20 + 4 s and three times 3 s to start: 273 s
    assert time == (
        f"time      {clock(0.9 * 273)} to {clock(1.15 * 273)} (h:mm:ss): 100 steps 0:03:20, 2 evaluations 0:00:20, "
        "4 checkpoints 0:00:20, start 0:00:33"
    )


def test_rounds_that_differ_widen_the_range(make_config):
    times = Times(start=0, first=0, rounds=[1.0, 3.0], waiting=0)
    _, time = describe(times, make_config("train.save_strategy=no"), total=1800, per_epoch=1800)
    assert time.startswith("time      0:30:00 to 1:30:00 (h:mm:ss): 1,800 steps 1:00:00, start 0:00:00")


# ---------------------------------------------------------------------------------------------- whole runs


def test_it_measures_and_leaves_no_trace(make_config):
    config = make_config(
        "train.gradient_checkpointing=true", "train.eval_strategy=steps", "train.dataloader_num_workers=1"
    )
    result = dry_run(config)
    assert result["codes"] == [0] and result["stderr"] == "", result["output"]
    assert "tokens: forward, backward and step fit" in result["stdout"]
    line = r"memory +([\d.]+) GiB at the peak of this process: ([\d.]+) GiB Python, .*; ([\d.]+) GiB weights, "
    found = re.search(line, result["stdout"])
    peak, libraries, own = map(float, found.groups())
    assert libraries > 0.1 and peak == pytest.approx(libraries + own, abs=0.011)
    parts = "4 steps .*, 2 evaluations .*, 2 checkpoints .*, start "
    assert re.search(rf"time +\d:\d\d:\d\d to \d:\d\d:\d\d .*: {parts}", result["stdout"])
    assert not Path(config.train.output).exists()


def test_it_changes_nothing_in_a_run_that_is_there(make_config):
    config = make_config("train.save_strategy=no")
    run = Path(config.train.output) / "test"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 7}\n')
    result = dry_run(config, "--overwrite")
    assert result["codes"] == [0], result["output"]
    assert [path.name for path in run.parent.rglob("*")] == ["test", "metrics.jsonl"]
    assert (run / "metrics.jsonl").read_text() == '{"step": 7}\n'


def test_two_processes_measure_as_many_steps(make_config):
    config = make_config("train.eval_strategy=steps", pictures=9)
    file = Path(config.train.output).parent / "config.yaml"
    save_config(config, file)
    result = forks().run("--config", str(file), "--dry-run", log=file.with_suffix(".log"), ranks=2)
    assert result["codes"] == [0, 0], result["output"]
    assert result["stdout"].count("time      ") == 1

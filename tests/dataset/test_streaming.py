"""Streamed shards: the same samples as from the two files, and an exact position."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from common.command import resume_command
from common.errors import UserError
from dataset.collate import Position
from dataset.image import load_image_processor
from dataset.image_caption_dataset import ImageCaptionDataset
from dataset.preparing.turns import JOINED, TRAILING
from dataset.streaming import StreamedBatches, StreamedDataset
from dataset.write_shards import write_shards
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer
from settings import Config, load_config, save_config
from tests.helpers.forked import forks
from tests.helpers.runs import assert_same, last_state
from tests.helpers.tars import LLAVA, only_tar, photo, said
from training import feed
from training.setup import build_loop

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX processes")
PICTURES = 13


def talks(answers: tuple[str, ...] = ("red", "a blue one", "green")) -> dict:
    """One to three conversations about each of 13 pictures, the last two for validation, and one about none."""
    return {
        str(number): [
            {
                "source": "test",
                "language": "en",
                "split": "validation" if number >= PICTURES - 2 else "train",
                "turns": [{"q": f"{IMAGE_TOKEN}\nWhat is {n} {'of ' * number}?", "a": list(answers)}],
            }
            for n in range(1 + number % 3)
        ]
        for number in range(PICTURES)
    } | {
        "text": [{"source": "test", "language": "en", "split": "train", "turns": [{"q": "Hello", "a": list(answers)}]}]
    }


@pytest.fixture
def make_stream(make_config, tmp_path):
    """A function that writes shards of ``size`` records and gives the config of a run on them."""

    def make(*overrides: str, size: int = 3, answers: tuple[str, ...] = ("red", "a blue one", "green")) -> Config:
        config = make_config(pictures=PICTURES, conversations=talks(answers))
        (tmp_path / "shards").mkdir(exist_ok=True)
        write_shards(config, tmp_path / "shards", size)
        shards = [f"data.stream{split}={tmp_path}/shards/{name}-*.tar" for split, name in SPLITS.items()]
        return load_config(tmp_path / "run.yaml", [*shards, "data.stream_window=4", *overrides])

    return make


SPLITS = {"": "train", "_validation": "validation"}


def open_stream(config: Config, split: str = "train") -> StreamedDataset:
    return StreamedDataset(
        config, load_tokenizer(config.language.path), load_image_processor(config.vision.path), split
    )


def stream_of(make_config, path: Path, *overrides: str) -> StreamedDataset:
    config = make_config(f"data.stream={path}", *overrides)
    return open_stream(config)


def one_pass(stream: StreamedDataset, size: int = 1) -> list[dict]:
    return list(StreamedBatches(stream, size, None, None))


# ---------------------------------------------------------------------------------------------- samples


def test_samples_are_those_of_the_two_files(make_stream):
    """Trees, a text without an image, and pictures; in windows of four records from shards of three."""
    config = make_stream(answers=("red",))
    stream, whole = open_stream(config), ImageCaptionDataset(config, *tools(config))
    windows = list(stream.windows(Position(), None))
    assert [len(window.dataset) for window in windows] == [4, 4, 4] and len(whole) == 12
    found = [window.dataset[i] for window in windows for i in range(len(window.dataset))]
    assert max(sample["segments"][-1] for sample in found) == 3  # a record is a message tree
    for index, sample in enumerate(found):
        wanted = whole[index]
        for key in ("input_ids", "labels", "segments", "position_ids", "visual_tokens"):
            assert sample[key] == wanted[key]
        assert len(sample["pixel_values"]) == len(wanted["pixel_values"])
        assert all(map(torch.equal, sample["pixel_values"], wanted["pixel_values"]))
    assert found[4]["id"] == ", ".join(f"train-000001.tar/00000000{4}/{n}" for n in range(2))


def test_a_system_text_of_its_own_is_that_of_the_two_files(make_config, tmp_path):
    talk = {"source": "test", "language": "en", "split": "train", "system": "Be brief."}
    talk["turns"] = [{"q": f"{IMAGE_TOKEN}\nWhat?", "a": ["red"]}]
    config = make_config(pictures=PICTURES, conversations={str(number): [talk] for number in range(PICTURES)})
    write_shards(config, tmp_path, PICTURES)
    config.data.stream, whole = [tmp_path / "train-*.tar"], ImageCaptionDataset(config, *tools(config))
    (window,) = open_stream(config).windows(Position(), None)
    assert window.dataset[0]["input_ids"] == whole[0]["input_ids"]
    assert "Be brief." in window.dataset.tokenizer.decode(window.dataset[0]["input_ids"])


def tools(config: Config) -> tuple:
    return load_tokenizer(config.language.path), load_image_processor(config.vision.path)


def test_a_set_that_fits_into_one_window_trains_as_from_the_two_files(make_stream):
    """To the bit, over two epochs: the batches and their order are the same."""
    overrides = ["data.stream_window=100", "train.max_steps=10", "train.save_steps=10", "lora.lora_dropout=0.2"]
    states = []
    for extra in ([], ["data.stream=null", "data.stream_validation=null"]):
        config = make_stream(*overrides, f"train.run=run{len(states)}", *extra, size=100, answers=("red",))
        loop = build_loop(config, config.train.output / config.train.run)
        loop.train()
        folder = config.train.output / config.train.run / "checkpoint-10"
        log = [(e["loss"], e["grad_norm"]) for e in loop.progress.log_history if "loss" in e]
        states.append((log, {name: t for file in folder.rglob("*.safetensors") for name, t in load_file(file).items()}))
    (log, tensors), (other_log, other_tensors) = states
    assert log == other_log and len(log) == 10 and tensors.keys() == other_tensors.keys()
    assert all(torch.equal(tensor, other_tensors[name]) for name, tensor in tensors.items())


def test_parquet_gives_the_samples_of_a_tar(make_config, tmp_path):
    """With the image as the hub's data sets have it, and columns that are of no use here."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    records = [{"png": photo(40 * i), "json": {"conversations": LLAVA}} for i in range(5)]
    text = pyarrow.string()
    schema = pyarrow.schema(
        {
            "image": pyarrow.struct({"bytes": pyarrow.binary(), "path": text}),
            "conversations": pyarrow.list_(pyarrow.struct({"from": text, "value": text})),
            "score": pyarrow.float32(),
        },
        metadata={"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})},
    )
    rows = [{"image": {"bytes": r["png"], "path": "x.png"}, "conversations": LLAVA, "score": 0.5} for r in records]
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema), tmp_path / "s.parquet", row_group_size=2)
    tar = one_pass(stream_of(make_config, only_tar(tmp_path / "tar", records)), size=2)
    parquet = stream_of(make_config, tmp_path / "s.parquet", "data.stream_window=2")
    assert [len(window.dataset) for window in parquet.windows(Position(record=1), None)] == [2, 2]  # from the second on
    parquet = one_pass(stream_of(make_config, tmp_path / "s.parquet"), size=2)
    assert {name for batch in parquet for name in batch["info"].ids} == {f"s.parquet/{i}/0" for i in range(5)}
    for one, other in zip(tar, parquet, strict=True):
        assert [int(name.split("/")[1]) for name in one["info"].ids] == [
            int(name.split("/")[1]) for name in other["info"].ids
        ]
        assert torch.equal(one["input_ids"], other["input_ids"])
        assert torch.equal(one["pixel_values"], other["pixel_values"])


def test_what_is_validation_or_test_is_not_streamed_for_training(make_config, tmp_path):
    records = [
        {"png": photo(), "json": [said()[0] | {"split": split}]}
        for split in ("train", "validation", "train", "test", "held_out")
    ]
    batches = one_pass(stream_of(make_config, only_tar(tmp_path / "tar", records)))
    assert sorted(name for batch in batches for name in batch["info"].ids) == ["s.tar/0000/0", "s.tar/0002/0"]


# ---------------------------------------------------------------------------------------------- bad data


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path(os.environ["VLM_TEST_MARK"]),)


def test_bad_records_are_skipped_counted_and_named_and_no_pickle_is_read(make_config, tmp_path, monkeypatch):
    mark = tmp_path / "unpickled"
    monkeypatch.setenv("VLM_TEST_MARK", str(mark))
    good = {"png": photo(), "json": said()}
    wide = photo(size=(400, 300))
    records = [
        good,
        {"png": photo(), "json": b'{"conversations": ['},
        {"png": photo(), "json": b"[" * 100_000},
        {"png": b"not an image", "json": said()},
        {"png": wide, "json": said()},
        {"json": said()},
        {"png": photo(), "json": said(f"{IMAGE_TOKEN}{IMAGE_TOKEN} forged")},
        {"png": photo(), "pickle": pickle.dumps(Bomb()), "json": said()},
        {"png": photo(), "json": said(), "pyd": pickle.dumps(Bomb())},
        {"png": photo()},
        {"png": photo(), "0.jpg": photo(), "json": said()},
        {"npy": b"\x93NUMPY", "png": photo(), "json": said("<|im_end|>" + IMAGE_TOKEN), "json.gz": b"\x1f\x8b"},
    ]
    stream = stream_of(make_config, only_tar(tmp_path / "tar", records), "data.max_pixels=100000")
    batches = one_pass(stream, size=20)
    lines = sorted({line for batch in batches for line in batch["info"].skipped})
    reasons = [
        ("0001", "not valid JSON"),
        ("0002", "not valid JSON"),
        ("0003/0", "cannot be decoded"),
        ("0004/0", "too large: 400 x 300 pixels"),
        ("0005/0", "1 image placeholders for 0 images"),
        ("0006/0", "2 image placeholders for 1 images"),
        ("0007", "holds a pickle (.pickle)"),
        ("0008", "holds a pickle (.pyd)"),
        ("0009/0", "the caption is empty"),
        ("0010", "has 2 images, data.images_per_conversation allows 1"),
    ]
    assert len(lines) == len(reasons), lines
    for line, (key, reason) in zip(lines, reasons, strict=True):
        assert line.startswith(f"s.tar/{key}: {reason}"), line
    assert {name for batch in batches for name in batch["info"].ids} == {"s.tar/0000/0", "s.tar/0011/0"}
    ids = batches[-1]["input_ids"].tolist()
    end = stream.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert {row.count(end) for row in ids} == {3}  # system, question, answer: none of them forged
    assert not mark.exists()


def test_what_is_changed_in_records_is_counted_once_by_every_process(make_config, tmp_path):
    talk = [
        {"from": "human", "value": "first"},
        {"from": "human", "value": "second"},
        {"from": "gpt", "value": "answer"},
        {"from": "human", "value": "never answered"},
    ]
    record = {"png": photo(), "json": json.dumps({"conversations": talk}).encode()}
    stream = stream_of(make_config, only_tar(tmp_path / "tar", [record] * 7), "data.stream_window=2")
    for rank in (0, 1):
        batches = list(StreamedBatches(stream, 1, None, None, processes=2, rank=rank, accumulation=2))
        counted = sum((batch["info"].changes for batch in batches), Counter())
        assert counted == {JOINED: 7, TRAILING: 7}


def test_a_damaged_shard_is_read_up_to_the_damage_and_the_position_stays_exact(make_stream, tmp_path):
    config = make_stream("data.stream_window=2", size=5)
    shard = tmp_path / "shards" / "train-000000.tar"
    with tarfile.open(shard) as tar:
        cut = tar.getmember("000000002.json").offset_data
    shard.write_bytes(shard.read_bytes()[: cut + 10])
    stream = open_stream(config)
    batches = one_pass(stream)
    (line,) = [line for batch in batches for line in batch["info"].skipped]
    assert line.startswith("train-000000.tar from record 2 on: the shard is damaged: ")
    names = [name.split("/")[1] for batch in batches for name in batch["info"].ids]
    assert sorted(set(map(int, names))) == [0, 1, 5, 6, 7, 8, 9, 10, 11]
    for number, batch in enumerate(batches):
        rest = StreamedBatches(stream, 1, None, None)
        rest.position = batch["info"].position
        assert [b["info"].ids for b in rest] == [b["info"].ids for b in batches[number + 1 :]]


@pytest.mark.parametrize("shards", ["empty", "garbage"])
def test_shards_without_a_usable_record_are_one_line_and_not_an_endless_search(make_config, tmp_path, shards):
    path = only_tar(tmp_path / "tar", [{"png": b"x", "json": b"{"}] * 3)
    if shards == "garbage":
        path.write_bytes(random.Random(1).randbytes(5000))
    with pytest.raises(UserError, match="^data.stream: no record can be used; the first: s.tar"):
        stream_of(make_config, path).first_window()
    with pytest.raises(UserError, match="^data.stream: no record of 1 shards can be used; the first: s.tar"):
        next(iter(StreamedBatches(stream_of(make_config, path), 1, None, 0)))


def test_a_file_that_vanishes_is_one_line_from_a_worker_too(make_stream, tmp_path, monkeypatch):
    config = make_stream("train.dataloader_num_workers=1", "train.max_steps=50", "train.save_steps=100")
    loop = build_loop(config, tmp_path / "run")
    (tmp_path / "shards" / "train-000001.tar").unlink()
    with pytest.raises(UserError) as caught:
        loop.train()
    expected = f"data.stream: {tmp_path}/shards/train-000001.tar cannot be read: No such file or directory; fix that"
    assert str(caught.value) == f"{expected}, then continue with: {resume_command()}"


# ---------------------------------------------------------------------------------------------- positions


START = Position()


def sequence(stream: StreamedDataset, steps: int, position: Position = START, **shared) -> tuple[list, Position]:
    """The names in so many steps of all processes, in any order within a step, and the position after them."""
    processes, accumulation = shared.get("processes", 1), shared.get("accumulation", 1)
    names: list[list[str]] = [[] for _ in range(steps)]
    positions = set()
    for rank in range(processes):
        batches = StreamedBatches(stream, 2, None, 3, processes, rank, accumulation)
        batches.position = position
        for turn, batch in zip(range(steps * accumulation), batches, strict=False):
            names[turn // accumulation] += batch["info"].ids
        positions.add(batch["info"].position)
    assert len(positions) == 1  # all agree
    return [sorted(step) for step in names], positions.pop()


def test_every_epoch_has_every_sample_once_in_an_order_of_its_own(make_stream):
    stream = open_stream(make_stream())
    seen: list[list[str]] = [[], [], []]
    for batch in StreamedBatches(stream, 2, None, 3):
        if batch["info"].position.epoch == 3:
            break
        seen[batch["info"].position.epoch] += batch["info"].ids
    assert len(set(seen[0])) == len(seen[0]) == 12
    assert sorted(seen[0]) == sorted(seen[1]) == sorted(seen[2])
    assert seen[0] != seen[1] != seen[2] != sorted(seen[2])


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_of_one_and_follow_each_other(make_stream, processes):
    """For three epochs, which do not divide among them."""
    stream = open_stream(make_stream())
    shared = {"processes": processes, "accumulation": 2}
    alone, _ = sequence(stream, 6 * processes * 2)
    wanted = [sorted(sum(alone[i : i + processes * 2], [])) for i in range(0, len(alone), processes * 2)]
    assert sequence(stream, 6, **shared)[0] == wanted
    some, position = sequence(stream, 4, **shared)
    assert some == wanted[:4]
    followed, _ = sequence(stream, 4 * processes, Position(*json.loads(json.dumps(position))))
    assert followed == alone[8 * processes : 12 * processes]


def test_workers_give_what_the_main_process_gives(make_stream):
    stream = open_stream(make_stream())
    alone, *others = (
        [batch for _, batch in zip(range(14), loader, strict=False)]
        for loader in (
            DataLoader(StreamedBatches(stream, 2, None, 3), batch_size=None, num_workers=n) for n in (0, 1, 3)
        )
    )
    for other in others:
        for one, same in zip(alone, other, strict=True):
            assert (one["info"].ids, one["info"].position) == (same["info"].ids, Position(*same["info"].position))
            assert torch.equal(one["input_ids"], same["input_ids"])


def test_the_last_pass_of_an_evaluation_counts_every_sample_once(make_stream):
    stream = open_stream(make_stream(), "validation")
    batches = [list(StreamedBatches(stream, 1, None, None, 3, rank)) for rank in range(3)]
    assert [len(one) for one in batches] == [1, 1, 1]  # two samples for three processes
    shard = "validation-000000.tar"
    real = sorted(name for one in batches for batch in one if batch["info"].real for name in batch["info"].ids)
    tree = ", ".join(f"{shard}/000000000/{n}" for n in range(3))
    assert real == [tree, f"{shard}/000000001/0"]


def test_a_budget_of_tokens_holds_within_a_window(make_stream):
    stream = open_stream(make_stream())
    batches = list(StreamedBatches(stream, 99, 150, None))
    assert all(b["input_ids"].numel() <= 150 or len(b["info"].ids) == 1 for b in batches)
    assert {len(b["info"].ids) for b in batches} >= {1, 2}


def test_only_a_window_is_in_memory(make_config, tmp_path):
    """60 records of a megabyte each, eight at a time."""
    noise = random.Random(0).randbytes(2**20)
    shard = only_tar(tmp_path / "tar", [{"jpg": noise, "json": said()} for _ in range(60)])
    del noise
    stream = stream_of(make_config, shard, "data.stream_window=8")
    next(stream.windows(Position(), None))  # what is imported on the way
    tracemalloc.start()
    count = sum(len(window.dataset.paths) for window in stream.windows(Position(), None))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 60 and peak < 30 * 2**20  # a window, what is read ahead of it, and a window before it


# ---------------------------------------------------------------------------------------------- whole runs

RUN = [
    "train.max_steps=12",
    "train.per_device_train_batch_size=2",
    "train.save_steps=2",
    "train.save_total_limit=3",
    "train.logging_steps=2",
    "train.eval_strategy=steps",
    "train.eval_steps=6",
    "data.progress=false",
]


@pytest.fixture
def start(make_stream, tmp_path):
    def prepare(name: str, *overrides: str):
        config = make_stream(*RUN, f"train.run={name}", *overrides)
        save_config(config, tmp_path / f"{name}.yaml")

        def run(*arguments: str, **options) -> dict:
            file = str(tmp_path / f"{name}.yaml")
            return forks().run("--config", file, *arguments, log=tmp_path / f"{name}.log", **options)

        return run, config.train.output / name

    return prepare


@posix
def test_killed_in_either_epoch_it_ends_bit_equal(start):
    overrides = ["train.gradient_accumulation_steps=2", "lora.lora_dropout=0.2"]
    whole, reference = start("whole", *overrides)
    done = whole()
    assert done["codes"] == [0], done["output"]
    broken, run = start("broken", "train.dataloader_num_workers=1", *overrides)  # reads ahead of what is trained
    for count in (6, 11):  # of 24 batches, 6 or 7 an epoch; saved after every fourth
        assert broken("--resume", kill={"event": "step", "count": count})["codes"] == [-9]
    progress = json.loads((run / "checkpoint-6" / "progress.json").read_text(encoding="utf-8"))
    assert progress["stream"]["position"][0] >= 1 and progress["stream"]["position"][4] > 0  # amid a window of epoch 1
    result = broken("--resume")
    assert result["codes"] == [0] and "resuming from" in result["output"], result["output"]
    assert_same(run, reference)
    assert {entry["epoch"] for entry in last_state(run)[2]["log"]} > {1.0}


@posix
@pytest.mark.parametrize(
    ("overrides", "shared"), [(["lora.lora_dropout=0.0"], []), (["language.train=full"], ["train.fsdp=true"])]
)
def test_two_processes_killed_are_followed_by_one_as_if_nothing_had_happened(start, overrides, shared):
    overrides = ["train.logging_steps=1", *overrides]
    whole, reference = start("whole", "train.gradient_accumulation_steps=2", *overrides)
    two, run = start("two", *overrides)
    assert whole()["codes"] == [0]
    result = two(*shared, ranks=2, kill={"event": "step", "count": 8})
    assert result["codes"][1] == -9 and ("(FSDP)" in result["output"]) == bool(shared), result["output"]
    result = two("--resume", "train.gradient_accumulation_steps=2")
    assert result["codes"] == [0], result["output"]
    logs = [
        {(e["step"], key): e[key] for e in last_state(folder)[2]["log"] for key in ("loss", "eval_loss") if key in e}
        for folder in (run, reference)
    ]
    assert logs[0].keys() == logs[1].keys() and len(logs[0]) == 14
    for key, value in logs[1].items():
        assert logs[0][key] == pytest.approx(value, rel=1e-5), key


def test_a_position_means_nothing_in_other_shards_or_windows_or_none(make_stream):
    config = make_stream("train.save_steps=1", "train.max_steps=1")
    run = config.train.output / "test"
    run.mkdir(parents=True)
    build_loop(config, run).train()
    for overrides, words in (
        (["data.stream_window=5"], "data.stream_window = 5, but checkpoint-1 was trained with 4.*; set it back"),
        (["data.stream=null", "data.stream_validation=null"], "was trained with data.stream; set it as it was"),
    ):
        loop = build_loop(make_stream("train.max_steps=2", *overrides), run)
        with pytest.raises(UserError, match=f"^--resume: .*{words}"):
            loop.train(run / "checkpoint-1")
    (config.data.stream[0].parent / "train-000003.tar").unlink()
    loop = build_loop(make_stream("train.max_steps=2", size=6), run)
    with pytest.raises(UserError, match="the shards .* are not those of the checkpoint"):
        loop.train(run / "checkpoint-1")


def test_processes_that_read_different_things_do_not_save(make_stream, tmp_path, monkeypatch):
    loop = build_loop(make_stream("train.save_steps=1"), tmp_path / "run")
    monkeypatch.setattr(feed, "gather_object", lambda positions: [*positions, Position(7)])
    with pytest.raises(UserError, match="^the processes have read different records"):
        loop.train()


# ---------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.stream=none/*.tar"], 'data.stream = "none/*.tar": no such file; expected shards'),
        (
            ["data.stream=README.md"],
            "data.stream: README.md is not a shard; expected files that end in .tar or .parquet",
        ),
        (["train.max_steps=-1"], "train.max_steps = null: expected a number of steps with data.stream"),
        (
            ["train.eval_strategy=steps", "data.stream_validation=null"],
            "data.stream_validation = null: expected shards",
        ),
        (["data.feature_cache=x"], 'data.feature_cache = "x": expected null with data.stream'),
        (["data.stream=null"], "data.stream_validation: expected null where data.stream is null"),
    ],
)
def test_what_cannot_be_streamed_is_one_line(make_stream, overrides, words):
    with pytest.raises(UserError, match=re.escape(words)):
        open_stream(make_stream(*overrides))


def test_files_that_are_not_read_need_not_be_named(make_stream, tmp_path):
    make_stream()
    text = (tmp_path / "run.yaml").read_text(encoding="utf-8")
    start = text.index("data:")
    shorter = text[:start] + f"data:\n  stream: {tmp_path}/shards/train-*.tar\n" + text[text.index("generate:") :]
    (tmp_path / "short.yaml").write_text(shorter, encoding="utf-8")
    config = load_config(tmp_path / "short.yaml")
    assert config.data.sources == [] and len(open_stream(config).shards) == 4
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    with pytest.raises(UserError, match="data.sources"):
        load_config(tmp_path / "short.yaml", ["data.stream=null"])

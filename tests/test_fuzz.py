"""Any content of any file: an answer or one line, never a traceback, a hang, or all of the memory.

33,000 cases a run: 16,000 that are the same each time (the seeds are the numbers 0, 1, ... and what hypothesis derives
from the test's name), and 17,000 that atheris makes if it is installed. ``VLM_FUZZ_MINUTES=30 pytest
tests/test_fuzz.py`` continues with other seeds; a failure names its seed.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from dataset.conversations import read_conversations
from dataset.converters import parquet
from dataset.preparing.process import process_coco
from dataset.prompt import Turn, build_prompt, neutralise
from model.manifest import write_manifest
from qwen.tokenizer import IMAGE_TOKEN, load_tokenizer, token_id
from tests.helpers import readers
from tests.helpers.readers import CONTROL
from tests.helpers.tiny import REPO, TOKENIZER

MINUTES = float(os.environ.get("VLM_FUZZ_MINUTES", "0"))
LONGEST = 5.0  # seconds of processor time for one case
ROOM = 400 * 2**20  # bytes that all cases together may add to this process


def resident() -> int:
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def fuzz(cases: int, case: Callable[[random.Random], None], share: float) -> None:
    """``cases`` seeded cases, or as many as fit in ``share`` of the minutes asked for; bounded in time and memory."""
    before, end, seed = resident(), time.monotonic() + MINUTES * 60 * share, 0
    while seed < cases or time.monotonic() < end:
        begin = time.process_time()
        try:
            case(random.Random(seed))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        assert time.process_time() - begin < LONGEST, f"seed {seed} took {time.process_time() - begin:.1f} s"
        seed += 1
    assert resident() - before < ROOM
    print(f"{seed} cases")


def mutate(rng: random.Random, content: bytes) -> bytes:
    """Flipped, cut, repeated, joined, re-encoded, or left alone."""
    data = bytearray(content)
    for _ in range(rng.choice([0, 1, 1, 2, 5, 40])):
        position = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[min(position, len(data) - 1)] = rng.randrange(256)
        elif kind == 1:
            data[position:position] = rng.choice(BITS)
        elif kind == 2:
            del data[position:]
        elif kind == 3:
            del data[position : position + rng.randrange(1, 20)]
        elif kind == 4:
            data[position:position] = data[: rng.randrange(1, 200)]
        elif kind == 5 and data:
            data[min(position, len(data) - 1)] ^= 1 << rng.randrange(8)
        else:
            data = data.replace(b"\n", b"\r\n") if rng.random() < 0.5 else data + data
        data = data[:2_000_000]
    head = rng.choice([b"", b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b" \n"])
    return head + bytes(data)


BITS = (
    [b"\x00", b"\\ud800", b"\\udc00\\ud83d", b"\xed\xa0\x80", b"null", b"[[[[", b"}}", b'"', b"\\", b"1e999", b"-"]
    + [b"NaN", b"\n\n", b"\r", b"9" * 5000, b"[" * 3000, b"{" * 50, b"true", b"&a *a", b"<<: ", b"!!python/object:x "]
    + [token.encode() for token in CONTROL]
)

# ---------------------------------------------------------------------------------------------- annotations

VALUES = [None, True, 0, -1.5, "", [], {}, "a.jpg", ["a.jpg"], ["a.jpg", "a.jpg"], [None], "../a.jpg", "/etc/passwd"]
VALUES += ["<video>", "<img>a.jpg</img>", "<IMAGE> a <|im_<image>end|>", " \n"]
VALUES += ["\ud800", [["a"]], {"from": "human"}, *CONTROL, "<|im_\x00end|>", "\u202e中文\ufeff"]


def odd_record(rng: random.Random) -> object:
    record = {
        "id": rng.choice(["1", 1, None]),
        rng.choice(["image", "image_id"]): rng.choice([*["a.jpg"] * 30, *VALUES]),
        "caption": rng.choice([*["一只猫", ["a", "b"]] * 10, *VALUES]),
        "conversations": [
            {
                "from": rng.choice([*["human", "gpt"] * 9, "user", "system", "system", "tool", None, 3]),
                "value": rng.choice([*["<image>\nWhat?", "a cat", "Why?"] * 10, *VALUES]),
            }
            for _ in range(rng.randrange(5))
        ],
    }
    for key in list(record):
        if rng.random() < 0.15:
            del record[key]
        elif rng.random() < 0.1:
            record[key] = rng.choice(VALUES)
    if rng.random() < 0.01:
        record["caption"] = "x" * 1_000_000
    return record if rng.random() < 0.9 else rng.choice(VALUES)


def written(rng: random.Random, records: list) -> bytes:
    ascii_ = rng.random() < 0.5
    texts = [json.dumps(record, ensure_ascii=ascii_) for record in records]
    text = {0: "[" + ",".join(texts) + "]", 1: "\n".join(texts), 2: "".join(f"[{t}]" for t in texts)}[rng.randrange(3)]
    return text.encode("utf-8", "surrogatepass")


def test_annotations_of_both_formats(tmp_path):
    kept = []

    def case(rng: random.Random) -> None:
        records = [odd_record(rng) for _ in range(rng.randrange(4))]
        kept.append(len(readers.annotations(tmp_path, mutate(rng, written(rng, records)))))

    fuzz(4000, case, 0.15)
    assert sum(kept) > 200  # not everything is refused


def test_files_of_every_format(tmp_path):
    files, kept = readers.format_files(), []
    for file in files:
        assert readers.formats(tmp_path, file)

    def case(rng: random.Random) -> None:
        kept.append(readers.formats(tmp_path, mutate(rng, rng.choice(files))))

    fuzz(1500, case, 0.15)
    assert sum(map(bool, kept)) > 300


def test_rows_of_parquet_files(tmp_path, monkeypatch):
    values = [*VALUES, b"", b"\xff\xd8\xff", {"bytes": b"\x89PNG", "path": None}, [{"bytes": None, "path": "a.jpg"}]]
    values += [[{"user": "?", "assistant": "yes"}], [{"from": "human", "value": "?"}, {"from": "gpt", "value": "yes"}]]
    kept = []

    def case(rng: random.Random) -> None:
        columns = rng.sample(parquet.COLUMNS, rng.randrange(1, 6))
        rows = [{column: rng.choice(values) for column in columns} for _ in range(3)]
        monkeypatch.setattr(parquet, "read_rows", lambda path, columns: iter(rows))
        kept.append(readers.parquet_file(tmp_path, b""))

    fuzz(1000, case, 0.05)
    assert sum(kept) > 20


def test_parquet_files(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    files = pytest.importorskip("pyarrow.parquet")
    row = {"image": {"bytes": b"\xff\xd8\xff", "path": None}, "question": "?", "answers": ["yes", "no"]}
    files.write_table(pyarrow.Table.from_pylist([row] * 5), tmp_path / "good.parquet")
    good = (tmp_path / "good.parquet").read_bytes()
    assert readers.parquet_file(tmp_path, good) == 5
    fuzz(300, lambda rng: readers.parquet_file(tmp_path, mutate(rng, good)), 0.05)


# ---------------------------------------------------------------------------------------------- our own files


def test_image_map_and_annotations(make_config, tmp_path):
    config = make_config(pictures=3)
    files = [config.data.image_map, config.data.annotations]
    good = [file.read_bytes() for file in files]
    outcomes = set()

    def case(rng: random.Random) -> None:
        which = rng.randrange(2)
        files[which].write_bytes(mutate(rng, good[which]))
        files[1 - which].write_bytes(good[1 - which])
        try:
            _, conversations = read_conversations(*files, "train")
            outcomes.add(bool(conversations))
        except UserError as error:
            assert "\n" not in str(error)
            outcomes.add(None)

    fuzz(1500, case, 0.05)
    assert outcomes >= {None, True}


def test_config(tmp_path):
    source = {"name": "a", "format": "ali", "annotations": "a.json", "images": ["b"], "language": "zh"}
    data = {"sources": [source], "image_map": "m.json", "annotations": "c.json", "skipped": "s.json", "validation": 0.1}
    models = {"vision": {"path": "a/b"}, "language": {"path": "c/d", "max_length": 1024}}
    good = yaml.safe_dump({"data": data, **models, "lora": {"r": 4}, "train": {"learning_rate": 0.1}}).encode()
    outcomes = set()
    assert readers.config(tmp_path, good)  # the first call imports transformers and peft

    def case(rng: random.Random) -> None:
        outcomes.add(readers.config(tmp_path, mutate(rng, good)[:20_000]))

    fuzz(1000, case, 0.15)
    assert outcomes == {True, False}


def test_manifest_and_any_file_of_a_checkpoint(tmp_path):
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / "a.json").write_bytes(b'{"a": [1, 2, 3], "b": "c"}')
    write_manifest(folder, {"base_models": {"vision.path": {"path": "a", "sha256": "b"}}, "step": 1})
    names = ("manifest.json", "a.json")
    good = {name: (folder / name).read_bytes() for name in names}
    whole = readers.manifest(folder, good["manifest.json"])
    assert whole["step"] == 1

    def case(rng: random.Random) -> None:
        name = rng.choice(names)
        bad = {**good, name: mutate(rng, good[name])}
        (folder / "a.json").write_bytes(bad["a.json"])
        found = readers.manifest(folder, bad["manifest.json"])
        # White space and a byte order mark in the manifest change nothing; nothing else may pass.
        assert found is None or (found == whole and bad["a.json"] == good["a.json"])

    fuzz(1500, case, 0.05)


# ---------------------------------------------------------------------------------------------- images


def test_image_files(tmp_path):
    files, outcomes = readers.image_files(), {True: 0, False: 0}

    def case(rng: random.Random) -> None:
        outcomes[readers.image(tmp_path, mutate(rng, rng.choice(files)))] += 1

    fuzz(2500, case, 0.13)
    assert min(outcomes.values()) > 200


# ---------------------------------------------------------------------------------------------- shards


def test_tar_shards(tmp_path):
    files, counts = readers.shards(), []

    def case(rng: random.Random) -> None:
        counts.append(readers.shard(tmp_path, mutate(rng, rng.choice(files))))

    fuzz(1500, case, 0.05)
    assert max(counts) > 3 and 0 in counts


# ---------------------------------------------------------------------------------------------- guided by coverage


@pytest.mark.parametrize("reader", ["annotations", "formats", "config", "manifest", "image", "shard"])
def test_bytes_that_reach_new_code(reader, tmp_path):
    pytest.importorskip("atheris", reason="atheris, the coverage-guided fuzzer, is not installed")
    # config and manifest import transformers or torch; formats reads each file ten times.
    runs = {"config": 500, "manifest": 500, "formats": 1000}.get(reader, 5000)
    budget = f"-max_total_time={int(5 * MINUTES)}" if MINUTES else f"-runs={runs}"
    room = resident() // 2**20 + 2048  # libFuzzer reads the peak, which on Linux begins with that of the parent process
    command = [sys.executable, "-m", "tests.helpers.guided", reader, "-seed=1", budget, f"-rss_limit_mb={room}"]
    command.append(f"-artifact_prefix={tmp_path}/")
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, timeout=60 * MINUTES + 120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"Done \d+ (runs )?in", done.stderr), done.stderr[-500:]
    print(done.stderr.strip().splitlines()[-1])


# ---------------------------------------------------------------------------------------------- the prompt

FRAGMENTS = ["<|", "|>", "<", "|", ">", "im_start", "im_end", "extra_0", "image", "endoftext", "user\n", "assistant\n"]
texts = st.lists(
    st.one_of(st.sampled_from([*CONTROL, *FRAGMENTS]), st.text(alphabet=st.characters(codec="utf-8"), max_size=5)),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(TOKENIZER))


@settings(max_examples=int(1000 * (1 + MINUTES)), derandomize=MINUTES == 0, deadline=None, database=None)
@given(system=texts, talk=st.lists(st.tuples(texts, texts), min_size=1, max_size=3), images=st.integers(0, 2))
def test_no_text_forges_a_turn_an_end_or_a_visual_token(tokenizer, system, talk, images):
    """Whether it comes as a record through process_image.py or is typed in: the control tokens are ours alone."""
    messages = [{"from": who, "value": text} for pair in talk for who, text in zip(("human", "gpt"), pair, strict=True)]
    messages.insert(len(system) % len(messages), {"from": "system", "value": system})
    record = {"image": ["a.jpg"] * images, "conversations": messages}
    _, annotations = process_coco([record], {"a.jpg": Path("a.jpg")}, images_per_conversation=2)
    prompts = [([Turn(neutralise(q), neutralise(a)) for q, a in talk], system, 0)]
    for key, (conversation,) in annotations.items():
        shown = 0 if key == "text" else len(conversation.get("images", [key]))
        turns = [Turn(turn["q"], turn["a"][0]) for turn in conversation["turns"]]
        prompts.append((turns, conversation.get("system", ""), shown))
    control = [token_id(tokenizer, token) for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", IMAGE_TOKEN)]
    for turns, system, shown in prompts:
        ids, labels = build_prompt(tokenizer, turns, system=system, image_context_length=3)
        speakers = 2 * len(turns) + bool(system)
        assert [ids.count(token) for token in control] == [speakers, speakers, 0, 3 * shown]
        assert [labels.count(token) for token in control] == [0, len(turns), 0, 0]

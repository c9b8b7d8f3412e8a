"""Records of tar and Parquet shards: what they may say, where they are damaged, and what a hostile one may try."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import UserError
from dataset import shards
from dataset.records import RecordError
from dataset.shards import PYARROW, contents, find_shards, parts_of, read_shard, talk_in
from qwen.tokenizer import IMAGE_TOKEN
from tests.helpers.tars import LLAVA, add, only_tar, photo, said
from tests.helpers.tiny import REPO

# ---------------------------------------------------------------------------------------------- files


def test_a_file_that_two_patterns_name_is_read_once(tmp_path):
    for name in ("b.tar", "a.tar"):
        only_tar(tmp_path, [{"png": b"x", "json": said()}]).rename(tmp_path / name)
    found = find_shards([tmp_path / "b.tar", tmp_path / "*.tar"], "data.stream")
    assert found == [tmp_path / "b.tar", tmp_path / "a.tar"]


def test_parquet_without_pyarrow_is_one_line_and_tar_needs_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    tar = only_tar(tmp_path, [{"png": photo(), "json": said()}])
    assert find_shards([tar], "data.stream") == [tar] and len(list(read_shard(tar))) == 1
    with pytest.raises(UserError) as caught:
        find_shards([tmp_path / "a.parquet"], "data.stream")
    expected = f"data.stream: {tmp_path}/a.parquet is Parquet, which is read with pyarrow; pip install {PYARROW}"
    assert str(caught.value) == expected
    assert PYARROW in (REPO / "requirements-dev.txt").read_text(encoding="utf-8").split()


# ---------------------------------------------------------------------------------------------- tar

FIVE = [{"png": bytes([number]), "json": {"caption": str(number)}} for number in range(5)]


def keys_of(path: Path, skip: int = 0) -> list[str]:
    return [row["__key__"] for row in read_shard(path, skip)]


@pytest.mark.parametrize("skip", range(7))
def test_skipped_records_are_counted_and_not_read(tmp_path, monkeypatch, skip):
    path, read = only_tar(tmp_path, FIVE), []
    original = shards._content
    monkeypatch.setattr(shards, "_content", lambda tar, member: read.append(member.name) or original(tar, member))
    assert list(read_shard(path, skip)) == [
        {"__key__": f"{n:04}", "png": bytes([n]), "json": json.dumps({"caption": str(n)}).encode()}
        for n in range(skip, 5)
    ]
    assert len(read) == 2 * max(0, 5 - skip)


@pytest.mark.parametrize("compress", [None, gzip.compress])
def test_what_is_no_regular_file_or_of_no_use_is_passed_over(tmp_path, compress: Callable | None):
    """Links, devices and folders are not followed; a record's key ends at the first dot of the name."""
    path = tmp_path / "s.tar"
    (tmp_path / "secret").write_text('{"caption": "secret"}', encoding="utf-8")
    with tarfile.open(path, "w") as tar:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(f"link{number}.json")
            member.type, member.linkname = kind, str(tmp_path / "secret")
            tar.addfile(member)
        folder = tarfile.TarInfo("in.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in (
            "sub/.hidden.json",
            "__meta.json",
            "no_extension",
            "a/b.c/1.seg.png",
            "a/b.c/1.npy",
            "a/b.c/1.json",
        ):
            add(tar, name, b"7")
    if compress:
        path.write_bytes(compress(path.read_bytes()))
    assert list(read_shard(path)) == [{"__key__": "a/b.c/1", "seg.png": b"7", "json": b"7"}]


def test_a_large_or_sparse_member_costs_its_record_and_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LARGEST_MEMBER", 5000)
    path = tmp_path / "s.tar"
    sparse, small = ({"GNU.sparse.map": "0,1", "GNU.sparse.size": str(size)} for size in (2**40, 4000))
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for key, png, text, headers in (
            ("1", b"x" * 5001, said(), {}),
            ("2", b"x" * 5000, said(), {}),
            ("3", b"x", said(), sparse),
            ("4", b"x", b" " * 6000, {}),
            ("5", b"x", said(), {}),
            ("6", b"x", said(), small),
        ):
            member = tarfile.TarInfo(f"{key}.png")
            member.size, member.pax_headers = len(png), headers
            tar.addfile(member, io.BytesIO(png))
            add(tar, f"{key}.json", text)
    rows = list(read_shard(path))
    reasons = {}
    for row in rows:
        try:
            contents(row)
        except RecordError as error:
            reasons[row["__key__"]] = str(error)
    assert [row["__key__"] for row in rows] == list("123456")
    image = "an image is not in the shard, or empty, sparse, or larger than 5,000 bytes"
    assert reasons == {"1": image, "3": image, "4": "its text is sparse or larger than 5,000 bytes", "6": image}


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [2**31, -1024])
def test_a_header_of_gigabytes_takes_no_memory(tmp_path, kind, size):
    path = only_tar(tmp_path, FIVE[:2])
    begin = path.read_bytes().rstrip(b"\0")
    begin += bytes(-len(begin) % 512)
    path.write_bytes(begin + header("x", size, kind))
    os.truncate(path, 2**32)
    rows = read_shard(path)
    tracemalloc.start()
    assert [next(rows)["__key__"] for _ in range(1)] == ["0000"]
    with pytest.raises(tarfile.ReadError, match="a header of"):
        list(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 2**20


@pytest.mark.parametrize("size", [-5120, -512 * 10**6, -2560, -512, -100, 2**62, 2**70])
@pytest.mark.parametrize("name", ["0001.png", "0001.npy"])  # one whose content is read, one that is passed over
def test_an_impossible_size_ends_the_shard_and_not_in_a_circle(tmp_path, name, size):
    path = only_tar(tmp_path, FIVE[:1])
    content = path.read_bytes().rstrip(b"\0")
    content += bytes(-len(content) % 512)
    path.write_bytes(content + header(name, size) + content + bytes(1024))
    rows = read_shard(path)
    with pytest.raises((tarfile.ReadError, ValueError)):
        for _ in range(10):
            next(rows)


def test_damage_in_the_middle_is_not_taken_for_the_end(tmp_path):
    path = only_tar(tmp_path, FIVE)
    with tarfile.open(path) as tar:
        offset = tar.getmember("0002.json").offset
    content = bytearray(path.read_bytes())
    content[offset + 10] ^= 0xFF
    path.write_bytes(content)
    rows = read_shard(path)
    assert [next(rows)["__key__"] for _ in range(2)] == ["0000", "0001"]
    with pytest.raises(tarfile.ReadError, match="a damaged header"):
        list(rows)


def test_a_shard_cut_between_two_members_is_noticed(tmp_path):
    path = only_tar(tmp_path, FIVE)
    with tarfile.open(path) as tar:
        offset = tar.getmember("0003.png").offset
    path.write_bytes(path.read_bytes()[:offset])
    rows = read_shard(path)
    assert [next(rows)["__key__"] for _ in range(2)] == ["0000", "0001"]
    with pytest.raises(tarfile.ReadError, match="the end of the archive is missing"):
        list(rows)


def test_two_members_of_one_name_are_damage(tmp_path):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("1.json", "2.json", "2.json"):
            add(tar, name, b"7")
    rows = read_shard(path)
    assert next(rows)["__key__"] == "1"
    with pytest.raises(ValueError, match="2.json is there twice"):
        next(rows)


# ---------------------------------------------------------------------------------------------- Parquet


def write_parquet(path: Path, rows: list[dict], **options) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.Table.from_pylist(rows) if rows else pyarrow.table({"caption": pyarrow.array([], pyarrow.string())})
    parquet.write_table(table, path, **options)
    return path


@pytest.mark.parametrize("skip", [0, 1, 2, 3, 5, 69, 70, 71, 149, 150, 151])
def test_rows_are_skipped_across_row_groups_and_batches(tmp_path, skip):
    path = write_parquet(tmp_path / "s.parquet", [{"caption": str(n)} for n in range(150)], row_group_size=70)
    assert [row["caption"] for row in read_shard(path, skip)] == [str(n) for n in range(skip, 150)]


def test_columns_that_are_of_no_use_are_not_read(tmp_path):
    rows = [{"images": [{"bytes": b"x", "path": None}, {"bytes": b"y", "path": "p"}], "conversations": "[]", "n": 3}]
    (row,) = read_shard(write_parquet(tmp_path / "s.parquet", rows))
    assert "n" not in row and contents(row)[0] == [b"x", b"y"] and contents(row)[1]["conversations"] == []
    with pytest.raises(ValueError, match="none of the columns caption, conversations, image"):
        list(read_shard(write_parquet(tmp_path / "n.parquet", [{"n": 3}])))


def test_a_large_image_in_parquet_costs_its_record(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LARGEST_MEMBER", 1000)
    rows = [{"image": b"x" * size, "caption": "c"} for size in (1001, 1000)]
    large, small = read_shard(write_parquet(tmp_path / "s.parquet", rows))
    with pytest.raises(RecordError, match="larger than 1,000 bytes"):
        contents(large)
    assert contents(small)[0] == [b"x" * 1000]


def test_a_file_without_rows_has_none_and_a_cut_one_is_damage(tmp_path):
    assert list(read_shard(write_parquet(tmp_path / "e.parquet", []))) == []
    path = write_parquet(tmp_path / "s.parquet", [{"caption": "x"}])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError):
        list(read_shard(path))


# ---------------------------------------------------------------------------------------------- records

TURNS = [{"q": f"{IMAGE_TOKEN}\nWhat?", "a": ["A cat."]}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"id": 7, "conversations": LLAVA}, [TURNS]),
        ([{"conversations": LLAVA}, {"conversations": LLAVA}], [TURNS, TURNS]),
        (LLAVA, [TURNS]),
        ({"conversations": LLAVA, "caption": "not this"}, [TURNS]),
        ({"turns": [{"q": f"{IMAGE_TOKEN} x\ud800", "a": ["y"]}]}, [[{"q": f"{IMAGE_TOKEN} x\ufffd", "a": ["y"]}]]),
        (said("a") + said("b"), [[{"q": "a", "a": ["red"]}], [{"q": "b", "a": ["red"]}]]),
        ({"conversations": said("a")}, [[{"q": "a", "a": ["red"]}]]),
    ],
)
def test_what_a_record_may_say(given, expected):
    assert [talk_in(part, 1, "0", False).turns for part in parts_of(given)] == expected


def test_a_system_text_of_its_own_is_kept():
    ours = {"turns": [{"q": "a", "a": ["b"]}], "system": "Be\ud800 brief."}
    llava = {"conversations": [{"from": "system", "value": "Be\ud800 brief."}, *LLAVA]}
    for part in (ours, llava):
        talk = talk_in(part, 1, "0", False)
        assert talk.system == "Be\ufffd brief." and talk.images == 1 and len(talk.turns) == 1
    with pytest.raises(RecordError, match="not what process_image.py writes"):
        talk_in({**ours, "system": 5}, 1, "0", False)


@pytest.mark.parametrize("row", [{"json": b'{"caption": ["one <image>", "two"]}'}, {"txt": b"one <image>"}])
def test_a_caption_gets_a_question(row):
    images, text = contents({"jpg": b"x", **row, "__key__": "7", "__url__": "a.tar"})
    (turns,) = (talk_in(part, 1, "1", True).turns for part in parts_of(text))
    assert images == [b"x"] and turns[0]["q"] in (f"{IMAGE_TOKEN}\n请描述这张图片。", f"{IMAGE_TOKEN}\n图中有什么？")
    assert turns[0]["a"][0] == "one"


@pytest.mark.parametrize("part", [7, {"turns": 3}, {"turns": [{"q": "x"}]}, {"turns": [{"q": "x", "a": "y"}]}, {}])
def test_what_is_no_conversation_is_refused(part):
    with pytest.raises(RecordError):
        talk_in(part, 1, "0", False)


def test_a_system_column_of_parquet_and_messages_by_role_are_read(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    turns = [{"q": "What?", "a": ["red"]}]
    table = pyarrow.Table.from_pylist([{"turns": turns, "system": "Be brief."}])
    parquet.write_table(table, tmp_path / "s.parquet")
    (row,) = read_shard(tmp_path / "s.parquet")
    assert talk_in(contents(row)[1], 0, "0", False).system == "Be brief."
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "red"}]
    assert [talk_in(part, 0, "0", False).turns for part in parts_of(messages)] == [turns]

"""Parquet files and folders of datasets: the pictures are written once, the texts read in each layout."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from common.errors import UserError
from dataset.converters.arrow_reader import split_in
from dataset.converters.base import Example

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet_files = pytest.importorskip("pyarrow.parquet")

PNG, JPG = b"\x89PNG\r\n\x1a\n one", b"\xff\xd8\xff two"


def name(content: bytes, ending: str) -> str:
    digest = hashlib.sha256(content).hexdigest()[:40]
    return f"{digest[:2]}/{digest}.{ending}"


def parquet(path: Path, rows: list[dict], **options) -> Path:
    parquet_files.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def picture(content: bytes | None = PNG, path: str | None = None) -> dict:
    return {"bytes": content, "path": path}


def test_the_cauldrons_layout(files, tmp_path):
    turns = [{"user": "What?", "assistant": "A dog.", "source": "x"}, {"user": "Where?", "assistant": "Here."}]
    path = parquet(tmp_path / "a.parquet", [{"images": [picture(), picture(JPG)], "texts": turns}])
    assert files.looks_like(path) == "parquet"
    said = [("human", "What?"), ("gpt", "A dog."), ("human", "Where?"), ("gpt", "Here.")]
    folder = tmp_path / "pictures"
    names = [name(PNG, "png"), name(JPG, "jpg")]
    assert files.read("parquet", path, pictures=folder) == [Example(names, said)]
    assert [(folder / n).read_bytes() for n in names] == [PNG, JPG]


def test_llava_onevisions_layout_and_text_alone(files, tmp_path):
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    rows = [
        {"id": "1", "image": picture(), "conversations": said, "data_source": "x"},
        {"id": "2", "image": None, "conversations": said[:1], "data_source": "x"},
    ]
    first, second = files.read("parquet", parquet(tmp_path / "a.parquet", rows))
    assert first == Example([name(PNG, "png")], [("human", "<image>\nWhat?"), ("gpt", "A dog.")])
    assert second.images == []


def test_questions_and_captions_and_columns_of_other_names(files, tmp_path):
    answers = [{"answer": "net", "answer_id": 1}, {"answer": "mesh", "answer_id": 2}]
    row = {"image": picture(), "question": "What?", "answers": answers, "question_type": "what", "split": "val"}
    (example,) = files.read("parquet", parquet(tmp_path / "a.parquet", [row]))
    assert example.messages == [("human", "What?"), ("gpt", ["net", "mesh"])]
    assert (example.type, example.split) == ("what", "validation")
    rows = [{"bild": PNG, "beschreibung": ["一只猫"], "other": 1}]
    path, columns = parquet(tmp_path / "b.parquet", rows), {"image": "bild", "caption": "beschreibung"}
    (example,) = files.read("parquet", path, columns=columns)
    assert (example.images, example.captions) == ([name(PNG, "png")], ["一只猫"])


def test_a_folder_that_datasets_saved(files, tmp_path):
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True)
    table = pyarrow.Table.from_pylist([{"image": picture(), "caption": f"{n}"} for n in range(150)])
    with pyarrow.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (folder / "cache-1.arrow").write_bytes(b"left by an old call")
    assert files.looks_like(tmp_path / "set") == "parquet"
    found = files.read("parquet", tmp_path / "set", pictures=tmp_path / "pictures")
    assert [e.captions for e in found] == [[str(n)] for n in range(150)]
    assert {e.split for e in found} == {"train"}
    assert len([p for p in (tmp_path / "pictures").rglob("*") if p.is_file()]) == 1


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train-00000-of-00008.parquet", "train"),
        ("data/validation_0.parquet", "validation"),
        ("test/data-00000-of-00001.arrow", "test"),
        ("train/test-0.parquet", "test"),
        ("data-00000-of-00001.arrow", None),
        ("trainstation.parquet", None),
    ],
)
def test_a_file_may_be_named_after_its_split(path, split):
    assert split_in(Path(path)) == split


def test_a_picture_is_written_once_and_again_where_a_crash_left_half(files, tmp_path):
    path, folder = parquet(tmp_path / "a.parquet", [{"image": PNG, "caption": "a"}]), tmp_path / "pictures"
    files.read("parquet", path, pictures=folder)
    (file,) = [p for p in folder.rglob("*") if p.is_file()]
    before = file.stat().st_mtime_ns
    files.read("parquet", path, pictures=folder)
    assert file.stat().st_mtime_ns == before
    file.write_bytes(b"half")
    files.read("parquet", path, pictures=folder)
    assert file.read_bytes() == PNG and [p for p in folder.rglob("*") if p.is_file()] == [file]


def test_rows_that_cannot_be_used_have_their_reason(files, tmp_path):
    rows = [
        {"images": [picture(None)], "texts": [{"user": "?", "assistant": "a"}]},
        {"images": [picture(None, "beside.jpg")], "texts": [{"user": "?", "assistant": "a"}]},
        {"images": [picture()], "texts": [{"user": "?", "assistant": None}]},
        {"images": [picture()], "texts": None},
    ]
    first, second, third, fourth = files.read("parquet", parquet(tmp_path / "a.parquet", rows))
    assert first == "picture 0 has neither bytes nor a path"
    assert second.images == ["beside.jpg"]
    assert third.messages[1] == ("gpt", None)
    assert fourth == "has no texts, conversations, messages, question or caption"


def test_damage_and_empty_folders_are_one_line(files, tmp_path):
    good = parquet(tmp_path / "a.parquet", [{"image": PNG, "caption": "a"}]).read_bytes()
    for content in (b"", b"PAR1", good[: len(good) // 2], good[:50] + b"\0" * 8 + good[58:-8] + b"\xff" * 8):
        with pytest.raises(UserError, match="damaged, or not written by pyarrow"):
            files.read("parquet", files.write("b.parquet", content))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="a folder without .parquet or .arrow files"):
        files.looks_like(tmp_path / "empty")

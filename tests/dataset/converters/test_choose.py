"""The format of a source: named, found by looking, or refused with what to do."""

from __future__ import annotations

import json

import pytest

from common.errors import UserError
from dataset.converters import FORMATS
from dataset.converters.choose import choose
from settings import Source
from tests.helpers.workplace import llava


def source(folder, form="auto", files=("a.json",), **more) -> Source:
    paths = [str(folder / file) for file in files]
    return Source(name="x", format=form, annotations=paths, images=str(folder / "images"), **more)


def refused(given: Source) -> str:
    with pytest.raises(UserError) as caught:
        choose(given, "data.sources.0")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_taken_for_what_it_looks_like(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([llava("a.jpg", "?", "yes")]))
    choice = choose(source(tmp_path), "data.sources.0")
    assert (choice.name, choice.form) == ("llava", FORMATS["llava"])
    assert choice.sign == "its first record has messages under conversations"
    (tmp_path / "a.json").write_text(json.dumps([{"image_id": "a.jpg", "caption": "一"}]))
    assert choose(source(tmp_path), "data.sources.0").name == "ali"
    assert choose(source(tmp_path, "llava"), "data.sources.0")[:3] == ("llava", FORMATS["llava"], None)


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path):
    text = refused(source(tmp_path, "lava"))
    assert text.startswith('data.sources.0.format = "lava": expected one of auto, parquet, vqa,')
    assert text.endswith("; nearest: llava")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"picture": "a.jpg", "words": "b"}]', "its first record has picture, words"),
        ("[]", "its first record has nothing with a name"),
        ("just text\n", "its first record has just text"),
        ("", "its first record has nothing with a name"),
        ("[5]", "its first record has nothing with a name"),
        ('{"a" 1}', "not valid JSON at line 1"),
    ],
)
def test_a_file_that_looks_like_nothing_known_is_refused_with_what_it_has(tmp_path, content, expected):
    (tmp_path / "a.json").write_text(content)
    assert expected in refused(source(tmp_path))


def test_a_spreadsheet_itself_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK\3\4")
    assert "a spreadsheet, which is not read; save it as CSV UTF-8" in refused(source(tmp_path, files=["a.xlsx"]))


def test_files_of_two_formats_are_two_sources(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([llava("a.jpg", "?", "yes")]))
    (tmp_path / "b.csv").write_text("image,question,answer\n")
    assert "some files look like llava, others like table" in refused(source(tmp_path, files=["a.json", "b.csv"]))


def test_keys_that_do_not_fit_the_format_are_refused(tmp_path):
    assert "data.sources.0.questions: expected the questions file" in refused(source(tmp_path, "vqa"))
    two = source(tmp_path, "vqa", ["a.json", "b.json"], questions=str(tmp_path / "q.json"))
    assert "data.sources.0.questions: expected 2 files of questions" in refused(two)
    text = refused(source(tmp_path, "llava", questions=str(tmp_path / "q.json")))
    assert "data.sources.0.questions: expected null, format llava has its questions in annotations" in text
    assert "columns.image: expected none: format llava" in refused(source(tmp_path, "llava", columns={"image": "x"}))
    assert "columns.picture: expected one of image, question" in refused(
        source(tmp_path, "table", columns={"picture": "x"})
    )

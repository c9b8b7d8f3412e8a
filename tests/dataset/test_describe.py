"""What a file would be read as: the report, the block for a config, and that the block works."""

from __future__ import annotations

import json

import yaml

from dataset.describe import main
from tests.helpers.workplace import Workplace, llava, picture


def test_a_table_beside_its_pictures(tmp_path, capsys):
    rows = ["Datei;Frage;answer;type", "a.png;Wie viele?;zwei;count", "b.png;;rot;", "gone.png;Was?;你好;"]
    (tmp_path / "fotos.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    picture(tmp_path / "bilder" / "a.png")
    file = str(tmp_path / "fotos.csv")
    assert main([file, "--columns", "image=Datei", "question=Frage"]) == 0
    text = capsys.readouterr().out
    assert "format    table: a table, because its first row names columns (Datei, Frage, answer, type)" in text
    assert "records   3; 2 can be used, 1 cannot" in text
    assert "fields    image, answer, question (2), type (1)" in text
    assert "2 conversations have pictures, 0 have none; 2 different pictures" in text
    assert "2 reference answers; Chinese in 1 records" in text and "types     count (1)" in text
    assert f"folder    1 of the pictures are in {(tmp_path / 'bilder').as_posix()}" in text
    assert "sample 1  a.png\n  question  <image> Wie viele?\n  answer    zwei" in text
    assert "1 x fotos.csv, record 1: record left out: row 3: question is empty" in text
    assert "missing pictures: 1, such as gone.png" in text
    assert {path.name for path in tmp_path.iterdir()} == {"bilder", "fotos.csv"}  # it writes nothing


def test_the_block_that_it_prints_is_a_source_that_works(tmp_path, capsys):
    workplace = Workplace(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps([llava("a.png", "<image>?", "yes")]))
    picture(tmp_path / "photos" / "a.png")
    assert main([str(tmp_path / "a.json")]) == 0
    text = capsys.readouterr().out
    assert "problems  none" in text
    workplace.sources = yaml.safe_load(text[text.index("data:") :])["data"]["sources"]
    assert workplace.run() == 0
    assert workplace.read("annotations")["0"][0]["turns"] == [{"q": "<|extra_0|>?", "a": ["yes"]}]


def test_addresses_are_counted_and_written_for_a_download(tmp_path, capsys):
    names = ["https://example.org/p/a%20b.png", "http://example.org/c.png?size=1", "d.png"]
    (tmp_path / "a.json").write_text(json.dumps([llava(name, "<image>?", "yes") for name in names]))
    picture(tmp_path / "photos" / "d.png")
    file = tmp_path / "urls.txt"
    assert main([str(tmp_path / "a.json"), "--addresses", str(file)]) == 0
    assert file.read_text().splitlines() == names[:2]
    text = capsys.readouterr().out
    assert "2 pictures are addresses, which are not read" in text and "wrote 2 addresses" in text


def test_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("picture,words\n")
    (tmp_path / "b.json").write_text('{"annotations": [{"question_id": 1, "answers": []}]}')
    given = [["none.json"], ["a.csv"], ["a.csv", "--format", "tabel"], ["b.json"], ["a.csv", "--columns", "x=y"]]
    for name, *more in given:
        assert main([str(tmp_path / name), *more]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(given) and all(line.startswith("error: ") for line in lines)
    for line, expected in zip(
        lines,
        ["none.json: cannot be read", 'no column "image"', "nearest: table", "questions: expected", "columns.x"],
        strict=True,
    ):
        assert expected in line

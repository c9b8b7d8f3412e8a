"""The command: its help, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from process_image import main
from tests.helpers.workplace import Workplace, llava, picture


def test_errors_of_the_config_and_of_paths_are_one_line(tmp_path, capsys):
    workplace = Workplace(tmp_path)
    assert main(["--config", str(workplace.folder / "none.yaml")]) == 2
    workplace.source("en", "coco", [llava("a.png", "q", "a")])
    (workplace.folder / "en.json").unlink()
    assert workplace.run() == 2
    (workplace.folder / "en.json").write_text("[{]", encoding="utf-8")
    assert workplace.run() == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") for line in lines)
    assert "data.sources.0.annotations" in lines[1] and "line 1, column 3" in lines[2]


def test_help_teaches_with_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "python process_image.py --config config.yaml" in text and "image_id" in text and "<image>" in text


def test_a_table_and_vqa_files_and_a_parquet_file_in_one_config(tmp_path):
    """Each format from its file to conversations, its kind of question and its reference answers kept."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    workplace, folder = Workplace(tmp_path), tmp_path
    photo = picture(folder / "photos" / "a.png")
    picture(folder / "photos" / "COCO_train2014_000000000009.jpg", "blue")
    (folder / "table.csv").write_bytes(
        "image;question;answer;type\r\na.png;How many?;two;count\r\n".encode("utf-8-sig")
    )
    (folder / "asked.json").write_text('{"questions": [{"image_id": 9, "question": "What?", "question_id": 1}]}')
    answers = [{"answer": text} for text in ["net"] * 9 + ["mesh"]]
    annotation = {"question_id": 1, "image_id": 9, "question_type": "what", "answers": answers}
    (folder / "said.json").write_text(json.dumps({"annotations": [annotation]}))
    row = {"images": [{"bytes": photo.read_bytes(), "path": None}], "texts": [{"user": "Red?", "assistant": "Yes."}]}
    parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "a.parquet")
    common = {"images": str(folder / "photos"), "format": "auto"}
    workplace.sources = [
        {"name": "table", "annotations": str(folder / "table.csv"), **common},
        {"name": "vqa", "annotations": str(folder / "said.json"), "questions": str(folder / "asked.json"), **common},
        {"name": "inside", "annotations": str(folder / "a.parquet"), "images": str(folder / "written")},
    ]
    assert workplace.run() == 0
    found = {c["source"]: c for group in workplace.read("annotations").values() for c in group}
    assert found["table"]["turns"] == [{"q": "<|extra_0|>\nHow many?", "a": ["two"]}]
    assert (found["table"]["type"], found["vqa"]["type"]) == ("count", "what")
    assert found["vqa"]["turns"] == [{"q": "<|extra_0|>\nWhat?", "a": ["net"] * 9 + ["mesh"]}]
    assert found["inside"]["turns"] == [{"q": "<|extra_0|>\nRed?", "a": ["Yes."]}]
    paths = [Path(entry["path"]) for entry in workplace.read("image_map").values()]
    assert [path.parent.parent.name for path in paths[2:]] == ["written"]
    assert paths[2].read_bytes() == photo.read_bytes()
    assert workplace.skipped() == []

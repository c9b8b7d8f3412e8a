"""Example pictures and questions of a checkpoint's own kind."""

from __future__ import annotations

import json

import pytest

import answering.examples
from answering.examples import Example, examples_of
from tests.helpers.tiny import REPO

DEMO = "language: {path: demo/backbones/qwen}"


def conversation(question: str, language: str = "en", split: str = "test") -> dict:
    turns = [{"q": f"<|extra_0|>\n{question}", "a": ["yes"]}, {"q": "And later?", "a": ["no"]}]
    return {"source": "test", "language": language, "split": split, "turns": turns}


@pytest.fixture
def write(checkpoint, tmp_path):
    """A function that replaces the conversations of the run that the checkpoint is of."""
    return lambda content: (tmp_path / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


def test_the_examples_are_what_the_run_was_not_trained_on_in_the_language(checkpoint, tmp_path, write):
    asked = [conversation(q) for q in ("Is it?", "Is it?", "<box>(1,2),(3,4)</box> What?", "A?", "B?", "C?")]
    write(
        {
            "0": [conversation("Trained on?", split="train")],
            "1": [*asked, conversation("是吗？", "zh")],
            "2": [conversation("Is it?", split="validation")],
            "text": [conversation("Without a picture?")],
        }
    )
    first, second = str(tmp_path / "1.png"), str(tmp_path / "2.png")
    wanted = [Example(first, ["Is it?", "A?", "B?"]), Example(second, ["Is it?"])]
    for path in (checkpoint, checkpoint.parent):
        assert examples_of(path, "en") == (wanted, ["Is it?"])  # asked about two pictures
    assert examples_of(checkpoint, "zh").pictures[0] == Example(first, ["是吗？"])
    (tmp_path / "1.png").unlink()
    assert examples_of(checkpoint, "en").pictures == wanted[1:]


def test_files_that_are_not_there_or_too_large_or_damaged_give_no_examples(checkpoint, tmp_path, write, monkeypatch):
    write({"1": [conversation("Is it?")]})
    assert examples_of(checkpoint, "en").pictures
    monkeypatch.setattr(answering.examples, "LARGEST", 20)
    assert examples_of(checkpoint, "en") == ([], [])
    monkeypatch.undo()
    for content in ("{", '{"1": [3]}', "[]"):
        (tmp_path / "annotations.json").write_text(content, encoding="utf-8")
        assert examples_of(checkpoint, "en") == ([], [])
    assert examples_of(tmp_path / "nowhere", "en") == ([], [])


def test_the_demos_examples_come_with_the_repository_in_both_languages(tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    (tmp_path / "config.yaml").write_text(DEMO, encoding="utf-8")
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    english, chinese = examples_of(tmp_path, "en"), examples_of(tmp_path, "zh")
    assert len(english.pictures) == 4 and english.pictures[0].questions[0] == "What shape is the black object?"
    assert chinese.pictures[0] == (
        english.pictures[0].picture,
        ["黑色的图形是什么形状？", "图中有几个圆形？", "正方形在哪里？"],
    )
    assert english.questions[0] == "Describe the picture." and chinese.questions[0] == "请描述这张图片。"

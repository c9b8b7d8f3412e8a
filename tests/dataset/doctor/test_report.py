"""The report: one line on clean data, numbers and advice for each fault, nothing changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from common.errors import UserError
from dataset.doctor.report import CHECKS, check_data
from demo.scenes import write_raw
from process_image import main
from tests.helpers.tiny import REPO


def test_clean_data_are_one_line(fair, capsys):
    assert check_data(fair.config()) == 0
    captured = capsys.readouterr()
    assert captured.out == (
        f"{(fair.folder / 'annotations.json').as_posix()}: 24 pictures, 72 conversations (train 60, validation 12); "
        f"{len(CHECKS)} checks, no findings\n"
    )
    assert captured.err == ""


def test_the_demos_data_are_clean(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_raw(tmp_path / "data" / "demo" / "raw", 40, 8, 8, progress=False)
    config = (
        (REPO / "demo.yaml").read_text(encoding="utf-8").replace("demo/backbones", f"{REPO.as_posix()}/demo/backbones")
    )
    (tmp_path / "demo.yaml").write_text(config, encoding="utf-8")
    options = ["--config", "demo.yaml", "data.progress=false", "data.workers=1"]
    assert main(options) == 0
    capsys.readouterr()
    assert main([*options, "--check"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("data/demo/annotations.json: 56 pictures, 336 conversations (train 240, ")
    assert line.endswith(f"; {len(CHECKS)} checks, no findings")


def test_labels_of_another_set(planted, capsys):
    """Questions of VQA with answers cut out of captions: the loss falls, and the model says "the" to everything."""
    for i in range(60):
        for question in ("Is there a dog?", "What color is the car?", "How many people are there?"):
            planted.ask(f"{i}.png", question, "the")
    assert check_data(planted.config()) == 4
    lines = capsys.readouterr().out.splitlines()
    found = [line.partition(": ") for line in lines if line[:1].isdigit()]
    assert [name for name, _, _ in found] == [
        "1. answers that do not fit",
        "2. empty words",
        "3. dominating answer",
        "4. answered without the picture",
    ]
    assert found[0][2].startswith("source set: 120 of 180 yes/no, count and colour questions (66.7 %)")
    assert found[1][2] == '180 of 180 answers (100.0 %) are one word that says nothing, such as "the"'
    assert sum(line.startswith("   to do: ") for line in lines) == 4
    assert lines.count("   such as: " + f'{planted.folder.as_posix()}/images/0.png: "Is there a dog?" "the"') == 2


def test_examples_are_few_and_their_number_is_told(fair, capsys):
    for i in range(5):
        (fair.folder / "images" / f"{i}.png").unlink()
    assert check_data(fair.config()) == 1
    text = capsys.readouterr().out
    assert text.count("   such as: ") == 3 and "   and 2 more\n" in text


def test_a_check_that_cannot_be_made_is_named_and_the_others_are_made(fair, capsys):
    fair.ask("0.png", "Describe the picture.", "a small red circle at the top left and " * 70)
    (fair.folder / "empty").mkdir()
    (fair.folder / "empty" / "config.json").write_text("{}", encoding="utf-8")
    assert check_data(fair.config(f"language.path={fair.folder / 'empty'}")) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.endswith(f"; {len(CHECKS) - 1} checks, no findings")
    assert last.startswith("not checked: too long (language.path: no readable tokenizer")


def test_text_from_outside_cannot_control_the_terminal(fair, capsys):
    fair.ask("0.png", "What is\x1b[2J\r\nthere?", "red")
    fair.ask("0.png", "What is\x1b[2J\r\nthere?", "blue\x07")
    check_data(fair.config())
    assert '"What is [2J there?" "red" or "blue"' in capsys.readouterr().out


def test_no_conversations_and_no_pictures_are_no_findings(planted, capsys):
    assert check_data(planted.config()) == 0
    assert "0 pictures, 0 conversations (none); " in capsys.readouterr().out


def test_missing_or_damaged_files_are_one_line(fair):
    config = fair.config()
    config.data.annotations.write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="run it again"):
        check_data(config)
    config.data.annotations.unlink()
    with pytest.raises(UserError, match="data.annotations"):
        check_data(config)


def test_the_command_changes_nothing_and_its_status_tells(fair, capsys):
    fair.config()
    options = ["--config", str(fair.folder / "config.yaml"), "--check"]
    before = {path: path.read_bytes() for path in fair.folder.rglob("*") if path.is_file()}
    assert main(options) == 0
    assert {path: path.read_bytes() for path in fair.folder.rglob("*") if path.is_file()} == before
    shutil.copy(fair.folder / "images" / "0.png", fair.folder / "images" / "1.png")
    assert main(options) == 1
    text = capsys.readouterr().out
    assert "checks, 1 finding\n" in text and "1. copies: 1 of 24 pictures" in text
    fair.folder.joinpath("image_map.json").unlink()
    assert main(options) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_progress_bar_where_it_is_wanted(fair, capsys):
    check_data(fair.config("data.progress=true"))
    assert "reading pictures: 100%" in capsys.readouterr().err


def test_a_console_without_chinese_and_no_torch_for_conversations_that_fit_for_certain(fair):
    fair.ask("0.png", "图中有几个标志？", "两个", language="zh")
    fair.ask("0.png", "图中有几个标志？", "三个", language="zh")
    fair.config()
    code = "import sys, process_image; process_image.main(sys.argv[1:]); print(*sys.modules)"
    command = [sys.executable, "-c", code, "--config", str(fair.folder / "config.yaml"), "--check"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=True)
    assert '"????????" "??" or "??" (0/3, 0/4)' in done.stdout
    assert not {"torch", "transformers"} & set(done.stdout.split())

"""Images checked on several machines."""

from __future__ import annotations

import shlex
import sys

import pytest

from process_image import main


def test_shards_and_a_merge_give_the_bytes_of_a_single_run(mixed, capsys):
    assert mixed.run() == 0
    table, whole = capsys.readouterr().out, mixed.bytes()
    for file in (mixed.folder / "out").iterdir():
        file.unlink()
    for number in (3, 1, 2):
        assert mixed.run("--shard", f"{number}/3") == 0
    assert "shard 3 of 3: 3 of 11 images checked" in capsys.readouterr().out and len(mixed.bytes()) == 3
    assert mixed.run("--merge", "3") == 0
    assert (
        mixed.bytes() == whole and capsys.readouterr().out == table and b"cannot be decoded" in b"".join(whole.values())
    )


def test_the_suggested_commands_repeat_what_was_typed(mixed, capsys, monkeypatch):
    typed = ["--config", str(mixed.config()), "data.test=0.1", "data.sources.0.name=two words"]

    def run(command: list[str]) -> int:
        monkeypatch.setattr(sys, "argv", command[1:])
        return main()

    assert run(["python", "process_image.py", "--shard", "1/2", *typed]) == 0
    merge = shlex.split(capsys.readouterr().out.splitlines()[-1].partition("when all 2 are there: ")[2])
    assert merge == ["python", "process_image.py", *typed, "--merge", "2"]
    assert run(merge) == 2  # the second shard is missing
    second = shlex.split(capsys.readouterr().err.partition("run: ")[2])
    assert second == ["python", "process_image.py", *typed, "--shard", "2/2"]
    assert run(second) == 0 and run(merge) == 0
    assert mixed.read("annotations")["0"][0]["source"] == "two words"


def test_a_merge_needs_every_shard_and_the_same_data(mixed, capsys):
    assert mixed.run("--shard", "1/2") == 0 and mixed.run("--merge", "2") == 2
    assert "--shard 2/2" in capsys.readouterr().err
    assert mixed.run("--shard", "2/2") == 0
    (mixed.folder / "en" / "8.png").unlink()
    assert mixed.run("--merge", "2") == 2
    assert "made from other annotations, images or data.max_pixels" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        mixed.run("--shard", "3/2")
    assert "'3/2': expected I/N" in capsys.readouterr().err

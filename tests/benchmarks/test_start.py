"""The benchmark of the commands' start measures the command that it names, and sees what it imports."""

from __future__ import annotations

import json
import sys

from benchmarks import start


def test_it_prints_a_row_for_each_case_and_writes_its_numbers(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(start, "CASES", {"test_gui.py": {"unknown option": ["--no-such-option"]}})
    monkeypatch.setattr(sys, "argv", ["start", "--repeats", "1", "--output", str(tmp_path / "start.json")])
    start.main()
    rows = json.loads((tmp_path / "start.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["case"], row["goal"], row["status"]) for row in rows] == [
        ("--help", 500, 0),
        ("unknown option", 1000, 2),
    ]
    assert all(row["milliseconds"] > 0 and row["command"] == "test_gui.py" for row in rows)
    assert capsys.readouterr().out.count("test_gui.py") == 2


def test_it_sees_what_a_command_imports():
    run = start.start("test_gui.py", ["--help"], ("argparse", "torch"))
    assert run.imported == ["argparse"] and "usage: test_gui.py" in run.stdout
    assert start.start("-m dataset.write_shards", ["--help"], ("pydantic", "torch")).imported == ["pydantic"]

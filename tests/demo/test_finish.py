"""The last step of ``make demo``."""

from __future__ import annotations

import json
import subprocess
import sys

from demo import finish


def test_it_prints_the_score_its_baselines_one_answer_and_how_to_open_the_window(tmp_path, monkeypatch, capsys):
    floors = {"majority": 0.2, "question_only": 0.3, "other_picture": 0.25, "no_picture": 0.15}
    scores = {"n": 40, "score": 0.9, "baselines": {name: {"mean": floor} for name, floor in floors.items()}}
    asked = {"type": "color", "question": "What color is it?", "images": ["a.png"], "references": ["red"]}
    other = {"type": "shape", "question": "What shape?", "images": ["b.png"], "references": ["circle"]}
    result = {"scores": {"overall": scores}, "predictions": [other, asked]}
    (tmp_path / "result.json").write_text(json.dumps(result))
    commands: list[list[str]] = []

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="red\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["finish", "--checkpoint", "runs/demo", "--result", str(tmp_path / "result.json")])
    finish.main()
    assert [command[1:] for command in commands] == [
        ["ask.py", "--checkpoint", "runs/demo", "--image", "a.png", "What color is it?"]
    ]
    printed = capsys.readouterr().out
    assert "exact match 0.900 over 40 questions" in printed
    for line in ("majority       0.200", "question only  0.300", "other picture  0.250", "no picture     0.150"):
        assert line in printed
    assert "What color is it?  ->  red   (right: red)" in printed
    assert printed.rstrip().endswith("test_gui.py --checkpoint runs/demo a.png")

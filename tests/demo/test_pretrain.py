"""The command that pretrains the backbones."""

from __future__ import annotations

import sys

import pytest

from demo import pretrain


def test_a_stage_runs_with_its_steps(monkeypatch):
    seen = []
    for name in ("train_vision", "train_wide", "train_language"):
        monkeypatch.setattr(pretrain, name, lambda steps, name=name: seen.append((name, steps)))
    for arguments in (["vision"], ["wide"], ["language", "--steps", "7"]):
        monkeypatch.setattr(sys, "argv", ["pretrain", *arguments])
        pretrain.main()
    assert seen == [("train_vision", 1500), ("train_wide", 2600), ("train_language", 7)]


def test_an_unknown_stage_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pretrain", "hearing"])
    with pytest.raises(SystemExit):
        pretrain.main()
    assert "invalid choice: 'hearing'" in capsys.readouterr().err

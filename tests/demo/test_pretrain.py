"""The command that pretrains the backbones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from demo import BACKBONES, pretrain


def test_a_stage_runs_with_its_steps(monkeypatch):
    seen = []
    for name in ("train_vision", "train_wide", "train_language"):
        monkeypatch.setattr(pretrain, name, lambda *given, name=name: seen.append((name, *given)))
    monkeypatch.setattr(pretrain.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(pretrain.torch, "get_num_threads", lambda: 3)
    threads: list[int] = []
    monkeypatch.setattr(pretrain.torch, "set_num_threads", threads.append)
    wide = ["wide", "--device", "cuda:1", "--output", "elsewhere"]
    for arguments in (["vision"], ["wide"], wide, ["language", "--steps", "7"]):
        monkeypatch.setattr(sys, "argv", ["pretrain", *arguments])
        pretrain.main()
    assert seen == [
        ("train_vision", 1500),
        ("train_wide", 5000, "cpu", BACKBONES, 3),
        ("train_wide", 5000, "cuda:1", Path("elsewhere"), 3),
        ("train_language", 7, "cpu", BACKBONES, 3),
    ]
    assert threads == [1]  # for the one on CUDA


def test_an_unknown_stage_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pretrain", "hearing"])
    with pytest.raises(SystemExit):
        pretrain.main()
    assert "invalid choice: 'hearing'" in capsys.readouterr().err

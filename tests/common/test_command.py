"""Suggested commands can be pasted."""

from __future__ import annotations

import os
import shlex

import pytest

from common.command import command_line


def test_a_command_repeats_the_config_and_the_overrides():
    line = command_line("train.py", "--resume", config="a.yaml", overrides=["train.run=b"])
    assert line == "python train.py --resume --config a.yaml train.run=b"


@pytest.mark.skipif(os.name == "nt", reason="quoted for POSIX shells")
def test_what_a_shell_would_split_or_expand_is_quoted():
    typed = ["data.held_out=two words.txt", 'language.system="it\'s"', "data.stream=*.tar"]
    line = command_line("train.py", config="my runs/a.yaml", overrides=typed)
    assert shlex.split(line) == ["python", "train.py", "--config", "my runs/a.yaml", *typed]
    assert "'data.stream=*.tar'" in line

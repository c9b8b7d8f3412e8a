"""Suggested commands can be pasted."""

from __future__ import annotations

import shlex
import sys

import psutil
import pytest

from common.command import resume_command, typed_command


@pytest.fixture
def typed(monkeypatch):
    """Play a process that a command started."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)

    def type_(line: str, script: int = 1, parent: str | None = None, **environment: str) -> None:
        """``script`` is which word is the script; ``parent`` the line of the launcher."""
        words = shlex.split(line)
        monkeypatch.setattr(sys, "orig_argv", words)
        monkeypatch.setattr(sys, "argv", words[script:])
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

        class Parent:
            def __init__(self, pid: int) -> None:
                if parent is None:
                    raise psutil.AccessDenied()

            def cmdline(self) -> list[str]:
                return shlex.split(parent or "")

        monkeypatch.setattr(psutil, "Process", Parent)

    return type_


def test_config_and_overrides_are_repeated_and_resume_takes_the_place_of_overwrite(typed):
    typed(".venv/bin/python -u train.py --config 'my runs/a.yaml' --overwrite train.run=b lora.r=4")
    wanted = ".venv/bin/python -u train.py --config 'my runs/a.yaml' train.run=b lora.r=4 --resume"
    assert resume_command() == wanted
    assert typed_command() == ".venv/bin/python -u train.py --config 'my runs/a.yaml' --overwrite train.run=b lora.r=4"


def test_options_are_there_once_and_abbreviations_are_known(typed):
    typed("python train.py --res --over --dry train.max_steps=3")
    assert resume_command() == "python train.py train.max_steps=3 --resume"


def test_an_option_is_dropped_with_its_value(typed):
    for line in ("--shard 2/8", "--shard=2/8"):
        typed(f"python process_image.py --config demo.yaml {line} data.workers=2")
        merge = typed_command(add=["--merge", "8"], drop_with_value=["--shard"])
        assert merge == "python process_image.py --config demo.yaml data.workers=2 --merge 8"


def test_a_command_without_arguments(typed):
    typed("python train.py")
    assert resume_command() == "python train.py --resume"


def test_a_process_that_was_not_started_by_its_command_is_named_by_its_script(typed, monkeypatch):
    typed("python -m tests.helpers.forked")
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "a.yaml"])
    assert resume_command() == "python train.py --config a.yaml --resume"


@pytest.mark.parametrize(
    ("parent", "wanted"),
    [
        ("/usr/bin/python3 .venv/bin/torchrun --nproc-per-node 2 train.py", ".venv/bin/torchrun --nproc-per-node 2"),
        ("python -m torch.distributed.run --standalone train.py", "python -m torch.distributed.run --standalone"),
        ("/v/python /v/accelerate launch --config_file d.yaml train.py", "/v/accelerate launch --config_file d.yaml"),
        ("srun job.sh", "torchrun --nproc-per-node 2"),
        (None, "torchrun --nproc-per-node 2"),
    ],
)
def test_a_launcher_is_part_of_the_command(typed, parent, wanted):
    rest = "--config a.yaml train.run=b"
    if parent and "train.py" in parent:
        parent = f"{parent} {rest}"
    typed(f"/v/python -u train.py {rest}", script=2, parent=parent, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", RANK="0")
    assert resume_command() == f"{wanted} train.py {rest} --resume"

"""A command in its own process, and which heavy modules it imported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

from tests.helpers.tiny import REPO

HEAVY = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "tkinter")


@dataclass
class Done:
    """How a command ended: exit status, what it printed, and the modules of HEAVY that it imported."""

    status: int
    stdout: str
    stderr: str
    heavy: list[str]


def run_command(command: str, *arguments: object) -> Done:
    """``python command.py arguments``."""
    code = (
        f"import sys; sys.argv = ['{command}.py', *sys.argv[1:]]; import {command}\n"
        f"try: status = {command}.main()\n"
        "except SystemExit as end: status = end.code\n"
        f"print('heavy:', *[name for name in {HEAVY} if name in sys.modules])\n"
        "sys.exit(status)"
    )
    line = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(line, cwd=REPO, capture_output=True, text=True, encoding="utf-8")
    stdout, _, heavy = done.stdout.rpartition("heavy:")
    return Done(done.returncode, stdout, done.stderr, heavy.split())

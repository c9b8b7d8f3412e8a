"""Commands that messages suggest: they repeat what was typed, so that pasting one does what the message says."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path


def command_line(script: str, *options: str, config: str | Path, overrides: Sequence[str] = ()) -> str:
    """``python SCRIPT OPTIONS --config CONFIG OVERRIDES``, quoted for the shell of this system."""
    words = ["python", script, *options, "--config", str(config), *overrides]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)

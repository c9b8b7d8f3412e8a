"""Commands that messages suggest: they repeat what was typed, so that pasting one does what the message says."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence


def typed_command(add: Sequence[str] = (), drop: Sequence[str] = (), drop_with_value: Sequence[str] = ()) -> str:
    """The command that started this process, quoted for a shell.

    Args:
        add: options that it gets, unless it has them.
        drop: options that it loses; ``drop_with_value``: those that are followed by a value.
    """
    kept: list[str] = []
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        if _is_option(argument, [*drop, *add]):
            continue
        if _is_option(argument, drop_with_value):
            if "=" not in argument:
                next(arguments, None)
            continue
        kept.append(argument)
    return _quote([*_launcher(), *kept, *add])


def resume_command() -> str:
    """The command that continues the run that this process trains."""
    return typed_command(add=["--resume"], drop=["--overwrite", "--dry-run"])


def _is_option(argument: str, options: Sequence[str]) -> bool:
    """argparse takes an abbreviation for the option: ``--over`` is ``--overwrite``."""
    name = argument.partition("=")[0]
    return len(name) > 2 and name.startswith("--") and any(option.startswith(name) for option in options)


def _launcher() -> list[str]:
    """What was typed before the arguments: interpreter and script, or torchrun or accelerate launch with theirs."""
    arguments = sys.argv[1:]
    if "WORLD_SIZE" in os.environ:
        return _parent(arguments) or ["torchrun", "--nproc-per-node", _processes(), sys.argv[0]]
    original = sys.orig_argv
    if original[len(original) - len(arguments) :] == arguments and len(original) > len(arguments) + 1:
        return original[: len(original) - len(arguments)]
    return ["python", sys.argv[0]]


def _processes() -> str:
    return os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])


def _parent(arguments: list[str]) -> list[str]:
    """The command of the launcher that started this process, up to our arguments; empty if it cannot be read."""
    import psutil  # type: ignore[import-untyped]  # accelerate needs it, so it is installed; its stubs are not

    try:
        command = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return []
    head = len(command) - len(arguments)
    if head < 2 or command[head:] != arguments or os.path.basename(command[head - 1]) != os.path.basename(sys.argv[0]):
        return []
    typed_script = os.path.basename(command[1]) in ("torchrun", "accelerate")  # nobody typed its interpreter
    return command[1:head] if typed_script else command[:head]


def _quote(words: list[str]) -> str:
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)

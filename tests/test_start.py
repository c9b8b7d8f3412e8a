"""Help and mistakes are answered before anything heavy is imported, in one line.

benchmarks/start.py prints the times; here only what decides on them is tested: the modules.
"""

from __future__ import annotations

import pytest

from benchmarks.start import CASES, HEAVY, start

HELP = [(command, ["--help"]) for command in CASES]
MISTAKES = [
    pytest.param(command, arguments, id=f"{command.removeprefix('-m ')}: {what}")
    for command, mistakes in CASES.items()
    for what, arguments in mistakes.items()
]


@pytest.mark.parametrize(("command", "arguments"), HELP, ids=[command.removeprefix("-m ") for command in CASES])
def test_help_imports_nothing_heavy(command, arguments):
    run = start(command, arguments, (*HEAVY, "numpy"))
    assert (run.status, run.stderr, run.imported) == (0, "", [])
    assert "usage: " in run.stdout and command.split()[-1].rpartition(".")[2] in run.stdout + "py"


@pytest.mark.parametrize(("command", "arguments"), MISTAKES)
def test_a_mistake_is_one_line_before_anything_heavy_is_imported(command, arguments):
    run = start(command, arguments)
    assert (run.status, run.stdout, run.imported) == (2, "", [])
    lines = [line for line in run.stderr.splitlines() if not line.startswith(("usage: ", " "))]
    assert len(lines) == 1 and "error: " in lines[0], run.stderr

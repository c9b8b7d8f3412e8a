"""Which room may import which: the table below is the architecture, and the code is held to it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
COMMANDS = {"process_image", "train", "evaluate", "ask", "export", "serve", "test_gui", "web"}
# A name with a dot allows one module of a room.
MAY_IMPORT = {
    "common": set(),
    "visual": {"common"},
    "qwen": {"common"},
    "settings": {"common", "visual.geometry"},
    "dataset": {"common", "settings", "qwen.tokenizer"},
    "model": {"common", "settings", "dataset", "visual", "qwen"},
    "training": {"common", "settings", "dataset", "model", "visual", "qwen"},
    "baselines": {"common", "settings", "dataset", "model", "training", "visual"},
    "answering": {"common", "settings", "dataset", "model", "visual.geometry", "qwen", "baselines"},
    "evaluation": {"common", "settings", "dataset", "model", "answering", "training.distributed"},
    "retrieval": {"common", "settings", "dataset", "model", "visual", "training", "evaluation"},
    "window": {"common", "settings", "dataset", "answering"},
}
OUTSIDE = {"demo", "benchmarks", "docs"}  # may import every room; no room imports them


def files_of(folder: str) -> Iterator[Path]:
    yield from sorted((REPO / folder).rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


OURS = {module_name(file) for room in [*MAY_IMPORT, *OUTSIDE] for file in files_of(room)} | COMMANDS


def imports_of(file: Path, *, everywhere: bool) -> set[str]:
    """Our modules that a file imports: at its top level, or ``everywhere`` in it, TYPE_CHECKING blocks included."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file}: relative imports are not used here"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & OURS) or {node.module}
    return {name for name in found if name in OURS}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_rooms_it_may(room):
    for file in files_of(room):
        for name in imports_of(file, everywhere=True):
            other = name.partition(".")[0]
            allowed = other == room or other in MAY_IMPORT[room] or name in MAY_IMPORT[room]
            assert allowed, f"{module_name(file)} imports {name}; {room} may import {sorted(MAY_IMPORT[room])}"


def test_nothing_imports_a_command():
    for room in [*MAY_IMPORT, *OUTSIDE]:
        for file in files_of(room):
            commands = imports_of(file, everywhere=True) & COMMANDS
            assert not commands, f"{module_name(file)} imports the command {commands.pop()}"


def test_rooms_and_modules_have_no_circles():
    rooms = {room: {name.partition(".")[0] for name in allowed} for room, allowed in MAY_IMPORT.items()}
    TopologicalSorter(rooms).prepare()
    modules = {
        module_name(f): imports_of(f, everywhere=False) for room in [*MAY_IMPORT, *OUTSIDE] for f in files_of(room)
    }
    try:
        TopologicalSorter(modules).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("room", [*MAY_IMPORT, *OUTSIDE])
def test_a_room_says_what_it_is_for(room):
    text = ast.get_docstring(ast.parse((REPO / room / "__init__.py").read_text(encoding="utf-8")))
    assert text, f"{room}/__init__.py has no docstring: what is the room for, and what may it import?"
    assert len(text.splitlines()) <= 4


def test_the_light_rooms_import_no_torch():
    """Commands check arguments, config and paths with these before anything that takes seconds is imported."""
    code = "import sys, settings, common.files, common.hub, common.errors, visual.geometry; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "peft", "accelerate", "numpy"} & set(done.stdout.split())


def test_the_page_in_a_browser_needs_no_tkinter():
    code = "import sys, window.web.model, window.web.sessions, window.web.texts; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert "tkinter" not in done.stdout.split()

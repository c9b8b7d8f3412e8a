"""Files and folders that appear whole or not at all: written aside, flushed to the disk, then renamed.

A crash or a cut of power leaves what was there before, or all of the new; what it may leave besides are hidden names
(``.<name>.<process>.tmp``, ``.<name>.old``) that nothing reads. Everything here raises ``OSError``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """One file, UTF-8, its folder made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with open(aside, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def write_together(contents: Mapping[Path, object]) -> None:
    """Several JSON files that belong together; none replaces an old one before the last is complete beside its place.

    An iterator of (key, value) pairs is written as an object, one value at a time. Renaming several files is several
    steps. So that a crash between two of them never leaves new files beside old ones, the last file is taken away
    first and comes back last: without it the others are not read.
    """
    asides: dict[Path, Path] = {}
    *_, last = contents
    old, begun = last.with_name(f".{last.name}.old"), False
    try:
        for path, content in contents.items():
            if path.is_dir():
                raise IsADirectoryError(21, "there is a folder of that name", str(path))
            path.parent.mkdir(parents=True, exist_ok=True)
            asides[_aside(path)] = path
            with open(_aside(path), "w", encoding="utf-8", newline="\n") as file:
                for piece in _pieces(content):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        if last.exists():
            os.replace(last, old)
            sync_folder(last.parent)
        for aside, path in asides.items():
            os.replace(aside, path)
            begun = True
            sync_folder(path.parent)
        old.unlink(missing_ok=True)
    except OSError as error:
        if old.exists() and not begun:
            os.replace(old, last)
        error.filename = str(path)
        raise
    finally:
        for aside in asides:
            aside.unlink(missing_ok=True)


def _pieces(content: object) -> Iterator[str]:
    """JSON indented by two; the text of an iterator of pairs is that of the dict they would make."""
    if not isinstance(content, Iterator):
        yield json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        return
    comma = ""
    for key, value in content:
        text = json.dumps({key: value}, ensure_ascii=False, indent=2)
        yield ("," if comma else "{") + text[1:-2]  # without the brackets of this one pair
        comma = ","
    yield "\n}\n" if comma else "{}\n"


def publish_folder(aside: Path, target: Path) -> None:
    """Flush every file of ``aside`` and give it the name ``target``; what had that name is deleted afterwards."""
    for path in sorted(aside.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        else:
            _sync_file(path)
    sync_folder(aside)
    if target.exists():
        remove_folder(target)
    os.replace(aside, target)
    sync_folder(target.parent)


def publish_file(aside: Path, target: Path) -> None:
    """Flush a file that is complete and give it the name ``target``."""
    _sync_file(aside)
    os.replace(aside, target)
    sync_folder(target.parent)


def _sync_file(path: Path) -> None:
    with open(path, "rb+") as file:  # Windows flushes only what was opened for writing
        os.fsync(file.fileno())


def remove_folder(folder: Path) -> None:
    """Delete a folder; to everybody else it is gone at once, not file by file."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    os.replace(folder, old)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last. Windows opens no folders, and some network disks flush none: then they keep
    their own promises."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")

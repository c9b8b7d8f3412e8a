"""Files and folders that appear complete or not at all: written under a temporary name, flushed to the disk, renamed.

A crash or a power cut leaves either what was there before or all of the new content. It may also leave hidden names
(``.<name>.<process>.tmp``, ``.<name>.old``), which nothing reads. Everything here raises ``OSError``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

# ---------------------------------------------------------------------------------------------- writing


def write_text(path: Path, text: str) -> None:
    """Write one file as UTF-8. Its folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temp_path(path)
    try:
        _write(temporary, [text])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, content: object) -> None:
    """:func:`write_text` of ``content`` as JSON, indented by two."""
    write_text(path, _as_json(content))


def write_together(contents: Mapping[Path, object]) -> None:
    """Write several JSON files that belong together. None replaces an old one before all of them are complete.

    An iterator of (key, value) pairs is written as an object, one value at a time. Renaming several files takes
    several steps, and a crash between two of them must not leave new files beside old ones. So the last file is removed
    first and appears last: without it, the others are not read.
    """
    temporary: dict[Path, Path] = {}
    *_, last = contents
    old, started = last.with_name(f".{last.name}.old"), False
    try:
        for path, content in contents.items():
            if path.is_dir():
                raise IsADirectoryError(21, "there is a folder of that name", str(path))
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[temp_path(path)] = path
            _write(temp_path(path), _json_pieces(content))
        if last.exists():
            os.replace(last, old)
            sync_folder(last.parent)
        for complete, path in temporary.items():
            os.replace(complete, path)
            started = True
            sync_folder(path.parent)
        old.unlink(missing_ok=True)
    except OSError as error:
        if old.exists() and not started:
            os.replace(old, last)
        error.filename = str(path)
        raise
    finally:
        for complete in temporary:
            complete.unlink(missing_ok=True)


def _write(path: Path, pieces: Iterable[str]) -> None:
    """Write a file and flush it to the disk."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _as_json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _json_pieces(content: object) -> Iterator[str]:
    """The text of :func:`_as_json` in pieces; an iterator of pairs gives the text of the dict that they would make."""
    if not isinstance(content, Iterator):
        yield _as_json(content)
        return
    comma = ""
    for key, value in content:
        text = json.dumps({key: value}, ensure_ascii=False, indent=2)
        yield ("," if comma else "{") + text[1:-2]  # without the brackets of this one pair
        comma = ","
    yield "\n}\n" if comma else "{}\n"


# ---------------------------------------------------------------------------------------------- renaming and deleting


def temp_path(path: Path) -> Path:
    """The temporary name under which this process writes ``path``, in the same folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def publish_folder(complete: Path, target: Path) -> None:
    """Flush every file of the folder ``complete`` and rename it to ``target``, in place of an older one."""
    for path in sorted(complete.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        else:
            _sync_file(path)
    sync_folder(complete)
    if target.exists():
        remove_folder(target)
    os.replace(complete, target)
    sync_folder(target.parent)


def publish_file(complete: Path, target: Path) -> None:
    """Flush the file ``complete`` and rename it to ``target``."""
    _sync_file(complete)
    os.replace(complete, target)
    sync_folder(target.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder. It is renamed first, so that no other process ever sees half of it."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    os.replace(folder, old)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_file(path: Path) -> None:
    with open(path, "rb+") as file:  # Windows flushes only files that were opened for writing
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk.

    Windows cannot open folders, and some network disks cannot flush them. There the file system's own guarantees hold.
    """
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)

"""SHA-256 of large files that were read before, kept in the user's cache folder.

Hashing a model of 1.5 billion parameters takes 10 s (0.36 GB/s on one core), which is most of an answer's start. A file
counts as unchanged while its path, size, modification time and inode are the same. A missing, damaged or unwritable
cache is no error: the file is read again.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.files import write_text

MOST = 1000  # files, the latest ones; about 300 bytes each
SMALL = 1 << 24  # bytes; a smaller file is read in less than 0.05 s, and is never kept here
# A file that changed this recently may change again without another modification time: FAT counts in steps of 2 s.
SETTLED = 2.0  # seconds
_SHA256 = re.compile(r"[0-9a-f]{64}")


def recall(file: Path) -> str | None:
    """The SHA-256 that :func:`remember` was given for ``file``; None if the file has changed since, or is unknown."""
    try:
        if file.stat().st_size < SMALL:
            return None
        entry = _read().get(str(file.resolve()))
        known = entry["sha256"] if entry and entry["identity"] == identity(file) else None
    except (OSError, LookupError, TypeError):
        return None
    return known if isinstance(known, str) and _SHA256.fullmatch(known) else None


def remember(file: Path, before: list[int], digest: str) -> None:
    """Keep a file's SHA-256. ``before`` is its :func:`identity` from before it was read: it must not have changed."""
    with suppress(OSError, RuntimeError):
        if before[0] < SMALL or identity(file) != before or time.time() - file.stat().st_mtime < SETTLED:
            return
        entries = _read()
        entries.pop(str(file.resolve()), None)
        entries[str(file.resolve())] = {"identity": before, "sha256": digest}
        latest = dict(list(entries.items())[-MOST:])
        write_text(cache_file(), json.dumps(latest, indent=1) + "\n")


def identity(file: Path) -> list[int]:
    """What shows that a file has changed: size in bytes, modification time in ns, inode."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def cache_file() -> Path:
    """Where the hashes are kept: in the folder that this system has for caches.

    Raises:
        RuntimeError: the user has no home folder.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(chosen):
        folder = Path(chosen)
    elif sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Caches"
    else:
        folder = Path.home() / ".cache"
    return folder / "ask-a-picture" / "sha256.json"


def _read() -> dict[str, Any]:
    """The cache's content by path, the oldest entry first; empty if it cannot be used."""
    try:
        content = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

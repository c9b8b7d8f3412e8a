"""A checkpoint's manifest: what it was trained from, and the hash of every file in it; read without torch.

The manifest also holds the hash of itself, so a damaged checkpoint is found before it is used.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import write_json
from common.hashing import hash_once, sha256

MANIFEST = "manifest.json"


class Damaged(UserError):
    """A checkpoint's files are not what was saved."""


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Complete a checkpoint: ``facts`` about its run, the SHA-256 of each of its files, and that of the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    hashes = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    content = {**facts, "files": hashes}
    write_json(folder / MANIFEST, {**content, "sha256": _hash_content(content)})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The facts about a checkpoint's run, and under ``files`` the hash of each file by its path in the folder.

    Raises:
        Damaged: there is none, or it is not what was written.
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"no checkpoint at {folder}; train one with train.py, or see `make demo`")
    file = folder / MANIFEST
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Damaged(f"{folder} has no {MANIFEST}: not a checkpoint, or a save that was cut short") from error
    except (ValueError, OSError, RecursionError) as error:
        raise Damaged(f"{file} cannot be read: {error}") from error
    try:
        intact = content.pop("sha256") == _hash_content(content) and all(
            isinstance(content[key], dict) for key in ("files", "base_models")
        )
    except (KeyError, AttributeError, TypeError, UnicodeEncodeError, RecursionError):
        intact = False
    if not intact:
        raise Damaged(f"{file} is not what was saved (its SHA-256 differs); use an earlier checkpoint")
    return content


def check_files(folder: Path, manifest: dict[str, Any], *, verify: bool = True) -> None:
    """Check that every file the manifest names is there and unchanged.

    ``verify`` reads all of them. Without it, a large file that is unchanged since it was last read is not read again.

    Raises:
        Damaged: names the first file that is missing, unreadable or changed.
    """
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise Damaged(f"{file} is missing; the checkpoint is incomplete")
        try:
            found = hash_once(file, verify=verify)
        except OSError as error:
            raise Damaged(f"{file} cannot be read: {error.strerror}; use an earlier checkpoint") from error
        if found != expected:
            raise Damaged(f"{file} is not what was saved (its SHA-256 differs); use an earlier checkpoint")


def _hash_content(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

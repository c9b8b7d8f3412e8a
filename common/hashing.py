"""SHA-256 of files, and of a base model: what a checkpoint's manifest says it was trained from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.hub import check_hash, model_folder, weight_files, what_is_missing

_BLOCK = 1 << 20  # bytes read at a time


def hash_model(path: str, key: str, checkpoint: Path | None = None) -> str:
    """SHA-256 over the names and contents of a model's config and weights, the same in the hub's cache and in a folder.

    ``key`` is the config key that names ``path``; ``checkpoint`` is the checkpoint that was trained from it, if any.

    Raises:
        UserError: a file is missing, or differs from the one that its download noted.
    """
    folder = Path(model_folder(path, key, checkpoint))
    if lack := what_is_missing(folder):
        raise UserError(f"{key}: {lack}")
    return hash_files([folder / "config.json", *weight_files(folder)])


def hash_files(files: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of ``files``, in their order.

    Raises:
        UserError: a file differs from the one that its download noted.
    """
    total = hashlib.sha256()
    for file in files:
        digest = sha256(file)
        check_hash(file, digest)
        total.update(f"{file.name} {digest}\n".encode())
    return total.hexdigest()


def sha256(file: Path) -> str:
    """The hexadecimal SHA-256 of one file's content."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()

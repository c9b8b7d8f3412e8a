"""SHA-256 of files, and of a base model: a manifest names its base models by it, so that no other is used instead."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from common import hash_cache
from common.errors import UserError
from common.hub import check_hash, model_folder, weight_files, what_is_missing

_BLOCK = 1 << 20  # bytes read at a time


def hash_model(path: str, key: str, checkpoint: Path | None = None, *, verify: bool = True) -> str:
    """SHA-256 over the names and contents of a model's config and weights, the same in the hub's cache and in a folder.

    Args:
        path: the model's folder or hub name, for messages with ``key``, the config key that names it.
        checkpoint: the checkpoint that was trained from the model, if any.
        verify: read every file. Otherwise one that is unchanged since it was last read is not read again.

    Raises:
        UserError: a file is missing, or differs from the one that its download noted.
    """
    folder = Path(model_folder(path, key, checkpoint))
    if lack := what_is_missing(folder):
        raise UserError(f"{key}: {lack}")
    files = [folder / "config.json", *weight_files(folder)]
    return _hash_together(files, [hash_once(file, verify=verify) for file in files])


def hash_files(files: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of ``files``, in their order.

    Raises:
        UserError: a file differs from the one that its download noted.
    """
    return _hash_together(files, [sha256(file) for file in files])


def _hash_together(files: Sequence[Path], digests: Sequence[str]) -> str:
    total = hashlib.sha256()
    for file, digest in zip(files, digests, strict=True):
        check_hash(file, digest)
        total.update(f"{file.name} {digest}\n".encode())
    return total.hexdigest()


def hash_once(file: Path, *, verify: bool) -> str:
    """:func:`sha256` of a file, or what it was when the file was last read, if it is unchanged and not ``verify``."""
    if not verify and (known := hash_cache.recall(file)):
        return known
    before = hash_cache.identity(file)
    digest = sha256(file)
    hash_cache.remember(file, before, digest)
    return digest


def sha256(file: Path) -> str:
    """The hexadecimal SHA-256 of one file's content."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()

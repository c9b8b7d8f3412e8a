"""Checking images on several machines: each writes what it found, and a merge reads all of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from dataset.preparing.check import check_images
from dataset.preparing.sources import files_of, find_images
from dataset.preparing.write import write_results
from settings import Data


def shard_file(data: Data, number: int, count: int) -> Path:
    return data.image_map.with_name(f"{data.image_map.stem}.shard-{number}-of-{count}.json")


def check_shard(data: Data, number: int, count: int) -> None:
    """Check every ``count``-th image, which is nearly all of the work, and write what cannot be used to a file.

    Raises:
        UserError: the list cannot be written.
    """
    files = files_of(find_images(data))
    own = files[number - 1 :: count]
    unusable = check_images(own, max_pixels=data.max_pixels, workers=data.workers, progress=data.progress)
    fingerprint = _fingerprint(files, data.max_pixels)
    file = shard_file(data, number, count)
    write_results({file: {"files": fingerprint, "unusable": unusable}})
    print(f"shard {number} of {count}: {len(own):,} of {len(files):,} images checked, {len(unusable):,} cannot be used")
    print(f"wrote {file}")


def read_shards(data: Data, files: list[str], commands: Sequence[str]) -> dict[str, str]:
    """What the shards found, path -> reason, in the order of ``files``.

    Args:
        commands: for each shard the command that checks it, for messages.

    Raises:
        UserError: one is missing, damaged, or of other data.
    """
    found: dict[str, str] = {}
    count = len(commands)
    for number, command in enumerate(commands, start=1):
        file = shard_file(data, number, count)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            same, unusable = content["files"] == _fingerprint(files, data.max_pixels), dict(content["unusable"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{file}: cannot be read ({error}); run: {command}") from None
        if not same:
            raise UserError(f"{file}: made from other annotations, images or data.max_pixels; run again: {command}")
        found |= unusable
    return {path: found[path] for path in files if path in found}


def _fingerprint(files: list[str], max_pixels: int) -> str:
    digest = hashlib.sha256(f"{max_pixels}\n".encode())
    for file in files:
        digest.update(f"{file}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()

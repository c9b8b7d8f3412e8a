"""Pictures that come inside a file of annotations, written once each into a folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from common.errors import UserError
from common.files import temp_path

_SIGNATURES = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)


def keep_picture(content: bytes, folder: Path | None) -> str:
    """Write a picture under the hash of its content, if it is not there yet; without a folder only name it.

    The file is flushed to the disk before it gets its name: a crash leaves no half of a picture.

    Returns:
        its name in the folder, such as "3f/3f9a...c2.jpg".

    Raises:
        UserError: it cannot be written.
    """
    digest = hashlib.sha256(content).hexdigest()[:40]
    name = f"{digest[:2]}/{digest}.{_ending(content)}"
    if folder is None:
        return name
    path = folder / name
    try:
        if path.is_file() and path.stat().st_size == len(content):
            return name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temp_path(path)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: a picture cannot be written: {error.strerror or error}") from None
    return name


def _ending(content: bytes) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    if content[4:12] == b"ftypavif":
        return "avif"
    return next((ending for start, ending in _SIGNATURES if content.startswith(start)), "image")

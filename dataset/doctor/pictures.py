"""Every picture read once: its size, a digest of its file, a perceptual hash and two thumbnails to compare it by."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dataset.image import ImageError, load_image
from dataset.preparing.processes import map_in_processes

GREY, COLOR = 32, 8  # sides of the two thumbnails, in pixels
_LOW = 8  # frequencies of each axis in the perceptual hash: 8 x 8 = 64 bits
# The first rows of the discrete cosine transform of 32 values.
_DCT = np.cos(math.pi / GREY * np.outer(np.arange(_LOW), np.arange(GREY) + 0.5)).astype(np.float32)  # [8, 32]


class Picture(NamedTuple):
    """What is kept of one file."""

    width: int
    height: int
    digest: bytes  # of the file's content, 16 bytes
    hash: int  # 64 bits; pictures that look alike differ in few of them
    grey: bytes  # 32 x 32 pixels
    color: bytes  # 8 x 8 x 3


@dataclass
class Pictures:
    """All pictures that can be read, N of them; ``ids[i]`` is the id of the i-th, ``unreadable`` id -> reason."""

    ids: list[int]
    sizes: list[tuple[int, int]]  # width, height
    digests: list[bytes]
    hashes: np.ndarray  # uint64 [N]
    grey: np.ndarray  # uint8 [N, 32 * 32]
    color: np.ndarray  # uint8 [N, 8 * 8 * 3]
    unreadable: dict[int, str]


def measure_pictures(
    paths: Mapping[int, str], *, max_pixels: int, workers: int | None = None, progress: bool = True
) -> Pictures:
    """Read every file, in several processes.

    Args:
        paths: of the files, by the ids of the pictures.

    Raises:
        UserError: a process was killed, most likely for its memory.
    """
    work = partial(measure_picture, max_pixels)
    results = map_in_processes(work, list(paths.values()), "reading pictures", workers=workers, progress=progress)
    ids, read, unreadable = [], [], {}
    for image, result in zip(paths, results, strict=True):
        if isinstance(result, str):
            unreadable[image] = result
        else:
            ids.append(image)
            read.append(result)
    return Pictures(
        ids=ids,
        sizes=[(picture.width, picture.height) for picture in read],
        digests=[picture.digest for picture in read],
        hashes=np.array([picture.hash for picture in read], dtype=np.uint64),
        grey=_stacked([picture.grey for picture in read], GREY * GREY),
        color=_stacked([picture.color for picture in read], COLOR * COLOR * 3),
        unreadable=unreadable,
    )


def measure_picture(max_pixels: int, path: str) -> Picture | str:
    """What is kept of a file, or the reason why it cannot be read."""
    try:
        content = Path(path).read_bytes()
        # 2.5 ms for a JPEG of 640 x 480, 4.4 ms at its full size. A smaller scale is not faster, and differs more.
        image = load_image(content, max_pixels, at_least=4 * GREY)
    except OSError as error:
        return error.strerror or type(error).__name__
    except ImageError as error:
        return str(error)
    with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as header:
        warnings.simplefilter("ignore")
        width, height = header.size
    small = np.asarray(image.resize((GREY, GREY), Image.Resampling.BOX), dtype=np.float32)  # [32, 32, 3]
    grey = small @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # [32, 32]
    step = GREY // COLOR
    color = small.reshape(COLOR, step, COLOR, step, 3).mean(axis=(1, 3))  # [8, 8, 3]
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return Picture(width, height, digest, perceptual_hash(grey), _levels(grey), _levels(color))


def perceptual_hash(grey: np.ndarray) -> int:
    """64 bits: which of the 8 x 8 lowest frequencies of the cosine transform are above their median.

    Known as pHash. Another size, another JPEG quality and a little more light change few of the bits.

    Args:
        grey: float32 [32, 32].
    """
    low = _DCT @ grey @ _DCT.T  # [8, 8]
    bits = np.packbits(low.ravel() > np.median(low))  # [8]
    return int.from_bytes(bits.tobytes(), "little")


def _levels(values: np.ndarray) -> bytes:
    return np.rint(values).astype(np.uint8).tobytes()


def _stacked(rows: list[bytes], length: int) -> np.ndarray:
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), length)

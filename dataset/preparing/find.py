"""From the name of an image in a record to its file, within the folders of its source."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PureWindowsPath

from dataset.image import ImageError
from dataset.records import SURROGATE

_COCO_2014 = re.compile(r"COCO_(?:train|val)2014_(\d{12}\.jpg)")
_COCO_2017 = re.compile(r"\d{12}\.jpg")


def find_image(name: str, folders: Sequence[Path]) -> Path:
    """The file that a record means by ``name``, in the first folder that has it; either year's COCO name will do.

    Raises:
        ImageError: missing, or outside the folder in which it was looked for.
    """
    as_windows = PureWindowsPath(name)  # splits at both slashes and knows drives: the same rule on every system
    if as_windows.anchor or ".." in as_windows.parts:
        raise ImageError("escapes its folder")
    if SURROGATE.search(name):
        raise ImageError("the name is not valid text")
    for candidate in (name, *_coco_names(name)):
        for folder in folders:
            path = folder / candidate
            if os.path.isfile(path):
                if not Path(real_path(path)).is_relative_to(real_path(folder)):  # a link led out
                    raise ImageError("escapes its folder")
                return path
    raise ImageError("missing")


@cache
def real_path(path: Path) -> str:
    """The path without links. Cached: it costs 40 microseconds, and each image's is asked for four times."""
    return os.path.realpath(path)


def _coco_names(name: str) -> list[str]:
    """COCO's other names of a file: 000000458752.jpg (2017) and COCO_train2014_000000458752.jpg are the same."""
    folder, slash, file = name.rpartition("/")
    if match := _COCO_2014.fullmatch(file):
        return [folder + slash + match[1]]
    if _COCO_2017.fullmatch(file):
        return [f"{folder}{slash}COCO_{part}2014_{file}" for part in ("train", "val")]
    return []

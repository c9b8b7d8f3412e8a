"""From the name of an image in a record to its file, within the folders of its source."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from dataset.image import ImageError
from dataset.records import SURROGATE

_ADDRESS = re.compile("https?://", re.IGNORECASE)
_COCO_2014 = re.compile(r"COCO_(?:train|val)2014_(\d{12}\.jpg)")
_COCO_2017 = re.compile(r"\d{12}\.jpg")


def find_image(name: str, folders: Sequence[Path], follow_links: bool = True) -> Path:
    """The file that a record means by ``name``, in the first folder that has it; either year's COCO name will do.

    ``name`` may be the absolute path of a file in one of the folders. What decides is how it is written: a link in a
    folder may lead anywhere (a cache of the hub, another disk), unless ``follow_links`` is off.

    Raises:
        ImageError: missing, or outside the folder in which it was looked for.
    """
    if SURROGATE.search(name):
        raise ImageError("the name is not valid text")
    if is_address(name):
        return _downloaded(name, folders, follow_links)
    name, folders = _inside(name, folders)
    for candidate in (name, *_coco_names(name)):
        for folder in folders:
            path = folder / candidate
            if os.path.isfile(path):
                if not follow_links and not Path(real_path(path)).is_relative_to(real_path(folder)):
                    raise ImageError("is a link out of its folder, which data.follow_links forbids")
                return path
    raise ImageError("missing")


def is_address(name: str) -> bool:
    """Whether a record names a picture on the web instead of a file."""
    return _ADDRESS.match(name) is not None


def _downloaded(address: str, folders: Sequence[Path], follow_links: bool) -> Path:
    """The file of an address, where ``wget --force-directories`` puts it: host/path."""
    name = _ADDRESS.sub("", address)
    for spelled in dict.fromkeys((name, unquote(name))):
        try:
            return find_image(spelled, folders, follow_links)
        except ImageError:
            continue
    folder = folders[0] if folders else "FOLDER"
    raise ImageError(
        "is an address, and nothing is downloaded here: write the addresses with python -m dataset.describe "
        f"ANNOTATIONS --addresses urls.txt, then wget --force-directories -nc -i urls.txt -P {folder}"
    )


def _inside(name: str, folders: Sequence[Path]) -> tuple[str, Sequence[Path]]:
    """The name from a folder on, without "..", and the folders to look in: all, or the one that an absolute path names.

    Raises:
        ImageError: as it is written, it leads out of the folders.
    """
    if os.path.isabs(name):
        path = os.path.normpath(name)
        for folder in folders:
            for spelled in (os.path.abspath(folder), real_path(folder)):
                if path.startswith(os.path.join(spelled, "")):
                    return os.path.relpath(path, spelled), [folder]
        raise ImageError("escapes its folder")
    as_windows = PureWindowsPath(name)  # splits at both slashes and knows drives: the same rule on every system
    if as_windows.anchor:
        raise ImageError("escapes its folder")
    if ".." not in as_windows.parts:
        return name, folders
    kept: list[str] = []
    for part in as_windows.parts:
        if part != "..":
            kept.append(part)
        elif kept:
            kept.pop()
        else:
            raise ImageError("escapes its folder")
    return "/".join(kept), folders


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

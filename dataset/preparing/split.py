"""Which images are for validation and test: by share or by list, and always whole groups of linked images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from common.errors import UserError
from dataset.preparing.find import real_path
from dataset.preparing.process import ImageMap
from dataset.preparing.sources import Part
from settings import Data

HELD_BACK = ("test", "validation")  # the splits that are not trained on; an image of both is test
Choice = Callable[[list[str]], bool]  # whether a group of images, given by their names, belongs to a split


def choose_splits(data: Data, parts: list[Part], image_map: ImageMap, links: Iterable[Sequence[int]]) -> dict[int, str]:
    """The split of each image that is not trained on, by id: "validation" or "test".

    Raises:
        UserError: a list of names cannot be read, does not fit the images, or shares an image with the other list.
    """
    given = {split: getattr(data, split) for split in HELD_BACK}
    listed = {
        split: listed_images(f"data.{split}", file, parts, image_map)
        for split, file in given.items()
        if isinstance(file, Path)
    }
    if both := set.intersection(*listed.values()) if len(listed) == len(HELD_BACK) else set():
        raise UserError(f"data.test and data.validation: both lists name {len(both):,} images, e.g. {min(both)}")
    # Each share has an end of the range of hashes to itself: a change of one moves no image of the other.
    ends = {"test": lambda share: (0.0, share), "validation": lambda share: (1 - share, 1.0)}
    choices = {
        split: by_list(listed[split]) if split in listed else by_share(*ends[split](share), data.seed)
        for split, share in given.items()
    }
    return split_groups(image_map, links, choices)


def split_groups(image_map: ImageMap, links: Iterable[Sequence[int]], choices: Mapping[str, Choice]) -> dict[int, str]:
    """Each image's split, by id, where one of ``choices`` takes it. Images that one conversation shows are together.

    A choice decides from the names of such a group, the one with the lowest id first; the first that takes it has it.
    """
    groups = image_groups(links, len(image_map))
    members: dict[int, list[str]] = {}
    for name, entry in image_map.items():  # ids are in the order of the map
        members.setdefault(groups[entry["ID"]], []).append(name)
    of_group = {
        group: next((split for split, takes in choices.items() if takes(names)), None)
        for group, names in members.items()
    }
    return {image: split for image, group in enumerate(groups) if (split := of_group[group])}


def image_groups(links: Iterable[Sequence[int]], count: int) -> list[int]:
    """For each of ``count`` images the lowest id among those that conversations about several images link it with."""
    lowest = list(range(count))

    def root(image: int) -> int:
        while lowest[image] != image:
            lowest[image] = lowest[lowest[image]]
            image = lowest[image]
        return image

    for images in links:
        for one, other in zip(images, images[1:], strict=False):
            one, other = sorted((root(one), root(other)))
            lowest[other] = one
    return [root(image) for image in range(count)]


def by_share(first: float, last: float, seed: int) -> Choice:
    """The groups whose first name's hash is from ``first`` to below ``last``, shares from 0 to 1.

    More data moves no image to another split.
    """

    def takes(names: list[str]) -> bool:
        digest = hashlib.sha256(f"{seed}:{names[0]}".encode()).digest()
        return first * 2**64 <= int.from_bytes(digest[:8], "big") < last * 2**64

    return takes


def by_list(listed: set[str]) -> Choice:
    """The groups with an image whose name in the image map is among ``listed``."""
    return lambda names: not listed.isdisjoint(names)


def listed_images(key: str, file: Path, parts: list[Part], image_map: ImageMap) -> set[str]:
    """The names in the image map of the images that ``file`` names, one a line, as a record or the map spells them.

    Raises:
        UserError: begins with ``key``; the file cannot be read, or none of its names is an image here.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {file} cannot be read as UTF-8 text: {error}") from None
    listed = {line.strip() for line in lines} - {""}
    # Records may call one file by several names; the file decides.
    files = {real_path(path) for part in parts for name, path in part.paths.items() if name in listed}
    found = {n for n, entry in image_map.items() if n in listed or real_path(Path(entry["path"])) in files}
    if listed and image_map and not found:
        raise UserError(f"{key}: none of the {len(listed):,} names in {file} is an image here, e.g. {min(listed)}")
    return found

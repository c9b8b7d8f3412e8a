"""Which images are held out from training: by share or by a list of names, and always whole groups of linked images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from common.errors import UserError
from dataset.preparing.find import real_path
from dataset.preparing.process import ImageMap
from dataset.preparing.sources import Part

Choice = Callable[[list[str]], bool]  # whether a group of images, given by their names, is held out


def hold_out(image_map: ImageMap, links: Iterable[Sequence[int]], chosen: Choice) -> set[int]:
    """The ids of the held-out images. Images that one conversation shows are on the same side.

    ``chosen`` decides from the names of such a group, the one with the lowest id first.
    """
    groups = image_groups(links, len(image_map))
    members: dict[int, list[str]] = {}
    for name, entry in image_map.items():  # ids are in the order of the map
        members.setdefault(groups[entry["ID"]], []).append(name)
    held_out = {group for group, names in members.items() if chosen(names)}
    return {image for image, group in enumerate(groups) if group in held_out}


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


def by_share(share: float, seed: int) -> Choice:
    """About this share of the groups, by a hash of the first name: more data moves no image to the other side."""

    def chosen(names: list[str]) -> bool:
        digest = hashlib.sha256(f"{seed}:{names[0]}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < share * 2**64

    return chosen


def by_list(file: Path, parts: list[Part], image_map: ImageMap) -> Choice:
    """The groups with an image that ``file`` names, one name a line, as a record or the image map spells it.

    Raises:
        UserError: the file cannot be read, or none of its names is an image here.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"data.held_out: {file} cannot be read as UTF-8 text: {error}") from None
    listed = {line.strip() for line in lines} - {""}
    # Records may call one file by several names; the file decides.
    files = {real_path(path) for part in parts for name, path in part.paths.items() if name in listed}
    held_out = {n for n, entry in image_map.items() if n in listed or real_path(Path(entry["path"])) in files}
    if listed and image_map and not held_out:
        example = min(listed)
        raise UserError(f"data.held_out: none of the {len(listed):,} names in {file} is an image here, e.g. {example}")
    return lambda names: not held_out.isdisjoint(names)

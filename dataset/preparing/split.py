"""Which images are for validation and test: by share or by list, and always whole groups of linked images."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from common.errors import UserError
from dataset.preparing.find import real_path
from dataset.preparing.process import SPLITS, ImageMap
from dataset.preparing.sources import Conversations, Part
from settings import Data

HELD_BACK = ("test", "validation")  # the splits that are not trained on; an image of both is test
MOST_COMPARED = 50_000  # names, in search of the nearest one: up to two seconds
_EXTENSION = re.compile(r"\.(jpe?g|jfif|png|webp|gif|bmp|tiff?|ppm|jp2|avif|hei[cf]|tga)$", re.IGNORECASE)
Choice = Callable[[list[str]], bool]  # whether a group of images, given by their names, belongs to a split


def choose_splits(
    data: Data, parts: list[Part], image_map: ImageMap, conversations: Conversations
) -> tuple[dict[int, str], list[str]]:
    """The split of each image that is not trained on, by id: "validation" or "test"; and lines to print.

    A list of names decides for its split. Otherwise an image has the split that its records tell. A share is taken of
    the images of which they tell none; for a split that no record tells, of those that they tell to be train too.

    Raises:
        UserError: a list of names cannot be read, does not fit the images, or shares an image with the other list.
    """
    given = {split: getattr(data, split) for split in HELD_BACK}
    lines: list[str] = []
    listed: dict[str, set[str]] = {}
    for split, file in given.items():
        if isinstance(file, Path):
            listed[split], unmatched = listed_images(f"data.{split}", file, parts, image_map, data.allow_unmatched)
            lines += [unmatched] if unmatched else []
    if both := set.intersection(*listed.values()) if len(listed) == len(HELD_BACK) else set():
        raise UserError(f"data.test and data.validation: images that both lists name: {len(both):,}, e.g. {min(both)}")
    # Each share has an end of the range of hashes to itself: a change of one moves no image of the other.
    ends = {"test": lambda share: (0.0, share), "validation": lambda share: (1 - share, 1.0)}
    by_id = conversations.given_splits
    told = {name: by_id[entry["ID"]] for name, entry in image_map.items() if entry["ID"] in by_id}
    if told:
        lines.append(f"splits: {len(told):,} images have the split that their records tell")
    choices = {
        split: by_list(listed[split])
        if split in listed
        else by_records(split, told, by_share(*ends[split](share), data.seed))
        for split, share in given.items()
    }
    return split_groups(image_map, conversations.links, choices), lines


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


def by_records(split: str, told: Mapping[str, str], otherwise: Choice) -> Choice:
    """The groups whose images are of ``split`` by what their records tell; where they tell nothing, ``otherwise``.

    Many data sets tell train and test only. Their validation images are taken from train.
    """
    from_train = split not in told.values()

    def takes(names: list[str]) -> bool:
        own = {told[name] for name in names if name in told}
        if not own or (from_train and own == {"train"}):
            return otherwise(names)
        return min(own, key=SPLITS.index) == split

    return takes


def by_list(listed: set[str]) -> Choice:
    """The groups with an image whose name in the image map is among ``listed``."""
    return lambda names: not listed.isdisjoint(names)


# ---------------------------------------------------------------------------------------------- lists of names


def listed_images(
    key: str, file: Path, parts: list[Part], image_map: ImageMap, allow_unmatched: bool
) -> tuple[set[str], str]:
    """The images that ``file`` names, one name a line, by their names in the image map.

    A name is what a record or the image map has, or, where it means one image alone, that with other folders in front
    or without its extension. A name of an image that cannot be used is no mistake in the list.

    Returns:
        The names in the image map; and, with ``allow_unmatched``, what to say of names that match nothing.

    Raises:
        UserError: begins with ``key``; the file cannot be read, a name in it matches no image, or means several.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {file} cannot be read as UTF-8 text: {error}") from None
    wanted = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    known = KnownNames(parts, image_map)
    files: set[str] = set()
    unmatched: dict[str, str] = {}  # name -> what is wrong with it
    for name in wanted:
        found = known.files_of(name)
        if isinstance(found, str):
            unmatched[name] = found
        else:
            files |= found
    problem = ""
    if unmatched:
        examples = "; ".join(f"{name} ({why})" for name, why in list(unmatched.items())[:3])
        count = f"{len(unmatched):,} of the {len(wanted):,} names in {file}"
        problem = f"{key}: {count} cannot be matched to an image: {examples}"
        if not allow_unmatched or len(unmatched) == len(wanted):
            advice = "" if allow_unmatched else "; correct them, or set data.allow_unmatched: true to leave them out"
            raise UserError(problem + known.nearest(next(iter(unmatched))) + advice)
    return {name for name, entry in image_map.items() if real_path(Path(entry["path"])) in files}, problem


class KnownNames:
    """The images of all records, under every name that a list may give them. A file is its path without links."""

    def __init__(self, parts: list[Part], image_map: ImageMap) -> None:
        self.exact: dict[str, set[str]] = {}
        self.stems: dict[str, list[tuple[list[str], str]]] = {}  # last part without extension -> (all parts, file)
        for part in parts:
            for name, path in part.paths.items():
                self._add(name, path, real_path(path))
            for name in part.bad_images:
                self._add(name, Path(name), f"{part.source.name}: {name}")  # no image of the map has this path
        for name, entry in image_map.items():
            path = Path(entry["path"])
            self._add(name, path, real_path(path))

    def _add(self, name: str, path: Path, file: str) -> None:
        self.exact.setdefault(name, set()).add(file)
        for spelled in {name, path.as_posix()}:
            names = _parts(spelled)
            self.stems.setdefault(names[-1], []).append((names, file))

    def files_of(self, name: str) -> set[str] | str:
        """The files that a name means, or why it means none. A name as a record has it may mean several."""
        if name in self.exact:
            return self.exact[name]
        wanted = _parts(name)
        fitting = [(names, file) for names, file in self.stems.get(wanted[-1], []) if _ends_alike(wanted, names)]
        whole = {file for names, file in fitting if names == wanted}
        found = whole if len(whole) == 1 else {file for _, file in fitting}
        if len(found) > 1:
            return f"means {len(found):,} images, such as {' and '.join(sorted(found)[:2])}"
        return found or "unknown"

    def nearest(self, name: str) -> str:
        found = difflib.get_close_matches(name, list(islice(self.exact, MOST_COMPARED)), n=1)
        return f"; nearest to {name}: {found[0]}" if found else f"; an image here: {next(iter(self.exact), 'none')}"


def _parts(name: str) -> list[str]:
    """a/b.jpg: [a, b]. A dot that begins no image's extension is part of the name."""
    return _EXTENSION.sub("", name).replace("\\", "/").split("/")


def _ends_alike(one: list[str], other: list[str]) -> bool:
    """Whether two names differ at most in how many of their folders they name."""
    both = min(len(one), len(other))
    return one[-both:] == other[-both:]

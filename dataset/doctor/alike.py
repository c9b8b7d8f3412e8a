"""Which pictures are the same or nearly the same, without comparing each with each.

A candidate is a pair whose perceptual hashes differ in at most six of 64 bits. Cut into eight bytes, such hashes have
two bytes in common, so pairs are looked for only among the pictures that share two bytes: 28 sortings, and 100,000
photos take seconds. The hash ignores colour and small objects, so the thumbnails of a candidate are then compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from tqdm import tqdm

from dataset.doctor.pictures import Pictures
from dataset.preparing.split import image_groups

MOST_BITS = 6
# By how many of 255 levels the thumbnails of nearly the same picture may differ: in one grey pixel, in the mean of all,
# and in one colour. Six photos that were saved again at half to a quarter of the size and a JPEG quality of 30 to 75
# differ by at most 31, 2.7 and 6. The demo, which draws a scene many times with its objects moved by up to three
# pixels, has no such pair.
MOST_GREY, MOST_GREY_MEAN, MOST_COLOR = 40, 3.5, 12
_COMPARED_AT_MOST = 100  # neighbours of a picture in one sorting; reached only where hundreds look nearly the same
_PAIRS_AT_ONCE = 10_000  # 10,000 x 1,024 grey levels x 2 bytes = 20 MB


def groups_of_alike(pictures: Pictures, progress: bool = False) -> list[list[int]]:
    """Groups of two or more ids. In a group each picture is the same as another one, or nearly so."""
    first: dict[bytes, int] = {}
    links: list[list[int]] = []
    for i in range(len(pictures.ids)):  # pictures with equal thumbnails are compared once
        key = pictures.grey[i].tobytes() + pictures.color[i].tobytes()
        if first.setdefault(key, i) != i:
            links.append([first[key], i])
    different = np.array(list(first.values()), dtype=np.int64)
    links += near_pairs(pictures, different, progress).tolist()
    members: dict[int, list[int]] = {}
    for i, group in enumerate(image_groups(links, len(pictures.ids))):
        members.setdefault(group, []).append(pictures.ids[i])
    return [ids for ids in members.values() if len(ids) > 1]


def near_pairs(pictures: Pictures, among: np.ndarray, progress: bool = False) -> np.ndarray:
    """The pairs that are nearly the same, int64 [P, 2], of the pictures with the indices ``among``; some twice."""
    hashes, grey, color = pictures.hashes[among], pictures.grey[among], pictures.color[among]
    light = grey.mean(axis=1)  # [N]
    few = color[:, ::24].astype(np.int16)  # [N, 8], to tell most candidates apart at little cost
    parts = hashes.view(np.uint8).reshape(-1, 8).astype(np.uint16)  # [N, 8]
    found = [np.empty((0, 2), np.int64)]
    tables = list(combinations(range(8), 2))
    for one, other in tqdm(tables, desc="comparing pictures", leave=False, disable=None if progress else True):
        for a, b in _neighbours(parts[:, one] << 8 | parts[:, other], light):
            near = np.bitwise_count(hashes[a] ^ hashes[b]) <= MOST_BITS
            a, b = a[near], b[near]
            near = np.abs(few[a] - few[b]).max(axis=1, initial=0) <= MOST_COLOR
            pairs = np.stack([a[near], b[near]], axis=1)  # [P, 2]
            for start in range(0, len(pairs), _PAIRS_AT_ONCE):
                part = pairs[start : start + _PAIRS_AT_ONCE]
                found.append(among[part[_look_alike(grey, color, part)]])
    return np.concatenate(found)


def _neighbours(key: np.ndarray, light: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures with the same key and nearly the same light: two arrays of indices, [P] each, again and again."""
    order = np.lexsort((light, key))
    key, light = key[order], light[order]
    active = np.arange(len(order))
    for offset in range(1, _COMPARED_AT_MOST + 1):
        active = active[active + offset < len(order)]
        other = active + offset
        active = active[(key[active] == key[other]) & (light[other] - light[active] <= MOST_GREY_MEAN)]
        if not len(active):
            return
        yield order[active], order[active + offset]


def _look_alike(grey: np.ndarray, color: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """bool [P]: whether the thumbnails of each pair are nearly the same."""
    one, other = pairs.T
    grey_levels = np.abs(grey[one].astype(np.int16) - grey[other])  # [P, 1024]
    color_levels = np.abs(color[one].astype(np.int16) - color[other])  # [P, 192]
    near = (grey_levels.max(axis=1) <= MOST_GREY) & (color_levels.max(axis=1) <= MOST_COLOR)
    return near & (grey_levels.mean(axis=1) <= MOST_GREY_MEAN)

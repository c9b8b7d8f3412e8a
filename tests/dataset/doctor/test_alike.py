"""Near-duplicates are found without comparing each picture with each."""

from __future__ import annotations

import numpy as np

from dataset.doctor import alike
from dataset.doctor.alike import groups_of_alike
from dataset.doctor.pictures import Pictures, perceptual_hash


def random_pictures(count: int, seed: int = 0) -> Pictures:
    rng = np.random.default_rng(seed)
    grey = rng.integers(0, 240, (count, 8, 8)).astype(np.float32).repeat(4, axis=1).repeat(4, axis=2)  # [N, 32, 32]
    return pictures_of(grey, rng.integers(0, 240, (count, 192), dtype=np.uint8))


def pictures_of(grey: np.ndarray, color: np.ndarray) -> Pictures:
    count = len(grey)
    hashes = np.array([perceptual_hash(picture) for picture in grey], dtype=np.uint64)
    flat = grey.reshape(count, 1024).astype(np.uint8)
    return Pictures([100 + i for i in range(count)], [(32, 32)] * count, [b""] * count, hashes, flat, color, {})


def changed(pictures: Pictures, which: dict[int, int], by: int) -> None:
    """Make picture ``new`` picture ``old`` with some levels changed, for each new: old."""
    for new, old in which.items():
        noise = np.random.default_rng(new).integers(0, by + 1, pictures.grey.shape[1], dtype=np.uint8)
        pictures.grey[new] = pictures.grey[old] + noise
        pictures.color[new] = pictures.color[old] + by
        pictures.hashes[new] = perceptual_hash(pictures.grey[new].reshape(32, 32).astype(np.float32))


def test_every_planted_pair_among_many_is_found_and_no_other():
    pictures = random_pictures(1500)
    changed(pictures, {1000 + i: 7 * i for i in range(100)}, by=4)
    assert groups_of_alike(pictures) == [[100 + 7 * i, 1100 + i] for i in range(100)]


def test_no_more_pairs_are_compared_than_share_two_bytes_of_their_hashes(monkeypatch):
    """A search that is quadratic would compare 1.1 million pairs here."""
    compared = []
    neighbours = alike._neighbours

    def counted(key, light):
        for a, b in neighbours(key, light):
            compared.append(len(a))
            yield a, b

    monkeypatch.setattr(alike, "_neighbours", counted)
    groups_of_alike(random_pictures(1500))
    assert 0 < sum(compared) < 1500 * 28


def test_the_same_thumbnail_needs_no_hash_in_common():
    pictures = random_pictures(20)
    pictures.grey[5], pictures.color[5] = pictures.grey[3], pictures.color[3]
    assert groups_of_alike(pictures) == [[103, 105]]


def test_other_colours_make_another_picture():
    pictures = random_pictures(20)
    changed(pictures, {5: 3, 9: 8}, by=2)
    pictures.color[5, 24] += 30
    assert groups_of_alike(pictures) == [[108, 109]]


def test_a_small_object_makes_another_picture():
    pictures = random_pictures(20)
    changed(pictures, {5: 3, 9: 8}, by=2)
    pictures.grey[5, 500] ^= 0x80
    assert groups_of_alike(pictures) == [[108, 109]]


def test_pictures_that_are_alike_in_a_chain_are_one_group():
    pictures = random_pictures(20)
    changed(pictures, {5: 3}, by=4)
    changed(pictures, {9: 5}, by=4)
    assert groups_of_alike(pictures) == [[103, 105, 109]]


def test_no_pictures_are_no_groups():
    assert groups_of_alike(random_pictures(0)) == []
    assert groups_of_alike(random_pictures(1)) == []


def test_many_pictures_with_one_hash_end_in_time():
    """Pages of one colour have the same hash; only the nearest in light are compared."""
    grey = np.zeros((700, 32, 32), np.float32)
    pictures = pictures_of(grey, np.random.default_rng(0).integers(0, 250, (700, 192), dtype=np.uint8))
    assert groups_of_alike(pictures) == []

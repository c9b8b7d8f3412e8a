"""What is kept of a picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dataset.doctor.pictures import measure_picture, measure_pictures, perceptual_hash
from tests.helpers.planted import noise_picture
from tests.helpers.workplace import picture

LIMIT = 50_000_000


def test_size_digest_and_thumbnails(tmp_path):
    Image.new("RGB", (100, 80), (255, 0, 0)).save(tmp_path / "a.png")
    kept = measure_picture(LIMIT, str(tmp_path / "a.png"))
    assert (kept.width, kept.height, len(kept.digest)) == (100, 80, 16)
    assert kept.grey == bytes([76]) * 1024 and kept.color == bytes([255, 0, 0]) * 64  # 0.299 x 255 = 76.2


def test_the_size_is_that_of_the_file_though_a_jpeg_is_read_at_a_smaller_scale(tmp_path):
    noise_picture(0, 1600, 1200).save(tmp_path / "a.jpg")
    kept = measure_picture(LIMIT, str(tmp_path / "a.jpg"))
    assert (kept.width, kept.height) == (1600, 1200)
    noise_picture(0, 1600, 1200).save(tmp_path / "a.png", format="BMP")
    full = measure_picture(LIMIT, str(tmp_path / "a.png"))
    levels = np.frombuffer(kept.grey, np.uint8).astype(int) - np.frombuffer(full.grey, np.uint8)
    assert np.abs(levels).max() <= 4


@pytest.mark.parametrize("change", ["half", "jpeg", "lighter"])
def test_the_hash_of_a_picture_that_is_saved_again_differs_in_few_bits(tmp_path, change):
    for number in range(5):
        original = noise_picture(number)
        original.save(tmp_path / "a.png")
        if change == "half":
            original.resize((96, 64)).save(tmp_path / "b.png")
        elif change == "jpeg":
            original.save(tmp_path / "b.png", format="JPEG", quality=30)
        else:
            original.point(lambda level: min(255, round(level * 1.05))).save(tmp_path / "b.png")
        one, other = (measure_picture(LIMIT, str(tmp_path / name)).hash for name in ("a.png", "b.png"))
        assert (one ^ other).bit_count() <= 4


def test_the_hashes_of_other_pictures_differ_in_about_half_of_their_bits():
    rng = np.random.default_rng(0)
    hashes = [perceptual_hash(rng.random((32, 32), dtype=np.float32) * 255) for _ in range(50)]
    distances = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 10 and 28 < np.mean(distances) < 34


def test_files_that_cannot_be_read_are_listed_and_the_others_kept(tmp_path):
    paths = {7: str(picture(tmp_path / "a.png")), 2: str(tmp_path / "none.png"), 5: str(tmp_path / "b.png")}
    (tmp_path / "b.png").write_bytes(b"no picture")
    kept = measure_pictures(paths, max_pixels=LIMIT, workers=1, progress=False)
    assert kept.ids == [7] and kept.sizes == [(8, 6)] and kept.grey.shape == (1, 1024) and kept.color.shape == (1, 192)
    assert kept.unreadable == {
        2: "No such file or directory",
        5: "cannot be decoded: not an image in a known format",
    }


def test_no_pictures_at_all():
    kept = measure_pictures({}, max_pixels=LIMIT, workers=1, progress=False)
    assert kept.ids == [] and kept.grey.shape == (0, 1024) and kept.hashes.shape == (0,)

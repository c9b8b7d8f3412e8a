import numpy as np
import pytest
from PIL import Image

from dataset.corruptions import HIDDEN, KINDS, NOISE, augmented, corrupted


@pytest.fixture
def image() -> Image.Image:
    """A gradient with an edge: every kind changes it."""
    pixels = np.zeros((80, 96, 3), dtype=np.uint8)
    pixels[:, 48:] = 200
    pixels[..., 1] = np.arange(80, dtype=np.uint8)[:, None]
    return Image.fromarray(pixels)


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_worse_with_strength_and_the_same_for_one_seed(image, kind):
    found = [corrupted(image, kind, strength, "7") for strength in (1, 2, 3)]
    assert [each.size for each in found] == [image.size] * 3
    distances = [distance(image, each) for each in found]
    assert 0 < distances[0] < distances[1] < distances[2]
    assert corrupted(image, kind, 2, "7").tobytes() == found[1].tobytes()


def test_another_seed_gives_other_noise_of_the_same_strength():
    grey = Image.new("RGB", (96, 80), (128, 128, 128))
    one, other = (np.asarray(corrupted(grey, "noise", 1, seed), dtype=float) for seed in "ab")
    assert (one != other).mean() > 0.9
    assert (one - 128).std() == pytest.approx(NOISE[0], rel=0.05)


def test_occlusion_covers_its_share_of_the_cells():
    covered = np.asarray(corrupted(Image.new("RGB", (80, 80), "black"), "occlusion", 2, "0")) == 128
    assert covered[..., 0].mean() == HIDDEN[1]


def test_the_most_looked_at_cells_are_covered_first():
    looked_at = np.array([[np.nan, 0.1], [0.7, 0.2]])
    covered = np.asarray(corrupted(Image.new("RGB", (4, 4), "black"), "most looked at", 3, "0", looked_at))[..., 0]
    assert (covered == [[0, 0, 0, 0], [0, 0, 0, 0], [128, 128, 128, 128], [128, 128, 128, 128]]).all()


def test_half_of_the_training_pictures_stay_as_they_are(image):
    changed = [augmented(image, f"0:{epoch}:7/0").tobytes() != image.tobytes() for epoch in range(200)]
    assert 70 < sum(changed) < 130
    assert augmented(image, "0:3:7/0").tobytes() == augmented(image, "0:3:7/0").tobytes()

"""One picture under several names."""

from __future__ import annotations

import shutil

from PIL import Image

from dataset.doctor.checks.duplicates import copied_pictures, near_duplicates, shared_between_splits
from tests.helpers.planted import noise_picture


def test_fair_data_have_no_duplicates(fair):
    data = fair.examine()
    assert (copied_pictures(data), near_duplicates(data), shared_between_splits(data)) == (None, None, None)


def test_copies_of_a_file_are_counted_without_the_first(fair):
    for name in ("copy.png", "again.png", "other.png"):
        source = "1.png" if name == "other.png" else "0.png"
        fair.picture(name, (fair.folder / "images" / source).read_bytes())
    finding = copied_pictures(fair.examine())
    assert finding.problem == "3 of 27 pictures (11.1 %) are copies of another file"
    assert finding.examples[0].count("0.png (train)") == 1 and "copy.png (unused)" in finding.examples[0]
    assert near_duplicates(fair.examine()) is None


def test_a_picture_that_was_resized_and_saved_again_is_nearly_the_same(fair):
    fair.picture("small.jpg", noise_picture(0).resize((96, 64)), quality=75)
    fair.picture("lighter.png", noise_picture(1).point(lambda level: min(255, level + 2)))
    data = fair.examine()
    finding = near_duplicates(data)
    assert finding.problem.startswith("2 of 26 pictures (7.7 %) look the same as another")
    assert "/0.png (train) = " in finding.examples[0] and "small.jpg (unused)" in finding.examples[0]
    assert copied_pictures(data) is None


def test_a_mirrored_or_recoloured_picture_is_another(fair):
    red, green, blue = noise_picture(0).split()
    fair.picture("mirrored.png", noise_picture(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    fair.picture("recoloured.png", Image.merge("RGB", (blue, green, red)))
    assert near_duplicates(fair.examine()) is None


def test_a_copy_and_a_near_copy_across_splits_are_found_whatever_the_splits_are_called(fair):
    fair.picture("copy.png", (fair.folder / "images" / "0.png").read_bytes())
    fair.ask("copy.png", "Is there a dog?", "no", split="test")
    fair.picture("again.jpg", noise_picture(1), quality=70)
    fair.ask("again.jpg", "Is there a dog?", "yes", split="val")
    finding = shared_between_splits(fair.examine())
    assert finding.problem.startswith("2 of 6 pictures (33.3 %) outside of train are, or look the same as,")
    assert any("0.png (train)" in line and "copy.png (test)" in line for line in finding.examples)
    assert any("1.png (train)" in line and "again.jpg (val)" in line for line in finding.examples)


def test_one_picture_whose_conversations_are_in_two_splits(fair):
    fair.ask("0.png", "Is there a cat?", "no", split="test")
    finding = shared_between_splits(fair.examine())
    assert finding.problem.startswith("1 of 5 pictures") and "0.png (test, train)" in finding.examples[0]


def test_duplicates_inside_train_are_no_leak(fair):
    shutil.copy(fair.folder / "images" / "0.png", fair.folder / "images" / "1.png")
    data = fair.examine()
    assert copied_pictures(data) is not None and shared_between_splits(data) is None

"""Pictures that are gone, of the wrong size, and conversations without any."""

from __future__ import annotations

from PIL import Image

from dataset.doctor.checks import pictures
from tests.helpers.planted import noise_picture

ALL = (
    pictures.unreadable_pictures,
    pictures.tiny_pictures,
    pictures.huge_pictures,
    pictures.narrow_pictures,
    pictures.text_only,
)


def test_fair_data_have_none_of_these_faults(fair):
    data = fair.examine()
    assert [check(data) for check in ALL] == [None] * len(ALL)


def test_pictures_that_are_gone_or_damaged_since(fair):
    (fair.folder / "images" / "3.png").unlink()
    (fair.folder / "images" / "4.png").write_bytes(b"\x89PNG")
    finding = pictures.unreadable_pictures(fair.examine())
    assert finding.problem == "2 of 24 pictures (8.3 %) cannot be read"
    assert finding.examples[0].endswith("3.png: No such file or directory")
    assert finding.examples[1].endswith("4.png: cannot be decoded: not an image in a known format")


def test_tiny_pictures(fair):
    fair.ask("icon.png", "Is there a dog?", "no")
    fair.picture("rule.png", noise_picture(99, 640, 31))
    fair.picture("small.png", noise_picture(98, 32, 32))
    Image.new("RGB", (1, 1)).save(fair.folder / "images" / "icon.png")
    finding = pictures.tiny_pictures(fair.examine())
    assert finding.problem == "2 of 27 pictures (7.4 %) have a side of less than 32 pixels"
    assert [line.rpartition("/")[2] for line in finding.examples] == ["icon.png: 1 x 1", "rule.png: 640 x 31"]


def test_huge_pictures(fair):
    fair.picture("phone.jpg", Image.new("RGB", (4000, 3000)), quality=20)
    fair.picture("edge.jpg", Image.new("RGB", (4000, 2000)), quality=20)
    finding = pictures.huge_pictures(fair.examine())
    assert finding.problem.startswith("1 of 26 pictures (3.8 %) have more than 8,000,000 pixels")
    assert finding.examples[0].endswith("phone.jpg: 4,000 x 3,000")


def test_narrow_pictures(fair):
    fair.picture("banner.png", noise_picture(99, 801, 100))
    fair.picture("wide.png", noise_picture(98, 800, 100))
    finding = pictures.narrow_pictures(fair.examine())
    assert finding.problem.startswith("1 of 26 pictures") and "banner.png: 801 x 100" in finding.examples[0]


def test_text_only_conversations_above_a_share(fair):
    for i in range(30):
        fair.ask(None, f"What is {i} + 1?", str(i + 1))
    assert pictures.text_only(fair.examine()) is None  # 30 of 102
    for i in range(2):
        fair.ask(None, f"What is {i} + 2?", str(i + 2))
    finding = pictures.text_only(fair.examine())  # 32 of 104
    assert finding.problem == "32 of 104 conversations (30.8 %) have no picture"


def test_a_source_that_lost_all_its_pictures_is_named(fair):
    fair.ask(None, "< image > What is shown?", "a dog", source="lost")
    finding = pictures.text_only(fair.examine())
    assert finding.problem.endswith("; source lost has no picture at all")
    assert "source lost: 1 of 1 conversations (100.0 %)" in finding.examples

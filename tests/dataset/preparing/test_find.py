"""Names of images to files, inside their folders."""

from __future__ import annotations

import pytest

from dataset.preparing.find import find_image
from tests.helpers.workplace import picture


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../a.jpg",
        "x/../../a.jpg",
        "..\\a.jpg",
        "C:\\a.jpg",
        "C:a.jpg",
        "\\\\host\\a.jpg",
        "\\a.jpg",
        "..",
    ],
)
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "photos" / "x" / "a.jpg")
    with pytest.raises(ValueError, match="^escapes its folder$"):
        find_image(name, [tmp_path / "photos"])


def test_links_may_stay_inside_and_not_lead_out(tmp_path):
    picture(tmp_path / "secret.jpg")
    picture(tmp_path / "photos" / "a.jpg")
    try:
        (tmp_path / "photos" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
        (tmp_path / "photos" / "in.jpg").symlink_to("a.jpg")
        (tmp_path / "link").symlink_to(tmp_path / "photos")
    except OSError:
        pytest.skip("this system does not let us make links")
    with pytest.raises(ValueError, match="^escapes its folder$"):
        find_image("out.jpg", [tmp_path / "photos"])
    assert find_image("in.jpg", [tmp_path / "photos"]) == tmp_path / "photos" / "in.jpg"
    assert find_image("a.jpg", [tmp_path / "link"]) == tmp_path / "link" / "a.jpg"  # the folder itself may be one


@pytest.mark.parametrize("name", ["b.jpg", "x" * 5000, "nul\0.jpg", "a.jpg/a.jpg", ".", "sub", "http://host/a.jpg"])
def test_what_is_not_there_is_missing(tmp_path, name):
    picture(tmp_path / "a.jpg")
    (tmp_path / "sub").mkdir()
    with pytest.raises(ValueError, match="^missing$"):
        find_image(name, [tmp_path])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("COCO_train2014_000000458752.jpg", "000000458752.jpg"),
        ("COCO_val2014_000000458752.jpg", "000000458752.jpg"),
        ("000000458752.jpg", "COCO_train2014_000000458752.jpg"),
        ("000000458752.jpg", "COCO_val2014_000000458752.jpg"),
        ("coco/000000458752.jpg", "coco/COCO_val2014_000000458752.jpg"),
    ],
)
def test_coco_names_of_either_year_find_the_file(tmp_path, name, file):
    picture(tmp_path / "second" / file)
    (tmp_path / "first").mkdir()
    assert find_image(name, [tmp_path / "first", tmp_path / "second"]) == tmp_path / "second" / file
    picture(tmp_path / "second" / name)  # the name itself goes first
    assert find_image(name, [tmp_path / "first", tmp_path / "second"]) == tmp_path / "second" / name

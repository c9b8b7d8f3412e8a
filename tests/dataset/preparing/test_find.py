"""Names of images to files, inside their folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset.preparing.find import find_image
from tests.helpers.workplace import picture


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "x/../../photos/x/a.jpg",
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


@pytest.mark.parametrize("name", ["x/../a.jpg", "x\\..\\a.jpg", "x/y/../../a.jpg", "./a.jpg", "no/../a.jpg"])
def test_a_name_with_dots_that_stays_inside_is_found(tmp_path, name):
    picture(tmp_path / "photos" / "a.jpg")
    assert find_image(name, [tmp_path / "photos"]) == tmp_path / "photos" / "a.jpg"


def test_an_absolute_path_of_a_file_in_a_folder_is_found_there(tmp_path, monkeypatch):
    one, two = picture(tmp_path / "one" / "a.jpg"), picture(tmp_path / "two" / "sub" / "a.jpg")
    picture(tmp_path / "one" / "sub" / "a.jpg")
    picture(tmp_path / "twofold" / "a.jpg")
    folders = [tmp_path / "one", tmp_path / "two"]
    assert find_image(str(one), folders) == one
    assert find_image(str(two), folders) == two  # and not the file of the same name in the first folder
    monkeypatch.chdir(tmp_path)
    assert find_image(str(two), [Path("two")]) == Path("two/sub/a.jpg")
    for outside in (tmp_path / "twofold" / "a.jpg", f"{tmp_path}/two/../twofold/a.jpg", tmp_path / "two"):
        with pytest.raises(ValueError, match="^escapes its folder$"):
            find_image(str(outside), [tmp_path / "two"])


@pytest.fixture
def linked(tmp_path):
    """photos/ with links in it: to a file beside it, within it, and a link to the folder itself."""
    picture(tmp_path / "blobs" / "a.png").rename(tmp_path / "blobs" / "0a1b")  # as the hub names files
    picture(tmp_path / "photos" / "a.jpg")
    try:
        (tmp_path / "photos" / "out.jpg").symlink_to(tmp_path / "blobs" / "0a1b")
        (tmp_path / "photos" / "disk").symlink_to(tmp_path / "blobs")
        (tmp_path / "photos" / "in.jpg").symlink_to("a.jpg")
        (tmp_path / "link").symlink_to(tmp_path / "photos")
    except OSError:
        pytest.skip("this system does not let us make links")
    return tmp_path


@pytest.mark.parametrize("name", ["out.jpg", "disk/0a1b"])
def test_a_link_out_of_the_folder_is_followed_unless_the_config_forbids_it(linked, name):
    assert find_image(name, [linked / "photos"]) == linked / "photos" / name
    with pytest.raises(ValueError, match=r"^is a link out of its folder, which data\.follow_links forbids$"):
        find_image(name, [linked / "photos"], follow_links=False)


@pytest.mark.parametrize("follow_links", [True, False])
def test_a_link_inside_the_folder_and_the_folder_as_a_link_are_always_fine(linked, follow_links):
    assert find_image("in.jpg", [linked / "photos"], follow_links) == linked / "photos" / "in.jpg"
    assert find_image("a.jpg", [linked / "link"], follow_links) == linked / "link" / "a.jpg"
    for spelled in ("link", "photos"):  # an absolute path may spell the folder either way
        assert find_image(str(linked / spelled / "a.jpg"), [linked / "link"], follow_links) == linked / "link" / "a.jpg"


def test_dots_do_not_follow_a_link_out_of_the_folder(linked):
    """The system would take disk/../a.jpg for a file beside the folder that the link leads to."""
    picture(linked / "secret.jpg")
    with pytest.raises(ValueError, match="^missing$"):
        find_image("disk/../secret.jpg", [linked / "photos"])


@pytest.mark.parametrize("name", ["b.jpg", "x" * 5000, "nul\0.jpg", "a.jpg/a.jpg", ".", "sub", "ftp://host/a.jpg"])
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


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("https://example.org/p/a.jpg", "example.org/p/a.jpg"),
        ("HTTP://example.org/p/a%20b.jpg", "example.org/p/a b.jpg"),
        ("http://example.org:8080/a.jpg?size=1", "example.org:8080/a.jpg?size=1"),
    ],
)
def test_an_address_is_found_where_wget_has_put_it_and_refused_with_the_command_before(tmp_path, address, file):
    with pytest.raises(ValueError, match="^is an address, and nothing is downloaded here") as caught:
        find_image(address, [tmp_path / "photos"])
    assert f"wget --force-directories -nc -i urls.txt -P {tmp_path / 'photos'}" in str(caught.value)
    path = tmp_path / "photos" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert find_image(address, [tmp_path / "photos"]) == path


def test_an_address_cannot_lead_out_of_the_folder(tmp_path):
    picture(tmp_path / "a.jpg")
    (tmp_path / "photos" / "example.org").mkdir(parents=True)
    with pytest.raises(ValueError, match="^is an address"):
        find_image("https://example.org/../../a.jpg", [tmp_path / "photos"])
    with pytest.raises(ValueError, match="^is an address"):
        find_image("https://example.org/%2e%2e/%2e%2e/a.jpg", [tmp_path / "photos"])

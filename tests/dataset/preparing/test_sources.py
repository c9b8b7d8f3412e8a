"""Several sources become one image map: ids, names, order."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.workplace import llava, picture


def test_conversations_are_in_the_order_of_their_ids_and_text_is_last(workplace):
    workplace.source("one", "coco", [llava(None, "q", "a"), llava("0.png", "q", "a")], "photos", language="zh")
    workplace.source("two", "coco", [llava(f"{i}.png", "q", "a") for i in range(11, -1, -1)], "photos")
    for i in range(12):
        picture(workplace.folder / "photos" / f"{i}.png")
    assert workplace.run() == 0
    annotations = workplace.read("annotations")
    assert list(annotations) == [*map(str, range(12)), "text"]
    assert list(workplace.read("image_map")) == ["0.png", *(f"{i}.png" for i in range(11, 0, -1))]
    assert [c["language"] for c in annotations["0"]] == ["zh", "en"]  # what the config says, and what the text is


def test_a_name_that_two_sources_share_does_not_collide(workplace):
    for name, color in (("one", "red"), ("two", "blue"), ("three", "green")):
        workplace.source(name, "coco", [llava("a.png", "q", name)])
        picture(workplace.folder / name / "a.png", color)
    assert workplace.run() == 0
    images = workplace.read("image_map")
    assert list(images) == ["a.png", "two/a.png", "three/a.png"]
    assert [Path(entry["path"]).parent.name for entry in images.values()] == ["one", "two", "three"]
    assert [workplace.read("annotations")[i][0]["turns"][0]["a"] for i in "012"] == [["one"], ["two"], ["three"]]


def test_an_image_that_two_sources_share_has_one_id_and_all_its_conversations(workplace):
    picture(workplace.folder / "photos" / "000000000007.jpg")
    picture(workplace.folder / "photos" / "other.jpg")
    workplace.source("one", "coco", [llava("000000000007.jpg", "q", "1")], "photos")
    records = [llava("other.jpg", "q", "2"), llava("COCO_val2014_000000000007.jpg", "q", "3")]
    workplace.source("two", "coco", records, "photos")
    workplace.source("three", "ali", [{"image_id": "photos/other.jpg", "caption": "4"}], ".")
    assert workplace.run() == 0
    assert {name: entry["ID"] for name, entry in workplace.read("image_map").items()} == {
        "000000000007.jpg": 0,
        "other.jpg": 1,
    }
    annotations = workplace.read("annotations")
    assert [(c["source"], c["turns"][0]["a"]) for c in annotations["0"]] == [("one", ["1"]), ("two", ["3"])]
    assert [(c["source"], c["turns"][0]["a"]) for c in annotations["1"]] == [("two", ["2"]), ("three", ["4"])]

"""Flickr30k's and COCO-CN's captions in each layout."""

from __future__ import annotations

import pytest

from common.errors import UserError

TOKEN = "1.jpg#0\tTwo guys .\n1.jpg#1\tTwo men .\n\n2.jpg#0\tA child .\n"
CSV = "image_name| comment_number| comment\n1.jpg| 0| Two guys .\n1.jpg| 1| Two men .\n2.jpg| 0| A child .\n"
JSON = {
    "images": [
        {"filename": "1.jpg", "split": "train", "sentences": [{"raw": "Two guys ."}, {"raw": "Two men ."}]},
        {"filename": "2.jpg", "split": "restval", "sentences": [{"raw": "A child ."}]},
    ],
    "dataset": "flickr30k",
}


@pytest.mark.parametrize(("name", "content"), [("a.token", TOKEN), ("results.csv", CSV), ("dataset.json", JSON)])
def test_every_layout_gathers_the_captions_of_an_image(files, name, content):
    path = files.write(name, content)
    assert files.looks_like(path) == "flickr30k"
    found = files.read("flickr30k", path)
    assert [(e.images, e.captions, e.caption_language) for e in found] == [
        (["1.jpg"], ["Two guys .", "Two men ."], "en"),
        (["2.jpg"], ["A child ."], "en"),
    ]
    assert {e.split for e in found} == ({"train"} if name.endswith("json") else {None})


def test_coco_cn_names_no_ending(files):
    path = files.write("imageid.human-written-caption.txt", "COCO_val2014_000000000042#0\t一张老式的木制课桌\n")
    assert files.looks_like(path) == "flickr30k"
    (example,) = files.read("flickr30k", path)
    assert example.images == ["COCO_val2014_000000000042.jpg"]
    assert (example.captions, example.caption_language) == (["一张老式的木制课桌"], "zh")


def test_karpathys_coco_has_a_folder_for_each_image(files):
    image = {"filepath": "val2014", "filename": "COCO_val2014_1.jpg", "split": "test", "sentences": [{"raw": "A man."}]}
    (example,) = files.read("flickr30k", files.write("dataset_coco.json", {"images": [image]}))
    assert example.images == ["val2014/COCO_val2014_1.jpg"] and example.split == "test"


def test_lines_that_are_none_have_their_reason(files):
    path = files.write("a.token", "1.jpg#0\tA man .\nno number\n2.jpg#0\tA dog .\n")
    assert files.read("flickr30k", path)[1] == "line 2 is not image#number and a caption"
    path = files.write("results.csv", CSV + "3.jpg| 4   A dog .\n")  # the published file has such a row
    assert files.read("flickr30k", path)[-1] == "row 5: has 2 cells, the header has 3"
    with pytest.raises(UserError, match="line 2 is not UTF-8 text"):
        files.read("flickr30k", files.write("a.token", "1.jpg#0\tA man .\n1.jpg#1\t多少\n".encode("gbk")))

"""COCO's captions: gathered by image, with the file name of the list of images."""

from __future__ import annotations

import pytest


def caption(image: int, text) -> dict:
    return {"image_id": image, "id": 1, "caption": text}


@pytest.mark.parametrize("images_first", [True, False])
def test_captions_are_gathered_by_image(files, images_first):
    images = {"images": [{"id": n, "file_name": f"COCO_val2014_{n:012d}.jpg"} for n in (3, 5)]}
    said = {"annotations": [caption(5, "A cat."), caption(3, "A dog."), caption(5, "一只猫"), caption(8, "Sky.")]}
    content = {"info": {}, "licenses": [{"id": 1}], **(images | said if images_first else said | images)}
    path = files.write("captions.json", content)
    assert files.looks_like(path) == "coco_captions"
    found = files.read("coco_captions", path)
    assert [(e.images, e.captions, e.caption_language) for e in found] == [
        (["COCO_val2014_000000000005.jpg"], ["A cat.", "一只猫"], "zh"),
        (["COCO_val2014_000000000003.jpg"], ["A dog."], "en"),
        (["000000000008.jpg"], ["Sky."], "en"),
    ]


def test_annotations_alone_name_their_images_by_number(files):
    path = files.write("captions.json", {"annotations": [caption(391895, "A man.")]})
    (example,) = files.read("coco_captions", path)
    assert example.images == ["000000391895.jpg"]


def test_an_annotation_without_a_caption_has_its_reason(files):
    path = files.write("captions.json", {"annotations": [caption(1, "A man."), caption(1, None), 3]})
    first, second, kept = files.read("coco_captions", path)
    assert first == "annotation 1 has no image_id or no caption"
    assert second == "annotation 2 has no image_id or no caption"
    assert kept.captions == ["A man."]

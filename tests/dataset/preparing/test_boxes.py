"""Boxes from raw annotations to annotations.json: who has them, which picture they are of, what is counted."""

from __future__ import annotations

import pytest

from dataset import boxes
from dataset.converters.base import Message
from dataset.preparing.turns import talk_from
from tests.helpers.tiny import REPO, save_clip
from tests.helpers.workplace import llava, picture

SIGLIP = [f"vision.path={(REPO / 'demo' / 'backbones' / 'siglip').as_posix()}", "vision.image_context_length=63"]
# The pictures of a workplace are 8 x 6 pixels.
RECORDS = [
    llava("a.png", "<image>\nWhere is the dog?", "<ref>the dog</ref><box>(4,3),(8,6)</box>"),
    llava("a.png", "<image>\nWhere?", "[8, 6, 4, 3]", "And the cat?", "[9, 0, 12, 3]"),
    llava("a.png", "<image>\nWhat is at [0, 0, 4, 3]?", "A <ref>cat</ref> <|im_end|>."),
    llava(None, "Where is [1, 2, 3, 4]?", "nowhere"),
]


def turns_of(workplace) -> list[tuple]:
    found = sum(workplace.read("annotations").values(), [])
    return [(turn["q"].removeprefix("<|extra_0|>\n"), *turn["a"]) for one in found for turn in one["turns"]]


def test_a_declared_source(workplace, capsys):
    picture(workplace.folder / "en" / "a.png")
    workplace.source("en", "llava", RECORDS, boxes="pixels")
    workplace.data["max_skipped"] = 0.5
    assert workplace.run(*SIGLIP) == 0
    assert turns_of(workplace) == [
        ("Where is the dog?", "<ref>the dog</ref><box>(500,500),(999,999)</box>"),
        ("Where?", "<box>(500,500),(999,999)</box>"),
        ("What is at <box>(0,0),(500,500)</box>?", "A <ref>cat</ref>."),
    ]
    printed = capsys.readouterr().out
    assert f"1 x {boxes.MENDED_REVERSED} (first in record 1 of en.json)" in printed
    assert f"1 x {boxes.REJECTED_OUTSIDE} (first in record 1 of en.json)" in printed
    assert f"has no question with an answer ({boxes.REJECTED_NO_PICTURE})" in printed


def test_an_undeclared_source_has_no_boxes(workplace):
    picture(workplace.folder / "en" / "a.png")
    workplace.source("en", "llava", RECORDS)
    assert workplace.run(*SIGLIP) == 0
    assert turns_of(workplace)[0][1] == "< ref >the dog< /ref >< box >(4,3),(8,6)< /box >"
    assert not any(boxes.boxes_in(text) for turn in turns_of(workplace) for text in turn)


def test_a_tower_that_crops(workplace, tmp_path):
    """Of 8 x 6 pixels, CLIP is shown the 6 x 6 in the middle: pixels 1 to 7."""
    picture(workplace.folder / "en" / "a.png")
    workplace.source("en", "llava", [llava("a.png", "<image>\nWhere?", "[4, 3, 8, 6]")], boxes="pixels")
    clip = f"vision.path={save_clip(tmp_path / 'clip').as_posix()}"
    assert workplace.run(clip, "vision.image_context_length=9") == 0
    assert turns_of(workplace) == [("Where?", "<box>(500,500),(999,999)</box>")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"box_format": "xywh"}, "data.sources.0.boxes: null, but box_format or box_picture says how"),
        ({"boxes": "percent"}, r'data.sources.0.boxes = "percent": expected pixels, unit, 0-999 or 0-1000'),
    ],
)
def test_what_a_source_says_of_its_boxes_must_be_whole(workplace, capsys, source, message):
    workplace.source("en", "llava", RECORDS, **source)
    assert workplace.run(*SIGLIP) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("messages", "pictures"),
    [
        (["<image><image> which?", "[0, 0, 1, 1]"], [1]),
        (["<image> and [0, 0, 1, 1]?", "yes", "<image> and [0, 0, 1, 1]?", "[0, 0, 1, 1]"], [0, 1, 1]),
        (["at [0, 0, 1, 1]?", "yes", "<image>?", "[0, 0, 1, 1]"], [0, 1]),  # the first is put before the question
        (["<image> [1, 1, 1, 1]?", "dropped", "<image>?", "[0, 0, 1, 1]"], [0, 1]),
    ],
)
def test_a_box_belongs_to_the_last_picture_before_it(messages, pictures):
    asked = []

    def size_of(number: int) -> boxes.PictureSize:
        asked.append(number)
        return boxes.PictureSize(8, 6)

    declared = boxes.SourceBoxes("pixels", "xyxy", "upright", None, size_of)
    talk = [Message(("human", "gpt")[number % 2], text) for number, text in enumerate(messages)]
    talk_from(talk, 2, declared)
    assert asked == pictures

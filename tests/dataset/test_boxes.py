"""Boxes: every way that data write them becomes the same thousandths, of the picture as the tower is shown it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil

from dataset import boxes
from dataset.boxes import (
    BoxError,
    Crop,
    PictureSize,
    SourceBoxes,
    ask_about,
    asked_about,
    boxes_in,
    crop_of,
    find_boxes,
    in_plain_words,
    labelled_boxes,
    markup_of,
    picture_asked_about,
    to_pixels,
    to_thousandths,
    upright,
    view_of,
    without_boxes,
    write_box,
)
from dataset.image import load_image, picture_size, prepare_image
from dataset.prompt import neutralise

WHOLE = view_of((200, 100), None)


def source(unit: str = "pixels", order: str = "xyxy", picture: str = "upright", size=(200, 100, 1), crop=None):
    return SourceBoxes(unit, order, picture, crop, lambda number: PictureSize(*size))


def neutral(text: str, of: SourceBoxes, picture: int = 0) -> tuple[str, dict[str, int]]:
    changes: Counter[str] = Counter()
    return of.neutral(text, picture, changes, neutralise), {reason: n for reason, n in changes.items() if n}


@pytest.mark.parametrize(
    ("unit", "order", "numbers"),
    [
        ("pixels", "xyxy", "20, 30, 120, 80"),
        ("pixels", "xywh", "20, 30, 100, 50"),
        ("unit", "xyxy", "0.1, 0.3, 0.6, 0.8"),
        ("unit", "xywh", "0.1, .3, 0.5, 5e-1"),
        ("0-999", "xyxy", "100, 300, 600, 800"),
        ("0-1000", "xyxy", "100, 300, 600, 800"),
    ],
)
def test_every_declared_form_gives_the_same_box(unit, order, numbers):
    for written in (f"[{numbers}]", f"<box>{numbers}</box>", f"<|box_start|>{numbers}<|box_end|>"):
        assert neutral(f"at {written}.", source(unit, order)) == ("at <box>(100,300),(600,800)</box>.", {})


def test_a_box_after_the_name_of_a_picture_is_of_that_picture():
    sizes = [(200, 100), (100, 200), (400, 400)]
    of = SourceBoxes("pixels", "xyxy", "upright", None, lambda number: PictureSize(*sizes[number]))
    written = (
        "Picture 1: [20, 30, 120, 80][0, 0, 100, 50] or Picture 2: <ref>it</ref>[10, 60, 60, 160]? [40, 40, 80, 80]"
    )
    first = "Picture 1: <box>(100,300),(600,800)</box><box>(0,0),(500,500)</box>"
    second = "Picture 2: <ref>it</ref><box>(100,300),(600,800)</box>"
    assert neutral(written, of, picture=2)[0] == f"{first} or {second}? <box>(100,100),(200,200)</box>"
    assert neutral("Picture 3: [20, 30, 60, 80]", of, picture=1)[0] == "Picture 3: <box>(200,150),(600,400)</box>"


def test_qwen_vls_text_is_kept_as_it_is():
    text = "<ref>bees</ref><box>(661,612),(833,812)</box><box>(120,555),(265,770)</box> near <ref>a flower</ref>"
    assert neutral(text, source("0-999")) == (text, {})
    assert labelled_boxes(text) == [("bees", (661, 612, 833, 812)), ("bees", (120, 555, 265, 770))]


@pytest.mark.parametrize(
    ("numbers", "box", "change"),
    [
        ("120, 80, 20, 30", (100, 300, 600, 800), boxes.MENDED_REVERSED),
        ("-40, 30, 120, 180", (0, 300, 600, 999), boxes.MENDED_CUT),
        ("0, 0, 200, 100", (0, 0, 999, 999), None),
        ("199.99, 0, 200, 100", (998, 0, 999, 999), None),
    ],
)
def test_boxes_are_mended_and_counted(numbers, box, change):
    text, changes = neutral(f"[{numbers}]", source())
    assert boxes_in(text) == [box] and changes == ({change: 1} if change else {})


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("[20, 30, 20, 80]", boxes.REJECTED_EMPTY),
        ("[200, 30, 220, 80]", boxes.REJECTED_OUTSIDE),
        ("[20, -30, 120, 0]", boxes.REJECTED_OUTSIDE),
        ("[1e999, 30, 120, 80]", boxes.REJECTED_NUMBERS),
        ("<box>(1,2),(3,4),(5,6),(7,8)</box>", boxes.REJECTED_NUMBERS),
        ("<box>here</box>", boxes.REJECTED_NUMBERS),
    ],
)
def test_boxes_that_cannot_be_used_are_rejected(written, reason):
    with pytest.raises(BoxError) as error:
        neutral(written, source())
    assert str(error.value) == reason


def test_a_box_without_a_picture_is_rejected():
    with pytest.raises(BoxError, match="no picture"):
        neutral("[1, 2, 3, 4]", source(), picture=-1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation(tmp_path, orientation):
    """A red block in the stored picture is where the box is in the picture as it is read, for both declarations."""
    stored, block = np.full((60, 90, 3), 255, np.uint8), (12, 6, 42, 24)
    stored[block[1] : block[3], block[0] : block[2]] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    size = picture_size(tmp_path / "a.png")
    assert size == (90, 60, orientation)
    shown = np.asarray(load_image(tmp_path / "a.png", 10**6))
    assert size.upright == (shown.shape[1], shown.shape[0])
    text, changes = neutral(f"[{', '.join(map(str, block))}]", source(picture="stored", size=size))
    left, top, right, bottom = to_pixels(boxes_in(text)[0], view_of(size.upright, None))
    is_red = shown[:, :, 1] == 0
    assert is_red[top:bottom, left:right].all() and is_red.sum() == (bottom - top) * (right - left) and not changes
    as_displayed = ", ".join(map(str, upright(block, size)))
    assert neutral(f"[{as_displayed}]", source(picture="upright", size=size))[0] == text


def test_padded_boxes_are_of_a_square_around_the_picture():
    # 200 x 100 in a square of 200: the picture begins at a quarter of the height.
    text, changes = neutral("[0.1, 0.4, 0.6, 0.65]", source("unit", picture="padded"))
    assert boxes_in(text) == [(100, 300, 600, 800)] and not changes
    with pytest.raises(BoxError, match="outside"):
        neutral("[0.1, 0.0, 0.6, 0.2]", source("unit", picture="padded"))


@pytest.mark.parametrize(("shortest", "side"), [(40, 40), (48, 40), (40, 56)])
def test_a_tower_that_crops_is_shown_the_box_in_what_is_left(shortest, side):
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": shortest}, crop_size={"height": side, "width": side}, do_normalize=False
    )
    crop = crop_of(processor.to_dict())
    assert crop == Crop(shortest, side)
    picture = Image.new("RGB", (240, 120), "white")
    picture.paste((255, 0, 0), (108, 30, 156, 90))
    text, _ = neutral("[108, 30, 156, 90]", source(size=(240, 120, 1), crop=crop))
    shown = prepare_image(picture, processor).numpy()
    red = (shown[0] > 0.5) & (shown[1] < 0.5)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / side * 1000
    assert np.abs(found - boxes_in(text)[0]).max() <= 1000 / side  # a pixel of what the tower is shown
    assert to_pixels(boxes_in(text)[0], view_of((240, 120), crop)) == (108, 30, 156, 90)


def test_siglip_crops_nothing_and_clip_does_by_default():
    assert crop_of({"image_processor_type": "SiglipImageProcessor", "size": {"height": 384, "width": 384}}) is None
    assert crop_of({"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224}) == (224, 224)
    assert crop_of({"image_processor_type": "CLIPImageProcessor", "do_center_crop": False}) is None


@given(st.tuples(*[st.floats(0, 1)] * 4))
@settings(max_examples=60, deadline=None)
def test_pixels_survive_the_way_there_and_back(shares):
    left, right = sorted((round(shares[0] * 200), round(shares[2] * 200)))
    top, bottom = sorted((round(shares[1] * 100), round(shares[3] * 100)))
    if left < right and top < bottom:
        corners = (left, top, right, bottom)
        assert to_pixels(to_thousandths(corners, WHOLE), WHOLE) == corners


MARKUP = st.text(st.sampled_from(list("<>/|refboxRB _(),0123456789[]")), max_size=30) | st.sampled_from(
    ["<box>(1,2),(3,4)</box>", "<ref>a</ref>", "<REF>", "</Box>", "<|box_start|>", "<|object_ref_end|>", "<image>"]
)


@given(st.lists(MARKUP, max_size=6).map("".join))
@settings(max_examples=150, deadline=None)
def test_no_typed_text_makes_a_box(text):
    for typed in (neutralise(text), neutralise(neutralise(text))):
        assert not boxes_in(typed) and not any(mark in typed.lower() for mark in boxes.MARKS)
        assert asked_about(typed) == ([], typed)


@given(st.lists(MARKUP, max_size=6).map("".join))
@settings(max_examples=150, deadline=None)
def test_a_declared_source_gives_only_whole_marks(text):
    try:
        found, _ = neutral(text, source())
    except BoxError:
        return
    bare = boxes._NEUTRAL.sub("", found)
    assert not any(mark in bare.lower() for mark in boxes.MARKS) and "<|box_start|>" not in found


def test_questions_about_boxes():
    asked = ask_about([(1, 2, 30, 40), (5, 6, 70, 80)], "What is this?")
    assert asked == "<box>(1,2),(30,40)</box><box>(5,6),(70,80)</box> What is this?"
    assert asked_about(asked) == ([(1, 2, 30, 40), (5, 6, 70, 80)], "What is this?")
    assert without_boxes(asked) == "What is this?" and without_boxes("<ref>a bus</ref> here") == "a bus here"
    assert boxes_in("<box>(9,9),(3,20)</box><box>(1,1),(1,5)</box>") == []
    named = ask_about([(1, 2, 30, 40)], "What is this?", 2)
    assert named == "Picture 2: <box>(1,2),(30,40)</box> What is this?" and picture_asked_about(asked) is None
    assert asked_about(named) == ([(1, 2, 30, 40)], "What is this?") and picture_asked_about(named) == 2
    assert asked_about("Picture 2: What is this?") == ([], "Picture 2: What is this?")


def test_what_a_reader_who_sees_the_boxes_need_not_see():
    """The boxes of one label share its words; numbers that cannot be drawn stay, and so do those without a label."""
    first, second, bare = write_box((1, 2, 30, 40)), write_box((5, 5, 9, 9)), write_box((0, 0, 9, 9))
    wrong = "<box>(600,42),(570,264)</box>"
    text = f"{bare} and <ref>bees</ref>{first}{second}, <ref>a dog</ref>{wrong}"
    shown = list(text)
    for start, end in markup_of(text):
        shown[start:end] = [""] * (end - start)
    assert "".join(shown) == "(0,0),(9,9) and bees, a dog(600,42),(570,264)"
    plain = in_plain_words(text, lambda box: f"[{box[0]}]")
    assert plain == f"[0] and bees [1] [5], a dog{wrong[5:-6]}"
    written = [(found.label, text[found.start : found.end]) for found in find_boxes(text)]
    bees = f"<ref>bees</ref>{first}"
    assert written == [("", bare), ("bees", bees), ("bees", bees + second)]


def seen_of(text: str, grows: bool) -> str:
    shown = list(text)
    for start, end in markup_of(text, grows):
        shown[start:end] = [""] * (end - start)
    return "".join(shown)


def test_an_answer_in_progress_shows_no_part_of_a_mark():
    """What is seen at any time is the beginning of what is seen at the end."""
    dogs = "<ref>a dog</ref><box>(1,2),(30,40)</box><box>(5,5),(9,9)</box>"
    text = f"It is {dogs} and <ref>狗</ref><box>(0,0),(9,9)</box>, 1 < 2."
    for length in range(len(text) + 1):
        shown = seen_of(text[:length], grows=True)
        assert "It is a dog and 狗, 1 < 2.".startswith(shown)
    assert seen_of(text, grows=False) == "It is a dog and 狗, 1 < 2."


MARKS_AND_WORDS = ["<", ">", "/", *boxes.MARKS, "<BOX>", "(1,2),(30,40)", "(9,9),(3,4)", "a bus", " ", "f"]


@given(text=st.lists(st.sampled_from([*MARKS_AND_WORDS, write_box((1, 2, 30, 40)), "<ref>a bus</ref>"])).map("".join))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_an_answer_in_progress_in_plain_words_only_grows(text):
    """Whatever it becomes, what was printed is never taken back."""
    shown = ""
    for length in range(len(text) + 1):
        longer = in_plain_words(text[:length], str, grows=True)
        assert longer.startswith(shown)
        shown = longer
    assert in_plain_words(text, str).startswith(shown)


@pytest.mark.parametrize(
    ("stopped", "shown"),
    [
        ("<ref>a dog</ref><box>(1,2),(3", "a dog"),
        ("<ref>a dog</ref><box>(1,2),(30,40)</b", "a dog"),
        ("<ref>a do", "a do"),
        ("a < b, <", "a < b, <"),  # a sign that an answer may end with
        ("<box>here</box> </ref>", "here "),
    ],
)
def test_an_answer_that_was_stopped_or_has_odd_marks_shows_none(stopped, shown):
    assert seen_of(stopped, grows=False) == in_plain_words(stopped, str) == shown

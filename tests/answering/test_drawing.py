"""Boxes typed in pixels, found in answers and drawn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from answering.drawing import ANSWERED, ASKED, boxes_of_answer, check_drawing, draw_answer, parse_box, parse_boxes
from common.errors import UserError
from dataset.boxes import Crop

ANSWER = "<ref>the dog</ref><box>(100,300),(600,800)</box> and <box>(0,0),(999,999)</box>"


def test_pixels_of_the_displayed_picture():
    assert parse_box("20,30,120, 80", [(200, 100)], None) == ((100, 300, 600, 800), 0)
    assert boxes_of_answer(ANSWER, (200, 100), None) == [("the dog", (20, 30, 120, 80)), ("", (0, 0, 200, 100))]
    # Of 200 x 100, CLIP is shown the 100 x 100 in the middle.
    assert parse_box("60,30,110,80", [(200, 100)], Crop(50, 50)) == ((100, 300, 600, 800), 0)
    assert boxes_of_answer(ANSWER, (200, 100), Crop(50, 50))[0] == ("the dog", (60, 30, 110, 80))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3", "--box 1,2,3: expected left,top,right,bottom in pixels"),
        ("a,b,c,d", "expected left,top,right,bottom"),
        ("nan,1,2,3", "a box that is not four numbers; the picture has 200 x 100 pixels"),
        ("5,5,5,9", "an empty box; the picture has 200 x 100 pixels"),
        ("300,5,310,9", "a box outside its picture; the picture has 200 x 100 pixels"),
        ("1:300,5,310,9", "--box 1:300,5,310,9: a box outside its picture; the picture has 200 x 100 pixels"),
        ("a:1,2,3,4", "--box a:1,2,3,4: expected left,top,right,bottom in pixels"),
        ("2:1,2,3,4", "--box 2:1,2,3,4: no picture 2; there are 1, counted from 1"),
        ("0:1,2,3,4", "--box 0:1,2,3,4: no picture 0; there are 1, counted from 1"),
    ],
)
def test_what_is_no_box_is_said(text, message):
    with pytest.raises(UserError) as error:
        parse_box(text, [(200, 100)], None)
    assert message in str(error.value)


def test_boxes_are_on_the_last_picture_or_on_the_one_that_they_name():
    sizes = [(200, 100), (100, 200)]
    assert parse_boxes([], sizes, None) == ([], None)
    assert parse_boxes(["20,30,60,80", "2:0,0,50,50"], sizes, None) == ([(200, 150, 600, 400), (0, 0, 500, 250)], 1)
    assert parse_boxes(["1:20,30,120,80"], sizes, None) == ([(100, 300, 600, 800)], 0)
    with pytest.raises(UserError, match="^--box: boxes on pictures 1 and 2; a question is about boxes of one picture$"):
        parse_boxes(["20,30,60,80", "1:20,30,120,80"], sizes, None)


def test_boxes_are_drawn_in_two_colours(tmp_path):
    image = Image.new("RGB", (200, 100), "white")
    asked = [(500, 500, 700, 900)]
    assert draw_answer(image, asked, ANSWER + "<ref>狗</ref><box>(1,1),(5,5)</box>", None, tmp_path / "a.png") == 3
    drawn = np.asarray(Image.open(tmp_path / "a.png"))
    red, orange = ImageColor.getrgb(ANSWERED), ImageColor.getrgb(ASKED)
    assert tuple(drawn[79, 80]) == red and tuple(drawn[60, 100]) == orange and tuple(drawn[60, 110]) == (255,) * 3
    assert image.getpixel((80, 79)) == (255, 255, 255)
    with pytest.raises(UserError, match="cannot be written"):
        draw_answer(image, [], ANSWER, None, tmp_path / "no" / "a.png")
    with pytest.raises(UserError, match="expected a name that ends in .png"):
        check_drawing(tmp_path / "a.txt")

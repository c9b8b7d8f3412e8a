"""Several pictures in a conversation, by real keys and clicks on a virtual screen."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from dataset.prompt import IMAGE_TOKEN, Request, Turn
from tests.helpers.clips import write_clip
from tests.helpers.screen import answers, loaded, seen
from tests.helpers.tiny import picture

pytest.importorskip("tkinter", reason="this Python has no Tk")

from window.pictures import filedialog  # noqa: E402
from window.preferences import Preferences  # noqa: E402


@pytest.fixture
def choose(monkeypatch):
    """A function that says which files the file dialogue will give."""

    def choose(*files) -> None:
        monkeypatch.setattr(filedialog, "askopenfilenames", lambda **options: tuple(map(str, files)))

    return choose


@pytest.fixture
def green(tmp_path):
    Image.new("RGB", (80, 40), "green").save(tmp_path / "green.png")
    return tmp_path / "green.png"


def add(window, person, number: int) -> None:
    person.press("Control_L", "Shift_L", "o")
    person.until(lambda: len(window.conversation.images) == number and window.pictures.reading is None)


def asks(person, window, question: str) -> None:
    person.type(question)
    person.press("Return")
    person.until(lambda: window.asking is None and window.maps.looking is None)


def names(window) -> list[str]:
    return [path.rpartition("/")[2] for path in window.conversation.paths]


def thumbs(window) -> list:
    return window.view.strip_bar.thumbs if window.view.strip_bar.winfo_ismapped() else []


def test_a_second_picture_is_asked_about_with_the_first(open_window, assistant, red, blue, choose, config_home):
    images = [picture("red"), picture("blue")]
    first = Turn(f"{IMAGE_TOKEN}\nWhat?")
    first.answer = assistant.answer([Request([first], images[:1])])[0]
    second = Turn(f"{IMAGE_TOKEN}\nand this?")
    second.answer = assistant.answer([Request([first, second], images)])[0]
    window, person = open_window(red, preferences=Preferences(look=True))
    loaded(window, person)
    asks(person, window, "What?")
    assert thumbs(window) == []
    choose(blue)
    add(window, person, 2)
    assert names(window) == ["red.png", "blue.png"] and "What?" in seen(window)  # the conversation continues
    assert window.view.pane.preview.getpixel((0, 0)) == (0, 0, 255) and len(thumbs(window)) == 2
    assert "2/2  blue.png" in window.view.picture_name.cget("text")
    asks(person, window, "and this?")
    assert answers(window) == [first.answer, second.answer]
    window.keeping.keep_now()
    window.keeping.history.close()
    (file,) = (config_home / "ask-a-picture" / "conversations").glob("*.json")
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert [turn["images"] for turn in kept["turns"]] == [1, 1]
    turns = [turn.question for turn in window.conversation.turns]
    window.keeping.open(file.stem)
    person.until(lambda: window.pictures.reading is None)
    assert [turn.question for turn in window.conversation.turns] == turns == [first.question, second.question]
    assert len(thumbs(window)) == 2


def test_each_picture_has_its_own_heat_map(open_window, assistant, red, blue, choose):
    window, person = open_window(red, preferences=Preferences(look=True))
    loaded(window, person)
    choose(blue)
    add(window, person, 2)
    asks(person, window, "What?")
    request = window.conversation.up_to(0)
    maps = [assistant.where_it_looks(request, picture=number).of(None) for number in (0, 1)]
    assert np.allclose(window.view.pane.grid_shown, maps[1], equal_nan=True)
    person.click(thumbs(window)[0])
    person.until(lambda: window.view.pane.grid_shown is not None)
    assert window.view.pane.preview.getpixel((0, 0)) == (255, 0, 0)
    assert np.allclose(window.view.pane.grid_shown, maps[0], equal_nan=True)
    assert not np.allclose(*maps, equal_nan=True)
    person.press("Control_L", "Next")
    assert window.strip.shown == 1 and np.allclose(window.view.pane.grid_shown, maps[1], equal_nan=True)


def test_pictures_that_wait_for_a_question_are_moved_and_removed(open_window, red, blue, green, choose):
    window, person = open_window(red)
    loaded(window, person)
    asks(person, window, "What?")
    choose(blue, green)
    add(window, person, 3)
    buttons = window.view.strip_bar.buttons
    person.click(buttons["◀"])
    assert names(window) == ["red.png", "green.png", "blue.png"] and window.strip.shown == 1
    person.click(buttons["◀"])  # the first is one that an answer is about
    assert names(window) == ["red.png", "green.png", "blue.png"]
    person.click(buttons["×"])
    assert names(window) == ["red.png", "blue.png"] and window.strip.shown == 1
    person.click(thumbs(window)[0])
    assert window.strip.shown == 0 and buttons["×"].instate(["disabled"]) and buttons["▶"].instate(["disabled"])
    person.click(window.view.question_box.entry)
    asks(person, window, "and?")
    assert window.conversation.turns[1].question == f"{IMAGE_TOKEN}\nand?"
    person.click(thumbs(window)[1])
    assert buttons["×"].instate(["disabled"])  # now it was asked about
    person.press("Control_L", "n")
    assert names(window) == ["red.png", "blue.png"] and buttons["×"].instate(["!disabled"])


def test_a_rectangle_belongs_to_the_last_picture(open_window, red, green, choose):
    window, person = open_window(red)
    loaded(window, person)
    window.boxes.choose((1, 2, 20, 30))
    choose(green)
    add(window, person, 2)
    assert window.boxes.pending is None  # it was of the first picture
    person.press("Control_L", "b")
    assert window.boxes.pending == (26, 13, 53, 26)
    person.press("Return")
    person.press("Control_L", "Prior")
    assert window.view.pane.canvas.find_withtag("pending") == ()
    person.press("Control_L", "b")
    assert window.view.map_note.cget("text").startswith("A rectangle belongs to the last picture")
    person.press("Control_L", "Next")
    assert len(window.view.pane.canvas.find_withtag("pending")) == 1


def test_adding_to_an_empty_window_begins_a_conversation(open_window, red, blue, tmp_path, choose):
    window, person = open_window()
    loaded(window, person)
    choose(red, blue)
    add(window, person, 2)
    (tmp_path / "broken.png").write_bytes(b"no")
    choose(tmp_path / "broken.png")
    person.press("Control_L", "Shift_L", "o")
    person.until(lambda: "Cannot open broken.png" in seen(window))
    assert names(window) == ["red.png", "blue.png"]


def test_the_frames_of_a_video_are_pictures_that_are_kept(open_window, tmp_path, config_home):
    pytest.importorskip("av", reason="PyAV, which reads videos, is not installed")
    window, person = open_window()
    loaded(window, person)
    window.pictures.open(str(write_clip(tmp_path / "clip.mp4", frames=40, rate=10)))
    person.until(lambda: window.pictures.reading is None)
    assert names(window) == [f"clip.mp4 {second:.1f} s" for second in (0.2, 0.7, 1.2, 1.7, 2.2, 2.7, 3.2, 3.7)]
    assert len(thumbs(window)) == 8 and window.strip.shown == 7
    asks(person, window, "What?")
    assert window.conversation.turns[0].question == IMAGE_TOKEN * 8 + "\nWhat?" and answers(window)[0]
    shades = [image.getpixel((9, 9)) for image in window.conversation.images]
    assert shades == sorted(shades) and len(set(shades)) == 8
    window.keeping.keep_now()
    window.keeping.history.close()
    window.keeping.open(window.keeping.name)
    person.until(lambda: window.pictures.reading is None)
    assert [image.getpixel((9, 9)) for image in window.conversation.images] == shades
    (tmp_path / "no.mp4").write_bytes(b"no video")
    window.pictures.open(str(tmp_path / "no.mp4"))
    person.until(lambda: "Cannot open no.mp4" in seen(window))
    assert len(window.conversation.images) == 8

"""Several pictures in a conversation, by real keys and clicks on a virtual screen."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from answering.conversation import Conversation
from answering.drawing import asked_box
from dataset.boxes import write_box
from dataset.prompt import IMAGE_TOKEN, Request, Turn
from tests.conftest import save_untrained
from tests.helpers.clips import write_clip
from tests.helpers.screen import answers, endless, loaded, seen
from tests.helpers.tiny import picture

pytest.importorskip("tkinter", reason="this Python has no Tk")

from window.pictures import filedialog  # noqa: E402
from window.preferences import Preferences  # noqa: E402


@pytest.fixture
def checkpoint(make_config, tmp_path):
    """The tiny model, as if it was trained on boxes."""
    return save_untrained(
        make_config("data.sources.0.boxes=pixels"), tmp_path / "checkpoints" / "test" / "checkpoint-1"
    )


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
    person.until(lambda: window.questions.job is None and window.maps.looking is None)


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


def test_a_pasted_picture_joins_the_conversation_and_control_z_takes_it_away(open_window, red, blue, green):
    window, person = open_window(red)
    loaded(window, person)
    asks(person, window, "What?")

    def paste(*files) -> None:
        window.root.clipboard_clear()
        window.root.clipboard_append("\n".join(map(str, files)))
        person.press("Control_L", "v")
        person.until(lambda: window.pictures.reading is None)

    paste(blue)
    assert names(window) == ["red.png", "blue.png"] and "What?" in seen(window)
    assert window.view.status_label.cget("text") == "Added blue.png. Ctrl+Z undoes it."
    person.press("Control_L", "z")
    assert names(window) == ["red.png"] and thumbs(window) == [] and window.strip.shown == 0
    assert "Added" not in window.view.status_label.cget("text")
    person.type("and")
    paste(blue, green)
    assert window.view.status_label.cget("text") == "Added 2 pictures. Ctrl+Z undoes it."
    person.press("x")
    person.press("Control_L", "z")  # first the text that was typed last
    assert len(names(window)) == 3 and window.view.question_box.text != "andx"
    window.view.question_box.text = "and"
    person.click(window.view.strip_bar.buttons["×"])
    assert names(window) == ["red.png", "blue.png"]
    person.press("Control_L", "z")
    assert names(window) == ["red.png", "blue.png", "green.png"]
    person.click(window.view.transcript.text)
    person.press("Control_L", "z")
    assert names(window) == ["red.png"] and window.view.question_box.text == "and"
    paste(blue)  # as before, though the focus is in the conversation
    asks(person, window, "")
    person.click(window.view.transcript.text)
    person.press("Control_L", "z")
    assert names(window) == ["red.png", "blue.png"] and len(answers(window)) == 2  # it was asked about


def test_a_picture_that_comes_during_an_answer_waits_for_the_next_question(open_window, red, blue):
    window, person = open_window(red)
    loaded(window, person)
    endless(window)
    person.type("one")
    person.press("Return")
    person.until(lambda: window.questions.partial)
    window.pictures.drop(str(blue))
    window.pictures.drop(str(red))  # before the first is read
    person.until(lambda: len(window.conversation.images) == 3)
    assert window.questions.job is not None and window.strip.waits is False
    person.press("Escape")
    person.until(lambda: window.questions.job is None)
    window.preferences.max_new_tokens = 4
    asks(person, window, "two")
    assert [turn.question for turn in window.conversation.turns] == [
        f"{IMAGE_TOKEN}\none",
        f"{IMAGE_TOKEN * 2}\ntwo",
    ]


def test_a_rectangle_is_on_the_picture_that_is_shown(open_window, assistant, red, green, choose):
    images = [picture("red"), Image.new("RGB", (80, 40), "green")]
    width, height = images[0].size
    corners = (width // 4, height // 2, width * 3 // 4, height * 3 // 4)
    box = f"Picture 1: {write_box(asked_box(corners, images[0].size, None))} What?"
    asked = Turn(f"{IMAGE_TOKEN * 2}\n{box}")
    wanted = assistant.answer([Request([asked], images)])[0]
    window, person = open_window(red)
    loaded(window, person)
    choose(green)
    add(window, person, 2)
    person.press("Control_L", "Prior")
    canvas, (left, top, wide, high) = window.view.pane.canvas, window.view.pane.drawn_at
    first = canvas.winfo_rootx() + left + wide // 4, canvas.winfo_rooty() + top + high // 2
    person.drag(first, (first[0] + wide // 2, first[1] + high // 4))
    assert window.boxes.pending == pytest.approx(corners, abs=1) and window.boxes.picture == 0
    window.boxes.choose(corners)  # a pixel of the screen is more than one of the picture
    chip = window.view.question_box.box_chip
    assert chip.label.cget("text") == "▭ " + ",".join(map(str, corners)) + "  picture 1"
    assert chip.hint.cget("text").startswith("This model was trained without numbers of pictures")
    person.press("Control_L", "Next")
    assert canvas.find_withtag("pending") == () and window.boxes.picture == 0  # it stays on its picture
    asks(person, window, "What?")
    assert window.conversation.turns[0].question == asked.question and answers(window) == [wanted]
    assert f"{','.join(map(str, corners))}  picture 1\nWhat?" in seen(window)
    assert len(canvas.find_withtag("asked")) == 1 and window.strip.shown == 0  # the picture that it is on
    person.press("Control_L", "Next")
    assert canvas.find_withtag("asked") == ()
    person.press("Control_L", "b")
    assert window.boxes.pending == (26, 13, 53, 26) and window.boxes.picture == 1
    person.press("Return")
    asks(person, window, "And this?")
    assert window.conversation.turns[1].question == "<box>(325,325),(662,650)</box> And this?"
    window.view.transcript.actions["again"](0)
    person.until(lambda: window.questions.job is None)
    assert window.conversation.turns[2].question == box
    window.view.transcript.actions["look"](1)
    assert window.strip.shown == 1


def test_a_rectangle_goes_where_its_picture_goes_and_is_kept_with_it(open_window, red, blue, green, choose):
    window, person = open_window(red)
    loaded(window, person)
    choose(green, blue)
    add(window, person, 3)
    person.press("Control_L", "Prior")
    window.boxes.choose((8, 4, 40, 20))
    person.click(window.view.strip_bar.buttons["◀"])
    assert names(window) == ["green.png", "red.png", "blue.png"] and window.boxes.picture == 0
    person.click(window.view.question_box.entry)
    person.type("What?")
    window.keeping.keep_now()
    window.keeping.history.close()
    name = window.keeping.name
    window.view.question_box.text = ""
    person.press("Control_L", "n")
    assert window.boxes.pending is None
    window.keeping.open(name)
    person.until(lambda: window.pictures.reading is None)
    assert window.view.question_box.text == "What?"
    assert (window.boxes.pending, window.boxes.picture) == ((8, 4, 40, 20), 0)
    person.click(thumbs(window)[0])
    person.click(window.view.strip_bar.buttons["×"])
    assert window.boxes.pending is None and names(window) == ["red.png", "blue.png"]


def test_of_many_pictures_those_next_to_the_shown_one_are_in_the_row(open_window, red, choose):
    window, person = open_window(red)
    loaded(window, person)
    choose(*[red] * 29)
    add(window, person, 30)
    bar = window.view.strip_bar

    def inside() -> list[int]:
        window.root.update()
        return [index for index, thumb in enumerate(bar.thumbs) if thumb.winfo_ismapped()]

    some = len(inside())
    assert 3 < some < 20 and inside() == list(range(30 - some, 30))
    assert all(button.winfo_ismapped() for button in bar.buttons.values())
    person.click(bar.thumbs[30 - some])
    assert window.strip.shown == 30 - some and window.strip.shown - 1 in inside() and len(inside()) == some
    window.strip.show(0)
    assert inside() == list(range(some))
    window.root.geometry("760x480")
    person.until(lambda: 0 < len(inside()) < some)


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


@pytest.fixture
def clip(tmp_path):
    pytest.importorskip("av", reason="PyAV, which reads videos, is not installed")
    return write_clip(tmp_path / "clip.mp4", frames=40, rate=10)


def test_the_frames_of_a_video_are_pictures_with_their_times(open_window, clip, tmp_path, monkeypatch):
    window, person = open_window()
    loaded(window, person)
    window.pictures.open(str(clip))
    person.until(lambda: window.pictures.reading is None)
    times = ["0.2 s", "0.7 s", "1.2 s", "1.7 s", "2.2 s", "2.7 s", "3.2 s", "3.7 s"]
    assert [thumb.cget("text") for thumb in thumbs(window)] == times and window.strip.shown == 7
    assert window.view.picture_name.cget("text").startswith("8/8  clip.mp4 3.7 s") and window.notes == []
    asks(person, window, "What?")
    assert window.conversation.turns[0].question == IMAGE_TOKEN * 8 + "\nWhat?" and answers(window)[0]
    shades, turns = [image.getpixel((9, 9)) for image in window.conversation.images], window.conversation.turns
    assert shades == sorted(shades) and len(set(shades)) == 8
    monkeypatch.setattr(filedialog, "asksaveasfilename", lambda **options: str(tmp_path / "talk.json"))
    person.press("Control_L", "s")
    window.keeping.keep_now()
    window.keeping.history.close()
    kept = window.keeping.name
    for open_again in (
        lambda: window.pictures.open_conversation(tmp_path / "talk.json"),
        lambda: window.keeping.open(kept),
    ):
        window.begin(Conversation())
        open_again()
        person.until(lambda: window.pictures.reading is None)
        assert [image.getpixel((9, 9)) for image in window.conversation.images] == shades
        assert window.conversation.turns == turns and [thumb.cget("text") for thumb in thumbs(window)] == times
    assert window.keeping.history.recent_pictures(6)[0][0] == str(clip)
    (tmp_path / "no.mp4").write_bytes(b"no video")
    window.pictures.open(str(tmp_path / "no.mp4"))
    person.until(lambda: "Cannot open no.mp4" in seen(window))
    assert len(window.conversation.images) == 8


def test_frames_that_do_not_fit_are_not_shown_which_the_window_says(open_window, clip, red):
    """The model has 8 tokens a picture in 256, and 12 for each time; the answer may have 90."""
    window, person = open_window(red, preferences=Preferences(max_new_tokens=90))
    loaded(window, person)
    window.pictures.add([str(clip)])
    person.until(lambda: window.pictures.reading is None)
    note = "4 of 8 frames of clip.mp4: each takes 8 tokens of language.max_length = 256."
    assert note in seen(window) and len(window.conversation.images) == 5
    window.pictures.add([str(clip)])
    person.until(lambda: window.pictures.reading is None)
    assert "Cannot open clip.mp4: no room for a frame: each takes 8 tokens" in seen(window)
    asks(person, window, "What?")
    assert len(answers(window)) == 1


class TestModelThatWasTrainedWithTimes:
    @pytest.fixture
    def checkpoint(self, make_config, tmp_path):
        config = make_config("data.video_times=true", "data.video_frames=2")
        return save_untrained(config, tmp_path / "checkpoints" / "test" / "checkpoint-1")

    def test_it_is_told_the_times_of_frames(self, open_window, clip, red):
        window, person = open_window(red)
        loaded(window, person)
        window.pictures.add([str(clip)])
        person.until(lambda: window.pictures.reading is None)
        asks(person, window, "What?")
        asked = "<|extra_0|><frame 1.0s><|extra_0|><frame 3.0s><|extra_0|>\nWhat?"
        assert window.conversation.turns[0].question == asked
        window.keeping.keep_now()
        window.keeping.history.close()
        window.keeping.open(window.keeping.name)
        person.until(lambda: window.pictures.reading is None)
        assert window.conversation.turns[0].question == asked and window.conversation.times

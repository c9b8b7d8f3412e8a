"""Rectangles on the picture and boxes over it, by real keys and mouse movements on a virtual screen."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from answering.assistant import Assistant
from answering.conversation import Conversation
from answering.worker import Problem
from dataset.image import load_image
from dataset.prompt import Request, Turn
from tests.conftest import save_untrained
from tests.helpers.screen import answers, loaded, seen, talked

pytest.importorskip("tkinter", reason="this Python has no Tk")

from window.preferences import Preferences  # noqa: E402

TWO = "<ref>the dog</ref><box>(100,200),(500,600)</box> and <ref>狗</ref><box>(500,0),(999,999)</box>."


@pytest.fixture
def checkpoint(make_config, tmp_path):
    """The tiny model, as if it was trained on boxes."""
    config = make_config("data.sources.0.boxes=pixels")
    return save_untrained(config, tmp_path / "checkpoints" / "test" / "checkpoint-1")


@pytest.fixture
def wide(tmp_path):
    """A picture of 200 x 100 pixels that its EXIF data turn from 100 x 200."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (100, 200), "green").save(tmp_path / "wide.png", exif=exif)
    return tmp_path / "wide.png"


def on_screen(window, x: float, y: float) -> tuple[int, int]:
    """A point of the picture, in shares of its sides, on the screen."""
    canvas, (left, top, width, height) = window.view.pane.canvas, window.view.pane.drawn_at
    return canvas.winfo_rootx() + left + round(x * width), canvas.winfo_rooty() + top + round(y * height)


def drag(window, person, first: tuple[float, float], second: tuple[float, float], **options) -> None:
    person.drag(on_screen(window, *first), on_screen(window, *second), **options)


def chip(window) -> str:
    window.root.update()
    box = window.view.question_box.box_chip
    return box.label.cget("text") if box.winfo_ismapped() else ""


def drawn(window, tag: str) -> list[tuple[int, ...]]:
    """The corners of what is drawn over the picture with a tag, in thousandths of the picture."""
    canvas, (left, top, width, height) = window.view.pane.canvas, window.view.pane.drawn_at
    return [
        (
            round(1000 * (x1 - left) / width),
            round(1000 * (y1 - top) / height),
            round(1000 * (x2 - left) / width),
            round(1000 * (y2 - top) / height),
        )
        for x1, y1, x2, y2 in map(canvas.coords, canvas.find_withtag(tag))
    ]


def captions_on(window) -> list[str]:
    canvas = window.view.pane.canvas
    return [canvas.itemcget(item, "text") for item in canvas.find_withtag("caption")]


def widths(window) -> list[float]:
    canvas = window.view.pane.canvas
    return [float(canvas.itemcget(f"answer-{number}", "width")) for number in (0, 1)]


def test_a_dragged_rectangle_is_asked_about_as_ask_py_does_and_is_kept(assistant, open_window, wide, config_home):
    asked = [Turn("<|extra_0|>\n<box>(100,200),(600,800)</box> What?")]
    wanted = assistant.answer([Request(asked, [load_image(wide, 10**6)])])
    window, person = open_window(wide, preferences=Preferences(size=125))
    loaded(window, person)
    drag(window, person, (0.6, 0.8), (0.1, 0.2))
    assert chip(window) == "▭ 20,20,120,80" and window.view.question_box.box_chip.hint.cget("text") == ""
    assert drawn(window, "pending") == [pytest.approx((100, 200, 600, 800), abs=4)]
    person.type("What?")
    person.press("Return")
    person.until(lambda: window.questions.job is None)
    assert answers(window) == wanted and wanted[0]
    assert chip(window) == "" and "▭ 20,20,120,80\nWhat?" in seen(window)
    assert drawn(window, "pending") == [] and drawn(window, "asked") == [pytest.approx((100, 200, 600, 800), abs=4)]
    window.keeping.keep_now()
    window.keeping.history.close()
    (file,) = (config_home / "ask-a-picture" / "conversations").glob("*.json")
    (turn,) = json.loads(file.read_text(encoding="utf-8"))["turns"]
    assert (turn["question"], turn["boxes"]) == ("What?", [[100, 200, 600, 800]])
    window.keeping.open(file.stem)
    person.until(lambda: window.pictures.reading is None)
    assert "▭ 20,20,120,80\nWhat?" in seen(window) and len(drawn(window, "asked")) == 1
    window.view.transcript.actions["again"](0)
    person.until(lambda: window.questions.job is None)
    assert [turn.question for turn in window.conversation.turns] == [
        "<|extra_0|>\n<box>(100,200),(600,800)</box> What?",
        "<box>(100,200),(600,800)</box> What?",
    ]


def test_a_second_drag_replaces_the_rectangle_and_escape_or_its_x_removes_it(open_window, wide):
    window, person = open_window(wide)
    loaded(window, person)
    drag(window, person, (0.1, 0.1), (0.5, 0.5))
    drag(window, person, (0.5, 0.5), (1.2, 1.2))  # beyond the picture
    assert chip(window) == "▭ 100,50,200,100"
    person.click_at(*on_screen(window, 0.2, 0.2))  # a click is no rectangle
    assert chip(window) == "▭ 100,50,200,100"
    drag(window, person, (0.1, 0.1), (0.3, 0.3), release=False)
    assert chip(window) == "▭ 100,50,200,100" and drawn(window, "pending") == [
        pytest.approx((100, 100, 300, 300), abs=4)
    ]
    person.press("Escape")
    person.release()
    assert chip(window) == "▭ 100,50,200,100" and drawn(window, "pending")[0][0] == 500
    person.press("Escape")
    assert chip(window) == "" and drawn(window, "pending") == []
    drag(window, person, (0.1, 0.1), (0.5, 0.5))
    person.click(window.view.question_box.box_chip.button)
    assert chip(window) == "" and window.boxes.pending is None


def test_a_rectangle_is_made_with_keys(open_window, wide):
    window, person = open_window(wide)
    loaded(window, person)
    person.press("Control_L", "b")
    assert chip(window) == "▭ 66,33,133,66" and "Arrows move" in window.view.map_note.cget("text")
    person.press("Left")
    person.press("Down")
    person.press("Shift_L", "Right")
    person.press("Shift_L", "Up")
    assert chip(window) == "▭ 62,35,133,66"
    for _ in range(40):
        person.press("Up")
    assert chip(window) == "▭ 62,0,133,31"
    person.press("Return")
    assert window.view.map_note.cget("text") == ""
    person.type("a")
    assert window.view.question_box.text == "a" and chip(window) == "▭ 62,0,133,31"
    person.press("Control_L", "b")
    person.press("Escape")
    assert chip(window) == "" and window.root.focus_get() is window.view.question_box.entry


def test_a_model_without_boxes_says_so_and_is_not_asked(open_window, wide, monkeypatch):
    monkeypatch.setattr(Assistant, "takes_boxes", False)
    window, person = open_window(wide)
    loaded(window, person)
    drag(window, person, (0.1, 0.1), (0.5, 0.5))
    assert window.view.question_box.box_chip.hint.cget("text").startswith("This model has not learnt boxes")
    person.type("What?")
    person.press("Return")
    assert window.conversation.turns == [] and window.view.question_box.text == "What?"
    assert window.view.question_box.reason.startswith("This model has not learnt boxes")
    person.press("Escape")
    assert window.view.question_box.reason == ""
    person.press("Return")
    person.until(lambda: window.questions.job is None)
    assert window.conversation.turns[0].question == "<|extra_0|>\nWhat?"


def test_a_model_that_only_has_the_tokens_is_asked_with_a_warning(open_window, wide, monkeypatch):
    monkeypatch.setattr(Assistant, "learnt_boxes", False)
    window, person = open_window(wide)
    loaded(window, person)
    drag(window, person, (0.1, 0.1), (0.5, 0.5))
    assert "was not trained on boxes" in window.view.question_box.box_chip.hint.cget("text")
    assert window.boxes.refusal([(20, 10, 100, 50)], 0) == ""
    assert window.boxes.refusal([(300, 10, 400, 50)], 0).startswith("a box outside its picture")


def test_an_answers_boxes_are_drawn_and_its_words_light_them(open_window, wide):
    window, person = open_window(wide)
    loaded(window, person)
    talked(window, person, TWO)
    assert drawn(window, "answer-0") == [pytest.approx((100, 200, 500, 600), abs=3)]
    assert drawn(window, "answer-1") == [pytest.approx((500, 0, 1000, 1000), abs=3)]
    assert captions_on(window) == ["1 the dog", "2 狗"]
    text, start = window.view.transcript.text, window.view.transcript.start_of(0)
    line = text.get(start, f"{start} lineend")
    shown = "".join(c for i, c in enumerate(line) if "markup" not in text.tag_names(f"{start} + {i} chars"))
    assert line == TWO and shown == "the dog and 狗."
    thin = widths(window)[0]
    for words, wide_ones in (("dog", (0,)), ("狗", (1,)), ("and", ())):
        x, y, width, height = text.bbox(f"{start} + {TWO.index(words)} chars")
        person.point(text.winfo_rootx() + x + width // 2, text.winfo_rooty() + y + height // 2)
        assert widths(window) == [3 * thin if number in wide_ones else thin for number in (0, 1)]
    for lit in (0, 1, None, 0):
        person.press("Alt_L", "Right")
        assert widths(window) == [3 * thin if number == lit else thin for number in (0, 1)]
        assert (text.tag_ranges("marked") != ()) is (lit is not None)


def visible(window) -> str:
    """What is seen of the conversation."""
    return window.root.tk.call(window.view.transcript.text, "get", "-displaychars", "1.0", "end")


def test_no_mark_is_seen_while_an_answer_comes_nor_copied_nor_saved(open_window, wide, tmp_path):
    window, person = open_window(wide)
    loaded(window, person)
    window.worker.ask = lambda request, **options: 99
    person.type("What?")
    person.press("Return")
    said = []
    for letter in TWO:
        window.on_event(99, "piece", letter)
        said.append(visible(window).partition("checkpoint-1\n")[2].strip())
    assert said[-1] == "the dog and 狗." and all(said[-1].startswith(words.rstrip()) for words in said)
    window.rebuild()
    assert "the dog and 狗." in visible(window)
    window.on_event(99, "answer", TWO)
    person.press("Control_L", "Shift_L", "c")
    assert window.root.clipboard_get() == "the dog [20, 20, 100, 60] and 狗 [100, 0, 200, 100]."
    text = window.view.transcript.text
    person.click(text)
    text.tag_add("sel", "1.0", "end")
    person.press("Control_L", "c")
    assert "the dog and 狗." in window.root.clipboard_get() and "<" not in window.root.clipboard_get()
    window.save(tmp_path / "talk.md")
    page = (tmp_path / "talk.md").read_text(encoding="utf-8")
    assert "the dog [20, 20, 100, 60] and 狗 [100, 0, 200, 100]." in page


@pytest.mark.parametrize(("answer", "is_empty"), [("<ref></ref>", True), ("<box>(1,2),(30,40)</box>", False)])
def test_an_answer_of_nothing_but_marks_is_called_empty(open_window, wide, answer, is_empty):
    window, person = open_window(wide)
    loaded(window, person)
    window.worker.ask = lambda request, **options: 99
    person.type("What?")
    person.press("Return")
    window.on_event(99, "answer", answer)
    assert ("The model gave an empty answer." in visible(window)) is is_empty


def test_the_word_of_a_heat_map_is_named_without_marks(open_window, wide):
    window, person = open_window(wide, preferences=Preferences(look=True))
    loaded(window, person)
    talked(window, person, TWO)
    named = []
    for _ in range(2):
        person.press("Alt_L", "Right")
        named.append(window.view.map_note.cget("text").partition(":")[0])
    assert named == ["“the”", "“dog ▭”"]


def test_boxes_and_the_heat_map_are_shown_together_and_move_with_the_window(open_window, wide):
    window, person = open_window(wide, preferences=Preferences(look=True))
    loaded(window, person)
    talked(window, person, TWO)
    assert window.view.pane.grid_shown is not None and len(drawn(window, "answer-0")) == 1
    before = window.view.pane.drawn_at
    window.root.geometry("760x480")
    person.until(lambda: window.view.pane.drawn_at != before)
    person.wait(0.1)
    assert drawn(window, "answer-0") == [pytest.approx((100, 200, 500, 600), abs=4)]
    window.prefer(dark=True, size=150)
    person.until(lambda: window.root.cget("background") == "#1b1d22")
    person.wait(0.1)
    assert drawn(window, "answer-1") == [pytest.approx((500, 0, 1000, 1000), abs=4)]


def test_a_refused_or_stopped_question_comes_back_with_its_rectangle(open_window, wide):
    window, person = open_window(wide)
    loaded(window, person)
    window.worker.ask = lambda request, **options: 99
    drag(window, person, (0.1, 0.2), (0.6, 0.8))
    person.type("What?")
    person.press("Return")
    assert chip(window) == "" and drawn(window, "asked") != []
    window.keeping.keep()
    window.keeping.history.close()
    (name,) = [entry.name for entry in window.keeping.history.entries()]
    kept = Conversation.read(window.keeping.history.folder / f"{name}.json").about
    assert (kept["draft"], kept["draft_box"]) == ("What?", [20, 20, 120, 80])
    window.on_event(99, "problem", Problem("user", "no"))
    assert window.view.question_box.text == "What?" and chip(window) == "▭ 20,20,120,80"
    window.begin(Conversation())
    assert chip(window) == ""
    window.view.question_box.text = ""
    window.keeping.open(name)
    person.until(lambda: window.pictures.reading is None)
    assert window.view.question_box.text == "What?" and chip(window) == "▭ 20,20,120,80"

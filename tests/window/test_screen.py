"""The window on a virtual screen, with real keys and clicks."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import ImageGrab, ImageTk

from answering.assistant import Assistant
from answering.conversation import Conversation
from answering.worker import Worker
from dataset.prompt import Request, Turn, question_with_images
from model.manifest import MANIFEST, write_manifest
from tests.helpers.tiny import REPO, never_ends, picture

tkinter = pytest.importorskip("tkinter", reason="this Python has no Tk")
pytest.importorskip("Xlib", reason="python-xlib, which presses the keys, is not installed")
if shutil.which("Xvfb") is None:
    pytest.skip("Xvfb, the virtual screen, is not installed", allow_module_level=True)

from tests.helpers.screen import Person, virtual_screen  # noqa: E402
from window.app import Window, filedialog  # noqa: E402
from window.dialog import SettingsDialog  # noqa: E402
from window.picture import with_heat  # noqa: E402
from window.preferences import Preferences  # noqa: E402


@pytest.fixture(scope="session")
def screen():
    with virtual_screen() as name:
        yield name


@pytest.fixture
def config_home(tmp_path, monkeypatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "APPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    return tmp_path / "home"


@pytest.fixture
def open_window(screen, checkpoint, config_home, tmp_path, monkeypatch):
    """A function that opens the window where ``checkpoints/`` holds one tiny checkpoint: (window, person)."""
    monkeypatch.chdir(tmp_path)
    opened = []

    def start(picture_file: Path | None = None, **options) -> tuple[Window, Person]:
        root = tkinter.Tk(screenName=screen)
        window = Window(root, picture=picture_file and str(picture_file), **options)
        person = Person(root, screen)
        opened.append((window, person))
        root.update()
        root.focus_force()  # no window manager does it here
        window.entry.focus_set()
        return window, person

    yield start
    for window, person in opened:
        if window.worker is not None and not getattr(window, "closed", False):
            window.close()
        assert window.worker.close(60)
        person.display.close()
    opened.clear()
    gc.collect()  # what is left of Tk dies here, and not in the next test's worker, where nothing may touch Tk


@pytest.fixture
def red(tmp_path) -> Path:
    picture("red").save(tmp_path / "red.png")
    return tmp_path / "red.png"


@pytest.fixture
def blue(tmp_path) -> Path:
    picture("blue").save(tmp_path / "blue.png")
    return tmp_path / "blue.png"


def endless(window: Window, tokens: int = 3000) -> None:
    """Answers of so many tokens, whatever the model would say: by default, more than it has time for."""
    never_ends(window.worker.assistant)
    window.preferences.max_new_tokens = tokens


def loaded(window: Window, person: Person) -> None:
    person.until(lambda: window.loading is None and window.reading is None)


def seen(window: Window) -> str:
    return window.transcript.text.get("1.0", "end")


def answers(window: Window) -> list[str | None]:
    return [turn.answer for turn in window.conversation.turns]


def talked(window: Window, person: Person, *answers: str) -> None:
    """A conversation with these answers, and the map of the last where maps are shown."""
    conversation = Conversation(window.conversation.images, window.conversation.paths)
    for answer in answers:
        conversation.ask("What?")
        conversation.answer(answer)
    window.begin(conversation)
    person.until(lambda: not window.preferences.look or len(answers) - 1 in window.maps)


def reference(assistant, *questions: str) -> list[str]:
    turns: list[Turn] = []
    for question in questions:
        turns.append(Turn(question_with_images(question, 0 if turns else 1)))
        turns[-1].answer = assistant.answer([Request(turns, [picture("red")])])[0]
    return [turn.answer for turn in turns]


def test_a_picture_is_opened_by_keys_and_questions_typed_while_the_model_loads_are_answered(
    open_window, assistant, red, monkeypatch
):
    wanted, gate, load = reference(assistant, "What color?", "and where?"), threading.Event(), Assistant.load
    monkeypatch.setattr(Assistant, "load", lambda *arguments: (gate.wait(60), load(*arguments))[1])
    window, person = open_window()
    person.until(lambda: window.status[0] == "stage_libraries")

    def choose() -> None:
        person.until(lambda: "filedialog" in str(window.root.tk.call("focus")))
        person.type("red.png")
        person.press("Return")

    window.root.after(300, choose)
    person.press("Control_L", "o")
    person.until(lambda: window.conversation.images)
    person.type("What color?")
    person.press("Return")
    assert window.entry.get("1.0", "end-1c") == "" and "What color?" in seen(window)
    assert window.status[0] == "stage_waiting" and window.loading is not None
    gate.set()
    person.until(lambda: window.asking is None and window.loading is None)
    assert wanted[0] and answers(window) == wanted[:1] and wanted[0] in seen(window)
    towers = []
    window.worker.assistant.model.vision.register_forward_hook(lambda *_: towers.append(1))
    person.type("and where?")
    person.press("Return")
    person.until(lambda: window.asking is None)
    assert wanted[1] not in ("", wanted[0]) and answers(window) == wanted
    assert towers == []  # the follow-up did not encode the picture again


def test_shift_enter_is_a_new_line_and_enter_without_a_picture_asks_for_one(open_window):
    window, person = open_window()
    person.type("one")
    person.press("Shift_L", "Return")
    person.type("two")
    assert window.entry.get("1.0", "end-1c") == "one\ntwo" and window.conversation.turns == []
    person.press("Return")
    assert "Open a picture first." in seen(window) and window.entry.get("1.0", "end-1c") == "one\ntwo"


@pytest.mark.parametrize("by", ["button", "key"])
def test_stop_ends_a_long_answer_and_the_conversation_goes_on(open_window, red, by):
    window, person = open_window(red)
    loaded(window, person)
    endless(window)
    person.type("What?")
    person.press("Return")
    person.until(lambda: window.partial)
    assert window.partial in seen(window)
    person.click(window.stop_button) if by == "button" else person.press("Escape")
    person.until(lambda: window.asking is None)
    (answer,) = answers(window)
    assert answer and len(window.worker.assistant.tokenizer.encode(answer)) < 3000
    assert "stopped" in seen(window) and window.stop_button.instate(["disabled"])
    window.preferences.max_new_tokens = 4
    person.until(lambda: window.looking is None)
    person.type("and?")
    person.press("Return")
    person.until(lambda: window.asking is None)
    assert answers(window)[0] == answer and len(answers(window)) == 2


def test_asking_again_ends_the_answer_in_progress_and_keeps_what_was_there(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    endless(window)
    person.type("one")
    person.press("Return")
    person.until(lambda: window.partial)
    window.preferences.max_new_tokens = 5
    person.type("two")
    person.press("Return")
    person.until(lambda: window.asking is None)
    first, second = answers(window)
    tokenizer = window.worker.assistant.tokenizer
    assert 0 < len(tokenizer.encode(first)) < 3000
    assert (
        len(tokenizer.encode(second.replace("\ufffd", ""))) <= 6
    )  # half a character is one token, and read again three
    assert seen(window).index("one") < seen(window).index(first) < seen(window).index("two")


def test_another_picture_in_the_middle_of_an_answer_begins_anew(open_window, red, blue):
    window, person = open_window(red)
    loaded(window, person)
    endless(window)
    person.type("one")
    person.press("Return")
    person.until(lambda: window.partial)
    steps = []
    window.worker.assistant.model.language.register_forward_hook(lambda *_: steps.append(1))
    window.open_picture(str(blue))
    person.until(lambda: window.conversation.paths == [str(blue)])
    person.wait(0.5)  # what the old answer still had to say has come
    computed = len(steps)
    person.wait(0.3)
    assert len(steps) == computed  # it ended
    assert window.asking is None and window.conversation.turns == []
    assert seen(window).strip() == "Questions and answers about the picture appear here."
    assert window.conversation.images[0].getpixel((0, 0)) == (0, 0, 255)


def test_the_open_button_and_the_empty_pane_ask_for_a_picture(open_window, red, blue, monkeypatch):
    window, person = open_window()
    (button,) = [w for w in every_widget(window.frame) if w.winfo_class() == "TButton" and "Open" in w.cget("text")]
    for place, file in ((window.pane.canvas, red), (button, blue)):
        monkeypatch.setattr(filedialog, "askopenfilename", lambda file=file, **options: str(file))
        person.click(place)
        person.until(lambda file=file: window.conversation.paths == [str(file)])
    monkeypatch.setattr(filedialog, "askopenfilename", lambda **options: str(red))
    person.click(window.pane.canvas)  # no longer empty
    person.wait(0.2)
    assert window.reading is None and window.conversation.paths == [str(blue)]


def test_a_dropped_file_is_opened_by_path_or_address(open_window, red, tmp_path, monkeypatch):
    handlers, taken = {}, []
    monkeypatch.setitem(sys.modules, "tkinterdnd2", SimpleNamespace(DND_FILES="DND_Files"))
    register, bind = lambda canvas, kind: taken.append(kind), lambda canvas, name, do: handlers.update({name: do})
    monkeypatch.setattr(tkinter.Canvas, "drop_target_register", register, raising=False)
    monkeypatch.setattr(tkinter.Canvas, "dnd_bind", bind, raising=False)
    window, person = open_window(can_drop=True)
    assert taken == ["DND_Files"]
    spaced = tmp_path / "a b {1}%20.png"
    picture("blue").save(spaced)
    for data, file in (
        (str(red), red),
        (tkinter._join([str(spaced), str(red)]), spaced),  # several, as Tcl lists them
        (red.as_uri(), red),
        (spaced.as_uri(), spaced),
    ):
        handlers["<<Drop>>"](SimpleNamespace(data=data))
        person.until(lambda: window.reading is None)
        assert window.conversation.paths == [str(file)]
    handlers["<<Drop>>"](SimpleNamespace(data=""))
    handlers["<<Drop>>"](SimpleNamespace(data="https://example.org/a.png"))
    assert "https://example.org/a.png is an address on the web" in seen(window) and window.reading is None


def test_a_broken_picture_is_a_sentence_and_changes_nothing(open_window, red, tmp_path):
    window, person = open_window(red)
    loaded(window, person)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(red.read_bytes()[:40])
    window.open_picture(str(broken))
    person.until(lambda: window.reading is None)
    assert "broken.jpg cannot be opened: cannot be decoded" in seen(window)
    assert window.conversation.paths == [str(red)]


def test_closing_while_it_answers_ends_the_answer(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    endless(window)
    person.type("one")
    person.press("Return")
    person.until(lambda: window.partial)
    steps = []
    window.worker.assistant.model.language.register_forward_hook(lambda *_: steps.append(1))
    window.close()
    window.closed = True
    assert window.worker.close(20) and len(steps) <= 3


def test_no_pause_of_the_loop_is_long_while_200_tokens_stream(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    assistant = window.worker.assistant
    endless(window, 200)
    pieces, beats = [], []
    take = window.on_event
    window.on_event = lambda job, kind, value: (
        pieces.append(value) if kind == "piece" else None,
        take(job, kind, value),
    )

    def beat() -> None:
        beats.append(time.perf_counter())
        window.root.after(5, beat)

    beat()
    person.type("What?")
    person.press("Return")
    person.until(lambda: window.asking is None)
    pauses = [later - sooner for sooner, later in zip(beats, beats[1:], strict=False)]
    assert len(assistant.tokenizer.encode("".join(pieces))) >= 150 and len(pieces) > 20
    assert max(pauses) < 2  # generous: other work on this machine is not the window's fault


def test_what_is_drawn_anew_at_a_question_hardly_waits_for_the_display(open_window, red):
    """Each wait is a few milliseconds more beside a model that keeps all cores busy: 480 of them made 130 ms."""
    window, person = open_window(red)
    loaded(window, person)
    drawn, draw = [], window.pane.draw
    window.pane.draw = lambda: drawn.append(draw())
    window.worker.ask = lambda request, **options: 0
    window.entry.insert("1.0", "What?")
    window.root.update()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    window.ask()
    window.root.update()
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before < 100
    assert drawn == []
    window.asking = None


def test_the_word_under_the_mouse_shows_its_own_map(open_window, red):
    window, person = open_window(red, preferences=Preferences(look=True))
    loaded(window, person)
    endless(window, 20)
    person.type("What?")
    person.press("Return")
    person.until(lambda: window.maps)
    found = window.maps[0]
    whole = window.pane.grid_shown
    shown = ImageTk.getimage(window.pane.photo).convert("RGB")
    assert shown.tobytes() == with_heat(picture("red").resize(shown.size), whole).tobytes()
    assert whole.shape == (3, 3) and torch.tensor(whole).isnan().nonzero().tolist() == [[0, 0]]
    span = found.words()[-1]
    text, start = window.transcript.text, window.transcript._start_of(0)
    box = text.bbox(f"{start} + {span[1] - 1} chars")  # the last letter: one further is another word, or none
    person.point(text.winfo_rootx() + box[0] + box[2] // 2, text.winfo_rooty() + box[1] + box[3] // 2)
    assert window.span == span and (window.pane.grid_shown[1:] == found.of(span)[1:]).all()
    assert found.text[slice(*span)] in window.map_note.cget("text")
    person.click(window.switch)
    assert window.pane.grid_shown is None and Preferences.load().look is False
    assert ImageTk.getimage(window.pane.photo).getpixel((1, 1))[:3] == (255, 0, 0)
    person.press("Control_L", "l")
    assert window.pane.grid_shown is not None and Preferences.load().look is True


def test_words_and_answers_can_be_walked_through_with_keys(open_window, red):
    window, person = open_window(red, preferences=Preferences(look=True))
    loaded(window, person)
    talked(window, person, "a red circle", "at the top")
    assert window.shown_turn() == 1
    person.press("Control_L", "Shift_L", "c")
    assert window.root.clipboard_get() == answers(window)[1]
    person.press("Alt_L", "Up")
    person.until(lambda: 0 in window.maps)
    person.press("Alt_L", "Right")
    assert window.shown_turn() == 0 and window.span == window.maps[0].words()[0]
    person.press("Alt_L", "Left")
    assert window.span is None
    person.press("Control_L", "Shift_L", "c")
    assert window.root.clipboard_get() == answers(window)[0]
    text = window.transcript.text
    box = text.bbox(window.transcript._start_of(1))
    person.click_at(text.winfo_rootx() + box[0] + 2, text.winfo_rooty() + box[1] + 2)
    assert window.shown_turn() == 1


def test_the_names_of_picture_and_model_keep_to_their_room(open_window, tmp_path):
    long = tmp_path / ("a picture with a very long name, " * 4 + "its end.png")
    picture("red").save(long)
    window, person = open_window(long, preferences=Preferences(size=100))
    loaded(window, person)
    window.root.geometry("760x480")
    window.checkpoint = Path("a/run-with-a-very-long-name-of-its-own/checkpoint-1600")
    window.show_state()
    person.until(lambda: window.root.winfo_width() == 760)
    person.wait(0.2)
    for label, end in ((window.picture_name, "nd.png  ·  30 × 60"), (window.model_button, "0  ▾")):
        assert "…" in label.cget("text") and label.cget("text").endswith(end)
        assert label.winfo_reqwidth() <= label.winfo_width()
    assert window.picture_name.winfo_rootx() > window.switch.winfo_rootx() + window.switch.winfo_reqwidth()


def test_on_a_low_screen_the_settings_scroll_to_what_the_keyboard_reaches(open_window, monkeypatch):
    monkeypatch.setattr(tkinter.Misc, "winfo_screenheight", lambda widget: 700)
    window, person = open_window(preferences=Preferences(size=200))
    loaded(window, person)
    assert window.root.winfo_height() + window.root.winfo_rooty() < 700
    window.open_settings()
    dialog = window.root.winfo_children()[-1]
    person.until(dialog.winfo_viewable)
    assert dialog.winfo_rooty() + dialog.winfo_height() <= 700
    tops = []
    for widget in (dialog.dark_switch, dialog.greedy):
        widget.focus_force()
        person.wait(0.1)
        top = widget.winfo_rooty() - dialog.page.winfo_rooty()
        assert 0 <= top and top + widget.winfo_height() <= dialog.page.winfo_height()
        tops.append(dialog.page.yview()[0])
    assert tops[0] > 0


def test_the_end_of_a_long_conversation_is_seen_but_by_who_has_scrolled_up(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    talked(window, person, *["a red circle"] * 20)
    text, bar = window.transcript.text, window.transcript.bar
    assert text.dlineinfo("end-1c") is not None and text.dlineinfo("1.0") is None
    window.root.update()
    x, y = bar.winfo_rootx() + bar.winfo_width() // 2, bar.winfo_rooty() + bar.winfo_height() // 2
    assert window.root.winfo_containing(x, y) is bar  # not behind the text
    window.worker.ask = lambda request, **options: 99
    for _ in range(3):
        window.entry.insert("1.0", "And now?")
        text.yview_moveto(0)
        window.ask()
        assert text.dlineinfo("end-1c") is not None
        window.on_event(99, "piece", "a red circle\n" * 5)
        assert text.dlineinfo("end-1c") is not None
        window.on_event(99, "answer", "a red circle\n" * 9)
        assert text.dlineinfo("end-1c") is not None
    window.entry.insert("1.0", "And now?")
    window.ask()
    text.yview_moveto(0)
    window.on_event(99, "piece", "a red circle")
    window.on_event(99, "answer", "a red circle")
    assert text.yview()[0] == 0
    talked(window, person, "a red circle")
    window.root.update()
    assert not bar.winfo_ismapped()


def test_a_map_that_comes_after_its_conversation_is_gone_is_not_shown(open_window, red):
    window, person = open_window(red, preferences=Preferences(look=True))
    loaded(window, person)
    talked(window, person, "a red circle")
    late = window.maps[0]
    window.new_conversation()
    window.on_event(99, "looked", late)
    assert window.maps == {} and window.pane.grid_shown is None


def test_the_map_of_the_dropped_patch_says_so_under_the_mouse(open_window, red):
    window, person = open_window(red, preferences=Preferences(look=True))
    loaded(window, person)
    talked(window, person, "a red circle")
    left, top, width, height = window.pane.place
    x, y = window.pane.canvas.winfo_rootx() + left, window.pane.canvas.winfo_rooty() + top
    person.point(x + 3, y + 3)
    assert "left out" in window.map_note.cget("text")
    person.point(x + width - 3, y + 3)
    share = 100 * window.maps[0].of()[0, 2]
    assert window.map_note.cget("text") == f"Row 1, column 3: {share:.1f} %"


def test_settings_are_changed_by_keys_and_kept_outside_the_repository(open_window, config_home):
    window, person = open_window()
    loaded(window, person)
    person.press("Control_L", "comma")
    person.until(lambda: any(isinstance(child, tkinter.Toplevel) for child in window.root.winfo_children()))
    dialog = window.root.winfo_children()[-1]
    dialog.focus_force()
    dialog.greedy.focus_set()
    person.press("Tab")
    person.press("space")  # sampling
    person.press("Tab")
    person.type("0.5")
    person.press("Return")
    assert not dialog.winfo_exists()
    assert window.preferences.overrides() == {"do_sample": True, "temperature": 0.5}
    saved = json.loads((config_home / "ask-a-picture" / "settings.json").read_text(encoding="utf-8"))
    assert saved["do_sample"] is True and saved["temperature"] == 0.5 and saved["max_new_tokens"] is None


@pytest.fixture
def dialog(open_window, monkeypatch):
    """The settings' dialog, opened by key: (window, person, dialog). The loads that it brings are in window.loads."""
    window, person = open_window(preferences=Preferences(max_new_tokens=99, dark=True, device="cpu"))
    loaded(window, person)
    window.loads = []
    monkeypatch.setattr(window.worker, "load", lambda checkpoint, device: window.loads.append((checkpoint, device)))
    person.press("Control_L", "comma")
    person.until(lambda: any(isinstance(child, SettingsDialog) for child in window.root.winfo_children()))
    dialog = window.root.winfo_children()[-1]
    dialog.focus_force()
    return window, person, dialog


def test_the_settings_set_length_system_prompt_and_device(dialog):
    window, person, dialog = dialog
    assert dialog.length.get() == "99" and dialog.device.get() == "cpu"
    dialog.length.set("12")
    dialog.system.delete("1.0", "end")
    dialog.system.focus_set()
    person.type("Be brief.")
    dialog.device.set(dialog.names["cuda"])
    dialog.greedy.focus_set()
    person.press("Return")
    wanted = {"do_sample": False, "temperature": 1.0, "max_new_tokens": 12, "system": "Be brief."}
    assert window.preferences.overrides() == wanted
    assert window.loads == [(window.checkpoint, "cuda")]  # another device: loaded anew


def test_a_wrong_number_in_the_settings_is_said_and_escape_changes_nothing(dialog):
    window, person, dialog = dialog
    before = vars(window.preferences).copy()
    dialog.greedy.focus_set()
    for variable, value, line in (
        (dialog.length, "0", "Longest answer, tokens: 0 is not a number from 1 to 4096"),
        (dialog.length, "many", "Longest answer, tokens: many is not a number from 1 to 4096"),
        (dialog.temperature, "6", "Temperature: 6 is not a number from 0.1 to 5"),
    ):
        variable.set(value)
        person.press("Return")
        assert dialog.message.cget("text") == line
    dialog.length.set("5")
    dialog.temperature.set("0.2")
    person.press("Escape")
    assert not dialog.winfo_exists() and vars(window.preferences) == before and window.loads == []


def test_defaults_in_the_settings_are_what_the_checkpoint_says(dialog):
    window, person, dialog = dialog
    dialog.do_sample.set(True)
    dialog.temperature.set("0.2")
    (defaults,) = [w for w in every_widget(dialog) if w.winfo_class() == "TButton" and w.cget("text") == "Defaults"]
    defaults.invoke()
    shown = [v.get() for v in (dialog.do_sample, dialog.temperature, dialog.length, dialog.device, dialog.dark)]
    assert shown == [False, "1", "8", "automatic", False]  # 8: the run's config
    dialog.greedy.focus_set()
    person.press("Return")
    assert window.preferences == Preferences()


def test_language_colours_and_size_change_in_the_middle_of_everything(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    person.type("What?")
    person.press("Return")
    person.until(lambda: window.asking is None)
    person.type("half a ques")
    before = window.entry.winfo_height()
    window.prefer(language="zh", dark=True, size=200)
    person.until(lambda: window.root.title() == "看图问答")
    person.until(lambda: window.entry.winfo_height() > 1.5 * before)
    assert window.root.cget("background") == "#1b1d22"
    assert answers(window)[0] in seen(window) and "What?" in seen(window)
    assert window.entry.get("1.0", "end-1c") == "half a ques" and Preferences.load().size == 200
    window.prefer(language="en")
    person.until(lambda: window.root.title() == "Ask a picture")
    window.prefer(dark=False)
    person.until(lambda: window.root.cget("background") == "#f3f4f6")


def test_the_window_begins_as_it_was_left_and_in_the_language_of_the_locale(open_window, monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    Preferences(dark=True, size=150).save()
    window, person = open_window()
    assert window.root.title() == "看图问答" and window.look.dark and window.look.scale == 1.5


def test_enter_presses_the_button_that_has_the_focus(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    talked(window, person, "a red circle")
    (new,) = [w for w in every_widget(window.frame) if w.winfo_class() == "TButton" and w.cget("text") == "New"]
    new.focus_set()
    person.press("Return")
    assert window.conversation.turns == []


def test_tab_reaches_every_button(open_window):
    window, person = open_window()
    loaded(window, person)
    window.stop_button.state(["!disabled"])
    reached = set()
    for _ in range(14):
        person.press("Tab")
        reached.add(window.root.focus_get())
    wanted = {w for w in every_widget(window.frame) if w.winfo_class() in ("TButton", "TMenubutton", "TCheckbutton")}
    assert len(wanted) == 8 and wanted <= reached and window.entry in reached


def every_widget(widget) -> list:
    return [widget, *(found for child in widget.winfo_children() for found in every_widget(child))]


def test_a_conversation_is_saved_and_opened_again(open_window, red, blue, tmp_path, monkeypatch):
    window, person = open_window(red)
    loaded(window, person)
    person.type("What color?")
    person.press("Return")
    person.until(lambda: window.asking is None)
    kept = answers(window)
    assert kept[0]
    monkeypatch.setattr(filedialog, "asksaveasfilename", lambda **options: str(tmp_path / "talk.json"))
    person.press("Control_L", "s")
    saved = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert saved["images"] == [str(red)] and saved["about"]["checkpoint"].endswith("checkpoint-1")
    assert saved["about"]["do_sample"] is False and saved["about"]["max_new_tokens"] == 8
    person.press("Control_L", "n")
    assert window.conversation.turns == [] and window.conversation.paths == [str(red)]
    window.take_picture(str(blue), picture("blue"), picture("blue"))
    window.open_conversation(tmp_path / "talk.json")
    person.until(lambda: window.conversation.turns)
    assert answers(window) == kept and kept[0] in seen(window)
    assert window.preview.getpixel((0, 0)) == (255, 0, 0) and "red.png" in window.picture_name.cget("text")


def test_what_goes_wrong_is_a_sentence_in_the_window(open_window, red, tmp_path):
    window, person = open_window(red)
    loaded(window, person)

    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    window.worker.assistant.stream = no_memory
    person.type("What?")
    person.press("Return")
    person.until(lambda: window.asking is None)
    assert "The memory is full. In the settings choose the CPU" in seen(window) and window.conversation.turns == []
    assert "What?" not in seen(window)  # nor is a question left without an answer
    other = tmp_path / "checkpoints" / "other" / "checkpoint-1"
    shutil.copytree(tmp_path / "checkpoints" / "test" / "checkpoint-1", other)
    manifest = json.loads((other / MANIFEST).read_text(encoding="utf-8"))
    manifest["base_models"]["language.path"]["sha256"] = "0" * 64
    write_manifest(other, {key: value for key, value in manifest.items() if key != "sha256"})
    window.load(other)
    loaded(window, person)
    assert "is not the model that" in seen(window) and "Traceback" not in seen(window)


def test_without_any_checkpoint_the_window_says_what_to_do(open_window, tmp_path):
    shutil.rmtree(tmp_path / "checkpoints")
    window, person = open_window()
    assert window.loading is None and "No trained model was found in checkpoints/" in seen(window)
    window.take_picture("red.png", picture("red"), picture("red"))
    person.type("What?")
    person.press("Return")
    assert "No model is loaded; choose one in the Model menu." in seen(window) and window.conversation.turns == []
    assert window.entry.get("1.0", "end-1c") == "What?"


def test_a_mistake_of_the_windows_own_is_a_sentence_too(open_window):
    window, person = open_window()
    window.root.after_idle(lambda: 1 / 0)
    person.until(lambda: "ZeroDivisionError: division by zero" in seen(window))


def another_checkpoint(tmp_path: Path) -> Path:
    """A copy of the checkpoint, and older than it."""
    other = tmp_path / "checkpoints" / "other" / "checkpoint-7"
    shutil.copytree(tmp_path / "checkpoints" / "test" / "checkpoint-1", other)
    os.utime(other / MANIFEST, (1, 1))
    return other


def test_the_menu_lists_the_checkpoints_and_loads_the_one_chosen(open_window, tmp_path):
    another_checkpoint(tmp_path)
    window, person = open_window()
    loaded(window, person)
    assert window.checkpoint == Path("checkpoints/test/checkpoint-1")
    window.fill_models(window.models)
    labels = [window.models.entrycget(i, "label") for i in range(2)]
    assert labels == ["test / checkpoint-1", "other / checkpoint-7"]
    window.models.invoke(1)
    loaded(window, person)
    assert window.worker.assistant.checkpoint == window.checkpoint == Path("checkpoints/other/checkpoint-7")
    assert window.model_button.cget("text").startswith("other / checkpoint-7")


def test_checkpoint_and_device_of_the_command_line_come_first(open_window, tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr(Worker, "load", lambda worker, checkpoint, device: loads.append((checkpoint, device)))
    other = another_checkpoint(tmp_path)
    open_window(checkpoint=other, device="cuda:1", preferences=Preferences(device="cpu"))
    open_window(preferences=Preferences(device="cpu"))
    assert loads == [(other, "cuda:1"), (Path("checkpoints/test/checkpoint-1"), "cpu")]


def test_the_stage_of_loading_is_shown_until_it_is_over(open_window, monkeypatch):
    gate, load = threading.Event(), Assistant.load

    def slow(checkpoint, device, stage):
        stage("weights")
        gate.wait(60)
        return load(checkpoint, device)

    monkeypatch.setattr(Assistant, "load", slow)
    window, person = open_window()
    person.until(lambda: window.status_label.cget("text") == "Reading test / checkpoint-1...")
    assert window.progress.winfo_manager() == "pack"
    gate.set()
    loaded(window, person)
    assert window.status_label.cget("text") == "test / checkpoint-1 on cpu" and not window.progress.winfo_manager()


def test_another_model_in_the_middle_of_an_answer_ends_it_and_keeps_what_was_there(open_window, red, tmp_path):
    window, person = open_window(red)
    loaded(window, person)
    endless(window)
    person.type("What?")
    person.press("Return")
    person.until(lambda: window.partial.strip())
    window.preferences.look = True
    window.maps = {0: "the first model's"}
    window.load(another_checkpoint(tmp_path))
    (answer,) = answers(window)
    assert answer and answer in seen(window) and window.asking is None and window.maps == {}
    loaded(window, person)
    assert window.worker.assistant.checkpoint.name == "checkpoint-7" and answers(window) == [answer]


def test_a_picture_or_a_file_is_pasted_by_keys_and_text_stays_text(open_window, red, blue, monkeypatch):
    window, person = open_window()
    monkeypatch.setattr(ImageGrab, "grabclipboard", lambda: picture("green"))
    window.root.clipboard_clear()  # another test's answer may be there
    person.press("Control_L", "v")  # in the question
    person.until(lambda: window.conversation.paths == ["clipboard"])
    window.root.clipboard_clear()
    window.root.clipboard_append(str(red))
    person.press("Control_L", "Shift_L", "v")
    person.until(lambda: window.conversation.paths == [str(red)])
    window.root.clipboard_clear()
    window.root.clipboard_append(blue.as_uri())
    person.press("Control_L", "v")
    person.until(lambda: window.conversation.paths == [str(blue)])
    assert window.entry.get("1.0", "end-1c") == ""
    window.root.clipboard_clear()
    window.root.clipboard_append("What color?")
    person.press("Control_L", "v")
    assert window.entry.get("1.0", "end-1c") == "What color?" and window.conversation.paths == [str(blue)]


def test_the_demo_is_called_only_a_demo(open_window, tmp_path):
    other = shutil.copytree(tmp_path / "checkpoints" / "test" / "checkpoint-1", tmp_path / "elsewhere")
    config = tmp_path / "checkpoints" / "test" / "checkpoint-1" / "config.yaml"
    config.write_text("language: {path: demo/backbones/qwen}", encoding="utf-8")
    window, person = open_window()
    assert "only the tiny demo" in window.demo_note.cget("text") and window.demo_note.winfo_manager() == "grid"
    window.load(other)
    assert not window.demo_note.winfo_manager()


def test_the_script_opens_a_window_and_control_q_ends_it(screen, config_home, tmp_path):
    environment = {**os.environ, "DISPLAY": screen, "PYTHONPATH": str(REPO)}
    command = [sys.executable, str(REPO / "test_gui.py")]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    watcher = tkinter.Tk(screenName=screen)
    watcher.withdraw()
    person = Person(watcher, screen)
    try:

        def gone() -> bool:
            window = next((w for w in person.display.screen().root.query_tree().children if w.get_wm_class()), None)
            if window is not None:
                window.set_input_focus(2, 0)
                person.press("Control_L", "q")
            return process.poll() is not None

        person.until(gone)
        assert process.returncode == 0 and process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()
        watcher.destroy()
        person.display.close()

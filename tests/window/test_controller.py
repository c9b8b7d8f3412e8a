"""What happens in the window, by real keys and clicks on a virtual screen."""

from __future__ import annotations

import json
import os
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
from answering.heat import with_heat
from answering.worker import Worker
from dataset.prompt import Request, Turn, question_with_images
from model.manifest import MANIFEST, write_manifest
from tests.helpers.screen import Person, answers, endless, loaded, seen, talked
from tests.helpers.tiny import REPO, picture

tkinter = pytest.importorskip("tkinter", reason="this Python has no Tk")

from window.pictures import Read, filedialog  # noqa: E402
from window.preferences import Preferences  # noqa: E402


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
    assert window.view.question_box.entry.get("1.0", "end-1c") == "" and "What color?" in seen(window)
    assert window.status[0] == "stage_waiting" and window.models.loading is not None
    gate.set()
    person.until(lambda: window.questions.job is None and window.models.loading is None)
    assert wanted[0] and answers(window) == wanted[:1] and wanted[0] in seen(window)
    towers = []
    window.worker.assistant.model.vision.register_forward_hook(lambda *_: towers.append(1))
    person.type("and where?")
    person.press("Return")
    person.until(lambda: window.questions.job is None)
    assert wanted[1] not in ("", wanted[0]) and answers(window) == wanted
    assert towers == []  # the follow-up did not encode the picture again


@pytest.mark.parametrize("by", ["button", "key"])
def test_stop_ends_a_long_answer_and_the_conversation_continues(open_window, red, by):
    window, person = open_window(red)
    loaded(window, person)
    endless(window)
    person.type("What?")
    person.press("Return")
    person.until(lambda: window.questions.partial)
    assert window.questions.partial in seen(window)
    person.click(window.view.question_box.stop_button) if by == "button" else person.press("Escape")
    person.until(lambda: window.questions.job is None)
    (answer,) = answers(window)
    assert answer and len(window.worker.assistant.tokenizer.encode(answer)) < 3000
    assert "Stopped" in seen(window) and window.view.question_box.stop_button.instate(["disabled"])
    window.preferences.max_new_tokens = 4
    person.until(lambda: window.maps.looking is None)
    person.type("and?")
    person.press("Return")
    person.until(lambda: window.questions.job is None)
    assert answers(window)[0] == answer and len(answers(window)) == 2


def test_asking_again_ends_the_answer_in_progress_and_keeps_its_words(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    endless(window)
    person.type("one")
    person.press("Return")
    person.until(lambda: window.questions.partial)
    window.preferences.max_new_tokens = 5
    person.type("two")
    person.press("Return")
    person.until(lambda: window.questions.job is None)
    first, second = answers(window)
    tokenizer = window.worker.assistant.tokenizer
    assert 0 < len(tokenizer.encode(first)) < 3000
    assert (
        len(tokenizer.encode(second.replace("\ufffd", ""))) <= 6
    )  # half a character is one token, and read again three
    assert seen(window).index("one") < seen(window).index(first) < seen(window).index("two")


def test_a_picture_that_is_opened_in_the_middle_of_an_answer_begins_a_new_conversation(open_window, red, blue):
    window, person = open_window(red)
    loaded(window, person)
    endless(window)
    person.type("one")
    person.press("Return")
    person.until(lambda: window.questions.partial)
    steps = []
    window.worker.assistant.model.language.register_forward_hook(lambda *_: steps.append(1))
    window.pictures.open(str(blue))
    person.until(lambda: window.conversation.paths == [str(blue)])
    person.wait(0.5)  # what the old answer still had to say has come
    computed = len(steps)
    person.wait(0.3)
    assert len(steps) == computed  # it ended
    assert window.questions.job is None and window.conversation.turns == []
    assert seen(window).strip() == "Ask about the picture, for example:"
    assert window.view.status_label.cget("text") == "A new conversation; the last one is in the list (Ctrl+H)"
    assert window.conversation.images[0].getpixel((0, 0)) == (0, 0, 255)


def test_all_dropped_files_are_added_by_path_or_address(open_window, red, tmp_path, monkeypatch):
    handlers, taken = {}, []
    monkeypatch.setitem(sys.modules, "tkinterdnd2", SimpleNamespace(DND_FILES="DND_Files"))
    register = lambda widget, kind: taken.append((widget, kind))  # noqa: E731
    bind = lambda widget, name, do: handlers.update({(widget, name): do})  # noqa: E731
    monkeypatch.setattr(tkinter.Misc, "drop_target_register", register, raising=False)
    monkeypatch.setattr(tkinter.Misc, "dnd_bind", bind, raising=False)
    window, person = open_window(can_drop=True)
    view = window.view
    targets = [view.pane.canvas, view.strip_bar, view.transcript.text, view.question_box.entry]
    assert taken == [(widget, "DND_Files") for widget in targets]
    spaced, broken = tmp_path / "a b {1}%20.png", tmp_path / "broken.png"
    picture("blue").save(spaced)
    broken.write_bytes(b"no")
    wanted = []
    for widget, data, files in (
        (0, str(red), [red]),
        (1, tkinter._join([str(spaced), str(broken), str(red)]), [spaced, red]),  # several, as Tcl lists them
        (2, red.as_uri(), [red]),
        (3, tkinter._join(["https://example.org/a.png", spaced.as_uri()]), [spaced]),
        (0, "", []),
    ):
        handlers[targets[widget], "<<Drop>>"](SimpleNamespace(data=data))
        person.until(lambda: window.pictures.reading is None)
        wanted += map(str, files)
        assert window.conversation.paths == wanted
    assert "https://example.org/a.png is a web address" in seen(window)
    assert "Cannot open broken.png: cannot be decoded" in seen(window)


def test_a_broken_picture_is_a_sentence_and_changes_nothing(open_window, red, tmp_path):
    window, person = open_window(red)
    loaded(window, person)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(red.read_bytes()[:40])
    window.pictures.open(str(broken))
    person.until(lambda: window.pictures.reading is None)
    assert "Cannot open broken.jpg: cannot be decoded" in seen(window)
    assert window.conversation.paths == [str(red)]


def test_in_chinese_what_cannot_be_opened_or_pasted_is_a_chinese_sentence(open_window, red, tmp_path, monkeypatch):
    window, person = open_window(red, preferences=Preferences(language="zh"))
    loaded(window, person)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(red.read_bytes()[:40])

    def no_program():
        raise NotImplementedError("wl-paste or xclip is required for ImageGrab.grabclipboard() on Linux")

    for count, file in enumerate((broken, tmp_path / "gone.png"), 1):
        window.pictures.open(str(file))
        person.until(lambda count=count: len(window.notes) == count)
    window.root.clipboard_clear()
    for count, grab in enumerate((lambda: None, no_program), 3):
        monkeypatch.setattr(ImageGrab, "grabclipboard", grab)
        person.press("Control_L", "Shift_L", "v")
        person.until(lambda count=count: len(window.notes) == count)
    assert [note.line for note in window.notes] == [
        "无法打开 broken.jpg：无法解码：不是已知格式的图片",
        "无法打开 gone.png：文件不存在",
        "剪贴板里没有图片。",
        "这里无法粘贴图片：需要安装 xclip 或 wl-clipboard。请先保存图片，再打开文件。",
    ]


def test_closing_while_it_answers_ends_the_answer(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    endless(window)
    person.type("one")
    person.press("Return")
    person.until(lambda: window.questions.partial)
    steps = []
    window.worker.assistant.model.language.register_forward_hook(lambda *_: steps.append(1))
    window.close()
    window.closed = True
    assert window.worker.close(20) and len(steps) <= 3


def test_the_word_under_the_mouse_shows_its_own_map(open_window, red):
    window, person = open_window(red, preferences=Preferences(look=True))
    loaded(window, person)
    endless(window, 20)
    person.type("What?")
    person.press("Return")
    person.until(lambda: window.maps.found)
    found = window.maps.found[0]
    whole = window.view.pane.grid_shown
    shown = ImageTk.getimage(window.view.pane.photo).convert("RGB")
    assert shown.tobytes() == with_heat(picture("red").resize(shown.size), whole).tobytes()
    assert whole.shape == (3, 3) and torch.tensor(whole).isnan().nonzero().tolist() == [[0, 0]]
    span = found.words()[-1]
    text, start = window.view.transcript.text, window.view.transcript.start_of(0)
    box = text.bbox(f"{start} + {span[1] - 1} chars")  # the last letter: one further is another word, or none
    person.point(text.winfo_rootx() + box[0] + box[2] // 2, text.winfo_rooty() + box[1] + box[3] // 2)
    assert window.maps.span == span and (window.view.pane.grid_shown[1:] == found.of(span)[1:]).all()
    assert found.text[slice(*span)] in window.view.map_note.cget("text")
    person.click(window.view.switch)
    assert window.view.pane.grid_shown is None and Preferences.load().look is False
    assert ImageTk.getimage(window.view.pane.photo).getpixel((1, 1))[:3] == (255, 0, 0)
    person.press("Control_L", "l")
    assert window.view.pane.grid_shown is not None and Preferences.load().look is True


def test_words_and_answers_are_reached_with_keys(open_window, red):
    window, person = open_window(red, preferences=Preferences(look=True))
    loaded(window, person)
    talked(window, person, "a red circle", "at the top")
    assert window.maps.shown_turn() == 1
    person.press("Control_L", "Shift_L", "c")
    assert window.root.clipboard_get() == answers(window)[1]
    person.press("Alt_L", "Up")
    person.until(lambda: 0 in window.maps.found)
    person.press("Alt_L", "Right")
    assert window.maps.shown_turn() == 0 and window.maps.span == window.maps.found[0].words()[0]
    person.press("Alt_L", "Left")
    assert window.maps.span is None
    person.press("Control_L", "Shift_L", "c")
    assert window.root.clipboard_get() == answers(window)[0]
    text = window.view.transcript.text
    box = text.bbox(window.view.transcript.start_of(1))
    person.click_at(text.winfo_rootx() + box[0] + 2, text.winfo_rooty() + box[1] + 2)
    assert window.maps.shown_turn() == 1


def test_a_map_of_an_earlier_conversation_is_not_shown(open_window, red):
    window, person = open_window(red, preferences=Preferences(look=True))
    loaded(window, person)
    talked(window, person, "a red circle")
    late = window.maps.found[0]
    window.new_conversation()
    window.on_event(99, "looked", late)
    assert window.maps.found == {} and window.view.pane.grid_shown is None


def test_the_map_of_the_dropped_patch_says_so_under_the_mouse(open_window, red):
    window, person = open_window(red, preferences=Preferences(look=True))
    loaded(window, person)
    talked(window, person, "a red circle")
    left, top, width, height = window.view.pane.drawn_at
    x, y = window.view.pane.canvas.winfo_rootx() + left, window.view.pane.canvas.winfo_rooty() + top
    person.point(x + 3, y + 3)
    assert "left out" in window.view.map_note.cget("text")
    person.point(x + width - 3, y + 3)
    share = 100 * window.maps.found[0].of()[0, 2]
    assert window.view.map_note.cget("text") == f"Row 1, column 3: {share:.1f} %"


def test_a_conversation_is_saved_and_opened_again(open_window, red, blue, tmp_path, monkeypatch):
    window, person = open_window(red)
    loaded(window, person)
    person.type("What color?")
    person.press("Return")
    person.until(lambda: window.questions.job is None)
    kept = answers(window)
    assert kept[0]
    monkeypatch.setattr(filedialog, "asksaveasfilename", lambda **options: str(tmp_path / "talk.json"))
    person.press("Control_L", "s")
    saved = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert saved["images"] == [str(red)] and saved["about"]["checkpoint"].endswith("checkpoint-1")
    assert saved["about"]["do_sample"] is False and saved["about"]["max_new_tokens"] == 8
    person.press("Control_L", "n")
    assert window.conversation.turns == [] and window.conversation.paths == [str(red)]
    window.take(Read(Conversation([picture("blue")], [str(blue)]), [picture("blue")]))
    window.pictures.open_conversation(tmp_path / "talk.json")
    person.until(lambda: window.conversation.turns)
    assert answers(window) == kept and kept[0] in seen(window)
    assert window.strip.preview.getpixel((0, 0)) == (255, 0, 0) and "red.png" in window.view.picture_name.cget("text")


def test_a_saved_conversation_has_its_pasted_picture_beside_it(open_window, tmp_path):
    window, person = open_window()
    window.take(Read(Conversation([picture("blue")], ["clipboard"]), [picture("blue")]))
    (tmp_path / "talk-0.png").write_bytes(b"another's")
    for _ in range(2):
        window.save(tmp_path / "talk.json")
    assert json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))["images"] == [str(tmp_path / "talk-1.png")]
    assert len(list(tmp_path.glob("talk-*.png"))) == 2 and window.conversation.paths == ["clipboard"]
    assert Conversation.open(tmp_path / "talk.json", 10_000).images[0].tobytes() == picture("blue").tobytes()


def test_what_goes_wrong_is_a_sentence_in_the_window(open_window, red, tmp_path):
    window, person = open_window(red)
    loaded(window, person)

    def no_memory(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    window.worker.assistant.stream = no_memory
    person.type("What?")
    person.press("Return")
    person.until(lambda: window.questions.job is None)
    assert "Out of memory. Choose the CPU" in window.view.question_box.reason and window.conversation.turns == []
    assert "What?" not in seen(window)  # nor is a question left without an answer
    other = tmp_path / "checkpoints" / "other" / "checkpoint-1"
    shutil.copytree(tmp_path / "checkpoints" / "test" / "checkpoint-1", other)
    manifest = json.loads((other / MANIFEST).read_text(encoding="utf-8"))
    manifest["base_models"]["language.path"]["sha256"] = "0" * 64
    write_manifest(other, {key: value for key, value in manifest.items() if key != "sha256"})
    window.models.load(other)
    loaded(window, person)
    assert "is not the model that" in seen(window) and "Traceback" not in seen(window)


def test_without_any_checkpoint_the_window_says_what_to_do(open_window, tmp_path):
    shutil.rmtree(tmp_path / "checkpoints")
    window, person = open_window()
    assert window.models.loading is None and "No trained model was found in checkpoints/" in seen(window)
    window.take(Read(Conversation([picture("red")], ["red.png"]), [picture("red")]))
    person.type("What?")
    person.press("Return")
    assert window.view.question_box.reason == "No model is loaded; choose one in the Model menu."
    assert window.conversation.turns == []
    assert window.view.question_box.entry.get("1.0", "end-1c") == "What?"


def test_an_error_in_the_window_itself_is_a_sentence_too(open_window):
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
    assert window.models.checkpoint == Path("checkpoints/test/checkpoint-1")
    window.view.menus.fill_models(window.view.menus.models)
    labels = [window.view.menus.models.entrycget(i, "label") for i in range(2)]
    assert [label.split("  ·  ")[0] for label in labels] == ["test / checkpoint-1", "other / checkpoint-7"]
    assert labels[1].endswith(" + qwen0  ·  1970-01-01")
    window.view.menus.models.invoke(1)
    loaded(window, person)
    assert window.worker.assistant.checkpoint == window.models.checkpoint == Path("checkpoints/other/checkpoint-7")
    assert window.view.model_button.cget("text").startswith("other / checkpoint-7")


def test_checkpoint_and_device_of_the_command_line_come_first(open_window, tmp_path, monkeypatch):
    loads = []
    keep = lambda worker, checkpoint, device, **options: loads.append((checkpoint, device))  # noqa: E731
    monkeypatch.setattr(Worker, "load", keep)
    other = another_checkpoint(tmp_path)
    open_window(checkpoint=other, device="cuda:1", preferences=Preferences(device="cpu"))
    open_window(preferences=Preferences(device="cpu"))
    assert loads == [(other, "cuda:1"), (Path("checkpoints/test/checkpoint-1"), "cpu")]


def test_the_stage_of_loading_is_shown_until_it_is_over(open_window, monkeypatch):
    gate, load = threading.Event(), Assistant.load

    def slow(checkpoint, device, on_stage, verify, overrides):
        on_stage("weights")
        gate.wait(60)
        return load(checkpoint, device, overrides=overrides)

    monkeypatch.setattr(Assistant, "load", slow)
    window, person = open_window()
    person.until(lambda: window.view.status_label.cget("text") == "Reading test / checkpoint-1...")
    assert window.view.progress.winfo_manager() == "pack"
    gate.set()
    loaded(window, person)
    assert (
        window.view.status_label.cget("text") == "test / checkpoint-1 on cpu"
        and not window.view.progress.winfo_manager()
    )


def test_another_model_in_the_middle_of_an_answer_ends_it_and_keeps_its_words(open_window, red, tmp_path):
    window, person = open_window(red)
    loaded(window, person)
    endless(window)
    person.type("What?")
    person.press("Return")
    person.until(lambda: window.questions.partial.strip())
    window.preferences.look = True
    window.maps.by_picture = {0: {0: "the first model's"}}
    window.models.load(another_checkpoint(tmp_path))
    (answer,) = answers(window)
    assert answer and answer in seen(window) and window.questions.job is None and window.maps.found == {}
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
    person.until(lambda: window.conversation.paths == ["clipboard", str(red)])
    window.root.clipboard_clear()
    window.root.clipboard_append(blue.as_uri())
    person.press("Control_L", "v")
    person.until(lambda: window.conversation.paths == ["clipboard", str(red), str(blue)])
    assert window.view.question_box.entry.get("1.0", "end-1c") == ""
    window.root.clipboard_clear()
    window.root.clipboard_append("What color?")
    person.press("Control_L", "v")
    assert window.view.question_box.entry.get("1.0", "end-1c") == "What color?"
    assert len(window.conversation.paths) == 3 and window.pictures.reading is None


def test_no_pause_of_the_loop_is_long_while_200_tokens_stream(open_window, red):
    window, person = open_window(red)
    loaded(window, person)
    assistant = window.worker.assistant
    endless(window, 200)
    # Each token is a word: the tiny model's own tokens are parts of characters, and there is no piece for most of them.
    assistant.tokenizer.decode = lambda ids, **options: "".join(f"{token} " for token in ids)
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
    person.until(lambda: window.questions.job is None)
    pauses = [later - sooner for sooner, later in zip(beats, beats[1:], strict=False)]
    assert len(pieces) >= 150 and len("".join(pieces).split()) == 200
    assert max(pauses) < 2  # generous: other work on this machine is not the window's fault


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


def test_the_window_opens_before_torch_is_imported():
    code = "import sys; import window.controller; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_the_command_line_comes_before_the_preferences(open_window, monkeypatch):
    loads = []
    monkeypatch.setattr(Worker, "load", lambda worker, *arguments, **options: loads.append(options["overrides"]))
    chosen = Preferences(do_sample=False, top_k=9, temperature=0.5)
    overrides = ["generate.do_sample=true", "generate.top_k=5", "data.max_pixels=1000"]
    window, _ = open_window(overrides=overrides, preferences=chosen)
    assert loads == [window.overrides] and window.pictures.max_pixels() == 1000
    assert window.models.answer_settings() == {"temperature": 0.5}


def test_halves_of_characters_are_replaced_and_the_window_says_so(open_window, red, monkeypatch):
    window, person = open_window(red)
    loaded(window, person)
    typed = property(lambda box: "What\ud83d color?", lambda box, question: None)  # Tk gives them, and takes none
    monkeypatch.setattr(type(window.view.question_box), "text", typed)
    window.questions.ask()
    person.until(lambda: window.questions.job is None)
    assert window.conversation.turns[0].question.endswith("What\ufffd color?")
    assert window.notes[0].line.startswith("1 character of the question cannot be read") and window.notes[0].turns == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are not UTF-8")
def test_a_picture_whose_name_is_not_utf8_is_opened_and_a_missing_one_named(open_window, red):
    other = red.with_name("caf\udce9.png")
    red.rename(other)
    window, person = open_window(other)
    loaded(window, person)
    assert window.conversation.paths == [str(other)] and not window.notes
    window.pictures.open(str(other) + "x")
    person.until(lambda: window.notes)
    assert "caf\ufffd.pngx" in window.notes[0].line

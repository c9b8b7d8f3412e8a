"""The window's parts that need no screen: its engine, its words, colours and settings, and what is said without one."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from answering.conversation import Worker, checkpoints_under, describe_error, first_choice, import_assistant, is_demo
from common.errors import UserError
from dataset.prompt import Request, Turn, question_with_images
from test_gui import takes_files
from tests.helpers.tiny import REPO, never_ends, picture
from window.preferences import Preferences, preferences_file, system_language
from window.texts import TEXTS


def events_until(worker: Worker, job: int, kinds: tuple[str, ...]) -> list[tuple[str, object]]:
    """The events of a job, up to the first of these kinds."""
    found = []
    while not found or found[-1][0] not in kinds:
        number, kind, value = worker.events.get(timeout=60)
        if number == job:
            found.append((kind, value))
    return found


def about_red(text: str = "What color?") -> Request:
    return Request([Turn(question_with_images(text, 1))], [picture("red")])


def test_worker_loads_says_what_it_does_and_streams_the_answer(checkpoint, assistant):
    worker = Worker()
    loading = events_until(worker, worker.load(checkpoint, "cpu"), ("ready", "problem"))
    assert [kind for kind, _ in loading] == ["stage", "stage", "stage", "ready"]
    assert [value for kind, value in loading if kind == "stage"] == ["libraries", "weights", "device"]
    answering = events_until(worker, worker.ask(about_red()), ("answer", "problem"))
    (wanted,) = assistant.answer([about_red()])
    assert wanted and answering[-1] == ("answer", wanted)
    assert "".join(value for kind, value in answering if kind == "piece").strip() == wanted


def test_a_new_question_ends_the_answer_in_progress_and_no_two_run_at_once(assistant):
    worker = Worker()
    worker.assistant = assistant
    never_ends(assistant)
    first = worker.ask(about_red(), max_new_tokens=3000)
    events_until(worker, first, ("piece",))
    second = worker.ask(about_red("and now?"), max_new_tokens=3)
    order = []
    while not order or order[-1] != (second, "answer"):
        number, kind, value = worker.events.get(timeout=60)
        order.append((number, kind))
        if (number, kind) == (first, "answer"):
            assert len(assistant.tokenizer.encode(value)) < 3000
    assert order.index((first, "answer")) < min(i for i, (number, _) in enumerate(order) if number == second)


def test_stop_ends_an_answer(assistant):
    worker = Worker()
    worker.assistant = assistant
    never_ends(assistant)
    job = worker.ask(about_red(), max_new_tokens=3000)
    events_until(worker, job, ("piece",))
    worker.stop()
    kind, text = events_until(worker, job, ("answer", "problem"))[-1]
    assert kind == "answer" and len(assistant.tokenizer.encode(text)) < 3000


def test_errors_arrive_as_one_line_and_the_worker_lives_on(checkpoint, tmp_path):
    worker = Worker()
    kind, message = events_until(worker, worker.load(tmp_path / "nothing"), ("ready", "problem"))[-1]
    assert kind == "problem" and "no checkpoint at" in message.text and "\n" not in message.text
    problem = events_until(worker, worker.ask(about_red()), ("answer", "problem"))[-1][1]
    assert problem.text.startswith("no model is loaded")
    assert events_until(worker, worker.load(checkpoint, "cpu"), ("ready", "problem"))[-1][0] == "ready"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there a display is always at hand")
def test_without_a_display_one_line_names_the_terminal_command():
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, "test_gui.py", "--checkpoint", "somewhere"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "python ask.py --checkpoint somewhere --image FILE" in done.stderr and "python3-tk" in done.stderr


def test_what_waits_in_the_queue_is_not_begun_once_it_is_stopped(assistant):
    worker = Worker()
    worker.assistant = assistant
    never_ends(assistant)
    first = worker.ask(about_red(), max_new_tokens=3000)
    events_until(worker, first, ("piece",))
    second, third = worker.ask(about_red("b"), max_new_tokens=3000), worker.ask(about_red("c"), max_new_tokens=3)
    found = []
    while not found or found[-1][:2] != (third, "answer"):
        found.append(worker.events.get(timeout=60))
    assert [(kind, value) for job, kind, value in found if job == second] == [("answer", "")]


def test_closing_the_worker_ends_its_thread_within_the_answer(assistant):
    worker = Worker()
    worker.assistant = assistant
    never_ends(assistant)
    events_until(worker, worker.ask(about_red(), max_new_tokens=3000), ("piece",))
    assert worker.close(timeout=20) and not worker._thread.is_alive()


def test_reading_a_file_does_not_wait_for_the_model():
    worker = Worker()
    gate = threading.Event()
    worker._jobs.put((0, None, lambda job, stop: gate.wait(60), ()))  # the model is busy
    assert events_until(worker, worker.read(lambda: "a picture"), ("read", "problem")) == [("read", "a picture")]
    gate.set()


def test_who_asks_for_a_file_does_not_wait_for_it():
    worker, gate = Worker(), threading.Event()
    job = worker.read(lambda: gate.wait(5))
    assert worker.events.empty()
    gate.set()
    assert events_until(worker, job, ("read", "problem")) == [("read", True)]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_a_full_memory_is_told_apart_and_says_what_to_change(error):
    problem = describe_error(error)
    assert problem.kind == "memory" and "use the CPU" in problem.text


def test_the_window_opens_before_torch_is_imported():
    code = "import sys; import window.app; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_what_is_not_tk_knows_nothing_of_tk():
    code = "import sys; sys.modules['tkinter'] = None; import answering.conversation"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_the_command_line_reaches_the_window(monkeypatch):
    tk = pytest.importorskip("tkinter", reason="this Python has no Tk")
    import test_gui
    import window.app

    made, root = [], SimpleNamespace(mainloop=lambda: made.append("mainloop"))
    worker = SimpleNamespace(close=lambda timeout: True)
    monkeypatch.setattr(tk, "Tk", lambda className: root)
    keep = lambda *arguments, **options: made.append((arguments, options)) or SimpleNamespace(worker=worker)  # noqa: E731
    monkeypatch.setattr(window.app, "Window", keep)
    monkeypatch.setitem(sys.modules, "tkinterdnd2", None)
    monkeypatch.setattr(sys, "argv", "test_gui.py --checkpoint a/run --device cuda:1 b.png".split())
    assert test_gui.main() == 0
    assert made == [((root, Path("a/run"), "cuda:1", "b.png"), {"can_drop": False}), "mainloop"]


def test_the_scale_is_the_screens_or_the_desktops_and_never_below_one(monkeypatch):
    pytest.importorskip("tkinter", reason="this Python has no Tk")
    from window.look import screen_scale

    inch = lambda pixels: SimpleNamespace(winfo_fpixels=lambda length: {"1i": pixels}[length])  # noqa: E731
    monkeypatch.delenv("GDK_SCALE", raising=False)
    assert [screen_scale(inch(pixels)) for pixels in (192.0, 96.0, 72.0)] == [2.0, 1.0, 1.0]
    monkeypatch.setenv("GDK_SCALE", "2")
    assert screen_scale(inch(96.0)) == 2.0


# ---------------------------------------------------------------------------------------------- checkpoints


def test_the_libraries_are_imported_without_the_garbage_collector(monkeypatch):
    """It holds up every thread, the window's too, and torch and transformers make half a million objects."""
    collecting = []

    class Watch:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "answering.assistant":
                collecting.append(gc.isenabled())

    monkeypatch.setattr(sys, "meta_path", [Watch, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "answering.assistant")
    import_assistant()
    assert collecting == [False] and gc.isenabled()
    assert gc.get_freeze_count() > 100_000
    gc.unfreeze()


def test_checkpoints_are_listed_newest_first_and_a_demo_is_chosen_last(checkpoint, tmp_path):
    folder = tmp_path / "checkpoints"
    demo, cut_short = folder / "demo" / "checkpoint-9", folder / "test" / "checkpoint-2"
    shutil.copytree(checkpoint, demo)
    cut_short.mkdir()
    text = (demo / "config.yaml").read_text(encoding="utf-8")
    (demo / "config.yaml").write_text(re.sub(r"path: .*qwen.*", "path: demo/backbones/qwen", text), encoding="utf-8")
    os.utime(checkpoint / "manifest.json", (1, 1))
    assert checkpoints_under(folder) == [demo, checkpoint]
    assert is_demo(demo) and is_demo(demo.parent) and not is_demo(checkpoint)
    assert first_choice(folder) == checkpoint
    shutil.rmtree(checkpoint)
    assert first_choice(folder) == demo and first_choice(folder / "demo") is None


# ---------------------------------------------------------------------------------------------- settings and words


def test_settings_live_in_the_users_config_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert preferences_file() == tmp_path / "xdg" / "ask-a-picture" / "settings.json"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("APPDATA", str(tmp_path / "roaming"))
    assert preferences_file() == tmp_path / "roaming" / "ask-a-picture" / "settings.json"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert preferences_file().relative_to(Path.home()).parts[:2] == ("Library", "Application Support")


def test_settings_are_kept_and_what_cannot_be_used_gives_way_to_the_default(tmp_path):
    file = tmp_path / "new" / "settings.json"
    kept = Preferences(language="zh", dark=True, size=150, do_sample=True, temperature=0.7, system="", device="cpu")
    kept.save(file)
    assert Preferences.load(file) == kept
    assert kept.overrides() == {"do_sample": True, "temperature": 0.7, "system": ""}
    bad = {"language": "xx", "dark": 1, "size": 117, "temperature": -1, "max_new_tokens": 0, "more": 1, "look": True}
    file.write_text(json.dumps(bad), encoding="utf-8")
    assert Preferences.load(file) == Preferences(look=True)
    for damaged in ("{", "[]", ""):
        file.write_text(damaged, encoding="utf-8")
        assert Preferences.load(file) == Preferences()


@pytest.mark.parametrize(("name", "language"), [("zh_CN.UTF-8", "zh"), ("en_GB.UTF-8", "en"), ("C.UTF-8", "en")])
def test_the_language_is_the_locales(monkeypatch, name, language):
    monkeypatch.setenv("LC_ALL", name)
    assert system_language() == language


def test_both_languages_say_the_same_things():
    english, chinese = TEXTS["en"], TEXTS["zh"]
    assert english.keys() == chinese.keys()
    for key, words in english.items():
        assert set(re.findall(r"{\w+}", words)) == set(re.findall(r"{\w+}", chinese[key])), key
    source = "".join(file.read_text(encoding="utf-8") for file in (REPO / "window").glob("*.py"))
    said = {key for key in english if f'"{key}"' in source.replace((REPO / "window/texts.py").read_text("utf-8"), "")}
    assert english.keys() - said == {key for key in english if key.startswith("stage_")} - said


def test_without_tk_one_line_says_how_to_get_it():
    code = "import sys, runpy; sys.modules['tkinter'] = None; sys.argv = ['test_gui.py', 'a.png']; "
    code += "runpy.run_path('test_gui.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "this Python has no Tk" in done.stderr and "dnf install python3-tkinter" in done.stderr
    assert "python ask.py --checkpoint DIR --image a.png" in done.stderr


# ---------------------------------------------------------------------------------------------- the clipboard


def test_a_copied_file_is_known_by_its_path_or_its_address(tmp_path):
    pytest.importorskip("tkinter", reason="this Python has no Tk")
    from window.app import file_in

    file = tmp_path / "a picture.png"
    file.write_bytes(b"")
    assert file_in(f" {file}\n") == file_in(file.as_uri()) == file_in(f"copy\n{file.as_uri()}") == str(file)
    for text in ("", "What color?", str(tmp_path), "x" * 5000, "a\0b", "file://[1"):
        assert file_in(text) is None


@pytest.mark.skipif(sys.platform == "win32", reason="there a path begins with a drive")
def test_an_address_of_a_file_is_its_path():
    pytest.importorskip("tkinter", reason="this Python has no Tk")
    from window.app import local_path

    assert local_path("file:///home/a%20b/%E7%BA%A2%2520%23.png") == "/home/a b/红%20#.png"
    assert local_path("file://localhost/a.png") == "/a.png"
    assert local_path("/home/a%20b.png") == "/home/a%20b.png"


def test_files_can_be_dropped_where_tkinterdnd2_is_installed_for_this_tcl(monkeypatch):
    monkeypatch.setitem(sys.modules, "tkinterdnd2", None)
    assert not takes_files("root")
    asked = []
    module = SimpleNamespace(TkinterDnD=SimpleNamespace(require=asked.append))
    monkeypatch.setitem(sys.modules, "tkinterdnd2", module)
    assert takes_files("root") and asked == ["root"]

    def made_for_another_tcl(root):
        raise RuntimeError("Unable to load tkdnd library.")

    module.TkinterDnD.require = made_for_another_tcl
    assert not takes_files("root")


def test_the_clipboard_gives_a_picture_a_file_or_a_reason(tmp_path, monkeypatch):
    pytest.importorskip("tkinter", reason="this Python has no Tk")
    from window import app

    picture("red").save(tmp_path / "red.png")
    say = lambda key, **values: TEXTS["en"][key].format(**values)  # noqa: E731
    monkeypatch.setattr(app.ImageGrab, "grabclipboard", lambda: picture("blue").convert("RGBA"))
    name, image = app.clipboard_picture(say)
    assert (name, image.mode, image.getpixel((0, 0))) == ("clipboard", "RGB", (0, 0, 255))
    monkeypatch.setattr(app.ImageGrab, "grabclipboard", lambda: [str(tmp_path / "red.png")])
    assert app.clipboard_picture(say)[0] == str(tmp_path / "red.png")
    monkeypatch.setattr(app.ImageGrab, "grabclipboard", lambda: None)
    with pytest.raises(UserError, match="There is no picture in the clipboard"):
        app.clipboard_picture(say)

    def nothing_to_ask():
        raise NotImplementedError("wl-paste or xclip is required")

    monkeypatch.setattr(app.ImageGrab, "grabclipboard", nothing_to_ask)
    with pytest.raises(UserError, match="cannot be pasted here: wl-paste or xclip is required"):
        app.clipboard_picture(say)


def test_the_dropped_patch_is_crossed_out_and_the_hottest_is_red():
    pytest.importorskip("tkinter", reason="this Python has no Tk")
    import numpy as np

    from window.picture import with_heat

    grid = np.array([[np.nan, 0.0], [0.1, 0.4]], dtype=np.float32)
    page = np.array(with_heat(picture("white").resize((80, 80)), grid)).astype(int)
    quarters = [page[:40, 40:], page[40:, :40], page[40:, 40:]]
    assert (quarters[0] == 255).all()  # nothing went there
    reds = [int((255 - quarter[..., 1]).mean()) for quarter in quarters]
    assert reds[0] < reds[1] < reds[2] and len(np.unique(quarters[2].reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(page[:40, :40].reshape(-1, 3), axis=0)) > 1  # lines across it


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio, from 1 to 21, of two colours as #rrggbb."""

    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_every_text_can_be_read_on_its_ground():
    pytest.importorskip("tkinter", reason="this Python has no Tk")
    from window.look import DARK, LIGHT

    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for c in (LIGHT, DARK):
        pairs = [(c.text, ground) for ground in (c.ground, c.surface, c.button, c.button_over, c.question, c.marked)]
        pairs += [(c.muted, c.ground), (c.muted, c.surface), (c.on_warning, c.warning), (c.on_warning, c.ground)]
        pairs += [(c.on_accent, c.accent), (c.on_accent, c.accent_over)]
        assert min(contrast(*pair) for pair in pairs) >= 4.5

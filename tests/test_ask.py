"""ask.py: the answer and nothing else on stdout, a conversation on the terminal, mistakes in one line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import ask as ask_command
from answering import assistant as assistant_module
from answering.assistant import Assistant
from benchmarks.start import start
from dataset.prompt import Request, Turn, question_with_images
from tests.helpers.asking import requests
from tests.helpers.clips import write_clip
from tests.helpers.tiny import REPO, picture


def ask(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "ask.py", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, encoding="utf-8", input=stdin)


def test_ask_prints_the_answer_and_nothing_else(checkpoint, assistant, tmp_path):
    picture("red").save(tmp_path / "red.png")
    done = ask("--checkpoint", checkpoint.parent, "--image", tmp_path / "red.png", "What color?")
    (wanted,) = assistant.answer(requests()[:1])
    assert wanted and done.returncode == 0 and done.stdout == wanted + "\n", done.stderr


def test_ask_without_a_question_is_a_conversation(checkpoint, assistant, tmp_path):
    picture("red").save(tmp_path / "red.png")
    done = ask("--checkpoint", checkpoint, "--image", tmp_path / "red.png", stdin="What color?\nand now?\n")
    first, image = question_with_images("What color?", 1), [picture("red")]
    (one,) = assistant.answer([Request([Turn(first)], image)])
    (two,) = assistant.answer([Request([Turn(first, one), Turn("and now?")], image)])
    assert one and two and one != two and done.returncode == 0 and done.stdout == f"{one}\n{two}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "{checkpoint}", "--image", "nowhere.png", "x"], "nowhere.png: "),
        (["--checkpoint", "{checkpoint}", "--image", "README.md", "x"], "README.md: "),
        (["--checkpoint", "no/such/folder", "--image", "{picture}", "x"], "no checkpoint at no"),
        (["--checkpoint", "{checkpoint}", "--image", "{picture}", "--device", "moon", "x"], "'moon' is not known"),
    ],
)
def test_ask_says_in_one_line_what_is_wrong(checkpoint, tmp_path, arguments, message):
    picture("red").save(tmp_path / "red.png")
    done = ask(*(a.format(checkpoint=checkpoint, picture=tmp_path / "red.png") for a in arguments))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--help"], ""),
        (["--checkpoint", "no/such/folder", "--image", "{picture}", "x"], "error: no checkpoint at no"),
        (["--checkpoint", "{checkpoint}", "--image", "nowhere.png", "x"], "error: nowhere.png: missing"),
        (["--checkpoint", "{checkpoint}", "--image", "{picture}", "--device", "moon", "x"], "error: device 'moon'"),
        (["--checkpoint", "{checkpoint}", "--image", "{picture}", "--max-new-tokens", "0"], "usage: ask.py"),
        (["--checkpoint", "{checkpoint}", "x"], "usage: ask.py"),
        (["--checkpoint", "{checkpoint}", "--image", "{picture}", "two", "questions"], "usage: ask.py"),
        (
            ["--checkpoint", "{checkpoint}", "--image", "{picture}", "--questions", "no.txt"],
            "error: --questions no.txt",
        ),
        (["--checkpoint", "{checkpoint}", "--image", "{picture}", "x", "generate.beams=2"], "error: command line: "),
        (
            ["--checkpoint", "{checkpoint}", "--image", "{picture}", "x", "data.max_pixels=9"],
            "error: {picture}: too large",
        ),
        (
            ["--checkpoint", "{checkpoint}", "--image", "{picture}", "--base-vision", "no", "x"],
            "error: --base-vision = no",
        ),
    ],
)
def test_a_mistake_is_found_before_torch_is_imported(checkpoint, tmp_path, arguments, message):
    picture("red").save(tmp_path / "red.png")
    done = start("ask.py", [a.format(checkpoint=checkpoint, picture=tmp_path / "red.png") for a in arguments])
    message = message.format(picture=tmp_path / "red.png")
    assert done.stderr.startswith(message) and done.status == (2 if message else 0)
    assert done.imported == []


def test_verify_reads_all_files_again(checkpoint, tmp_path, monkeypatch, capsys):
    picture("red").save(tmp_path / "red.png")
    asked, load = [], assistant_module.load_undamaged
    keep = lambda *arguments, **options: asked.append(options["verify"]) or load(*arguments, **options)  # noqa: E731
    monkeypatch.setattr(assistant_module, "load_undamaged", keep)
    for options in ([], ["--verify"]):
        command = ["--checkpoint", str(checkpoint), "--image", str(tmp_path / "red.png"), "--device", "cpu", *options]
        assert ask_command.main([*command, "What color?"]) == 0
    assert asked == [False, True]


# ---------------------------------------------------------------------------------------------- in this process


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


class Console:
    """Runs the command in this process, on streams of bytes in an encoding."""

    def __init__(self, assistant: Assistant, checkpoint: Path, folder: Path, monkeypatch) -> None:
        picture("red").save(folder / "red.png")
        self.command = ["--checkpoint", str(checkpoint), "--image", str(folder / "red.png")]
        self.assistant, self.patch = assistant, monkeypatch
        load = lambda *arguments, **options: assistant  # noqa: E731
        monkeypatch.setattr(Assistant, "load", load)

    def run(
        self, *arguments: str, stdin: bytes = b"", encoding: str = "utf-8", stream: type = io.TextIOWrapper
    ) -> SimpleNamespace:
        out, err = io.BytesIO(), io.BytesIO()
        with self.patch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding=encoding))
            patch.setattr(sys, "stdout", stream(out, encoding=encoding))
            patch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding=encoding, errors="backslashreplace"))
            status = ask_command.main([*self.command, *arguments])
            sys.stdout.flush()
            sys.stderr.flush()
            return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue().decode(encoding))


@pytest.fixture
def console(assistant, checkpoint, tmp_path, monkeypatch):
    return Console(assistant, checkpoint, tmp_path, monkeypatch)


def test_bytes_that_are_not_utf8_are_replaced_in_one_line_and_the_conversation_continues(console):
    asked, ask = [], console.assistant.stream
    console.patch.setattr(console.assistant, "stream", lambda request: asked.append(request) or ask(request))
    half, gbk = "什么颜色".encode()[:-1], "红色".encode("gbk")
    done = console.run(stdin=half + b"\n" + gbk + b"\nand now?\n", encoding="latin-1")
    assert done.status == 0 and len(asked) == 3 and done.out.count(b"\n") == 3
    assert [request.turns[-1].question.split("\n")[-1] for request in asked] == [
        "什么颜\ufffd\ufffd",
        "\ufffd\ufffd\u026b",
        "and now?",
    ]
    notes = [line.removeprefix("> ") for line in done.err.splitlines() if "UTF-8 text" in line]
    assert [note.split(" were")[0] for note in notes] == ["note: 2 characters", "note: 2 characters"]


@pytest.mark.parametrize("arguments", [["What color?"], ["--json", "What color?"]])
def test_a_console_that_cannot_print_an_answer_shows_what_it_can(console, arguments):
    console.patch.setattr(console.assistant, "stream", lambda request: iter(["a red ", "圆"]))
    done = console.run(*arguments, encoding="ascii")
    assert done.status == 0
    if "--json" in arguments:  # escaped, so that nothing is lost
        assert json.loads(done.out)["answer"] == "a red 圆" and done.err == ""
    else:
        assert done.out == b"a red ?\n" and done.err.startswith("note: a console in ascii cannot print every character")
        assert done.err.count("\n") == 1
    assert console.run(*arguments).out.decode().count("圆") == 1


def test_json_has_the_question_the_pictures_and_the_answer(console):
    done = console.run("--json", "什么颜色？", "--max-new-tokens", "5")
    (wanted,) = console.assistant.answer([Request([Turn(question_with_images("什么颜色？", 1))], [picture("red")])])
    assert json.loads(done.out) == {"question": "什么颜色？", "images": [console.command[-1]], "answer": wanted}
    assert done.out.count(b"\n") == 1


QUESTIONS = ["What color?", "How many?", "哪里?", "What is it?", "Why?"]


@pytest.fixture
def question_file(tmp_path):
    """Five questions; the third names a picture that is there and damaged."""
    (tmp_path / "bad.png").write_bytes(b"no picture")
    lines = [{"id": number, "question": text} for number, text in enumerate(QUESTIONS)]
    lines[2]["image"] = str(tmp_path / "bad.png")
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return str(tmp_path / "questions.jsonl")


def test_a_file_of_questions_gives_one_line_for_each_in_its_order(console, question_file):
    asked = [Request([Turn(question_with_images(text, 1))], [picture("red")]) for text in QUESTIONS]
    wanted = console.assistant.answer(asked)
    done = console.run("--questions", question_file, "--json", "generate.batch_size=2")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [record["id"] for record in records] == [0, 1, 2, 3, 4] and done.status == 1
    assert [r["answer"] for r in records] == [*wanted[:2], None, *wanted[3:]]
    assert "cannot be decoded" in records[2]["error"] and "error" not in records[0]
    assert done.err == "1 of 5 questions could not be asked\n"
    done = console.run("--questions", question_file)
    answers = [" ".join(text.splitlines()) for text in wanted]
    assert done.out.decode().split("\n") == [*answers[:2], "", *answers[3:], ""]
    assert done.err.startswith("line 3: ") and done.err.count("\n") == 2


def test_answers_to_a_file_of_questions_are_in_plain_words(console, tmp_path):
    (tmp_path / "q.txt").write_text("Where?\n", encoding="utf-8")
    said = "<ref>the dog</ref><box>(100,500),(600,999)</box>"
    console.patch.setattr(console.assistant, "answer", lambda requests, **settings: [said] * len(requests))
    asked = ["--questions", str(tmp_path / "q.txt")]
    assert console.run(*asked).out.decode() == "the dog [3, 30, 18, 60]\n"
    assert json.loads(console.run(*asked, "--json").out)["answer"] == said


def test_ctrl_c_loses_no_answer_that_was_printed(console, tmp_path):
    (tmp_path / "q.txt").write_text("a\nb\nc\nd\n", encoding="utf-8")
    batches = []

    def answer(requests, **options):
        batches.append(len(requests))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return ["yes"] * len(requests)

    console.patch.setattr(console.assistant, "answer", answer)
    file = console.run("--questions", str(tmp_path / "q.txt"), "generate.batch_size=3")
    assert (file.status, file.out, batches) == (130, b"yes\nyes\nyes\n", [3, 1])


def test_options_of_the_command_line_reach_the_model(checkpoint, tmp_path, monkeypatch):
    picture("red").save(tmp_path / "red.png")
    seen, load = [], Assistant.load

    def keep(*arguments, **options):
        seen.append(load(*arguments, **options))
        return seen[0]

    monkeypatch.setattr(Assistant, "load", keep)
    command = ["--checkpoint", str(checkpoint), "--image", str(tmp_path / "red.png"), "--device", "cpu"]
    assert (
        ask_command.main([*command, "generate.num_beams=2", "What?", "--max-new-tokens", "3", "data.max_pixels=2000"])
        == 0
    )
    config = seen[0].config
    assert (config.generate.num_beams, config.generate.max_new_tokens, config.data.max_pixels) == (2, 3, 2000)


@pytest.mark.skipif(os.name == "nt", reason="a shell with pipes of POSIX")
def test_a_reader_that_has_enough_is_no_error(checkpoint, tmp_path):
    picture("red").save(tmp_path / "red.png")
    (tmp_path / "q.txt").write_text("a\n" * 3, encoding="utf-8")
    command = [sys.executable, "ask.py", "--checkpoint", str(checkpoint), "--image", str(tmp_path / "red.png")]
    command += ["--questions", str(tmp_path / "q.txt"), "generate.batch_size=1"]
    asking = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    asking.stdout.close()
    assert (asking.stderr.read(), asking.wait()) == ("", 1)


def test_a_box_is_asked_about_and_the_answers_boxes_are_pixels_and_drawn(console, tmp_path):
    """The picture has 30 x 60 pixels."""
    seen = []

    def stream(request):
        seen.append(request.turns[-1].question)
        return iter(["<ref>the dog</ref><box>(100,500),(600,", "999)</box>"])

    console.patch.setattr(console.assistant, "stream", stream)
    box = ["--box", "3,30,18,60", "What is <box>(1,2),(3,4)</box>?"]
    done = console.run("--json", *box)
    assert done.status == 2 and done.err.startswith("error: --box: this checkpoint has no tokens for boxes")
    console.patch.setattr(Assistant, "takes_boxes", True)
    done = console.run("--json", *box, "--draw", str(tmp_path / "out.png"))
    assert seen == ["<|extra_0|>\n<box>(100,500),(600,999)</box> What is < box >(1,2),(3,4)< /box >?"]
    found = json.loads(done.out)
    assert found["boxes"] == [{"label": "the dog", "box": [3, 30, 18, 60]}]
    assert found["question"] == "What is < box >(1,2),(3,4)< /box >?"
    assert (tmp_path / "out.png").is_file()


def test_a_box_names_one_of_several_pictures_and_the_answers_boxes_are_on_it(console, tmp_path):
    """The pictures have 30 x 60 and 200 x 100 pixels."""
    picture("blue").resize((200, 100)).save(tmp_path / "blue.png")
    seen = []

    def stream(request):
        seen.append(request.turns[-1].question)
        return iter(["<ref>the dog</ref><box>(100,500),(600,999)</box>"])

    console.patch.setattr(console.assistant, "stream", stream)
    console.patch.setattr(Assistant, "takes_boxes", True)
    both = ["--image", str(tmp_path / "blue.png"), "What is this?"]
    done = console.run("--box", "1:3,30,18,60", "--json", "--draw", str(tmp_path / "out.png"), *both)
    assert json.loads(done.out)["boxes"] == [{"label": "the dog", "box": [3, 30, 18, 60]}]
    assert (
        "note: this checkpoint was trained without numbers of pictures: it may not know which is picture 1" in done.err
    )
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.size == (30, 60)
    done = console.run("--box", "1:3,30,18,60", *both)
    assert done.out.decode() == "the dog [3, 30, 18, 60]\n"
    done = console.run("--box", "20,50,120,100", *both)
    assert done.out.decode() == "the dog [20, 50, 120, 100]\n" and "numbers of pictures" not in done.err
    box = "<box>(100,500),(600,999)</box> What is this?"
    pictures = "<|extra_0|>" * 2
    assert seen == [f"{pictures}\nPicture 1: {box}"] * 2 + [f"{pictures}\n{box}"]


@pytest.mark.parametrize("stream", [io.TextIOWrapper, Terminal])
def test_an_answer_is_printed_in_plain_words_and_kept_exactly(console, stream):
    """Also on a terminal, where it is printed piece by piece. The next question's prompt has the marks."""
    said, seen = " It is <ref>the dog</ref><box>(100,500),(600,999)</box>, 1 < 2", []
    console.patch.setattr(console.assistant, "stream", lambda request: seen.append(request) or iter(said))
    done = console.run(stdin=b"Where?\nAnd now?\n", stream=stream)
    assert done.out.decode() == "It is the dog [3, 30, 18, 60], 1 < 2\n" * 2
    assert seen[1].turns[0].answer == said.strip()
    assert json.loads(console.run("--json", "Where?").out)["answer"] == said.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--box", "2:1,2,3,4", "x"], "error: --box 2:1,2,3,4: no picture 2; there are 1, counted from 1"),
        (["--box", "1,2", "x"], "error: --box 1,2: expected left,top,right,bottom in pixels"),
        (["--box", "40,1,50,2", "x"], "error: --box 40,1,50,2: a box outside its picture"),
        (["--draw", "a.txt", "x"], "error: --draw a.txt: expected a name that ends in .png"),
    ],
)
def test_mistakes_with_boxes_are_found_before_the_model_is_loaded(console, arguments, message):
    console.patch.setattr(Assistant, "load", lambda *a, **k: pytest.fail("loaded"))
    done = console.run(*arguments)
    assert done.status == 2 and message in done.err


def test_a_video_is_asked_about_by_its_frames(console, tmp_path):
    """The model has 8 tokens a picture in 256; an answer may have 8."""
    pytest.importorskip("av", reason="PyAV is not installed")
    clip = str(write_clip(tmp_path / "clip.mp4", 40, rate=10))
    console.command = console.command[:2]
    seen, stream = [], console.assistant.stream
    console.patch.setattr(console.assistant, "stream", lambda request: seen.append(request) or stream(request))
    done = console.run("--video", clip, "--frames", "4", "--times", "--json", "What happens?")
    assert done.status == 0
    assert json.loads(done.out)["images"] == [f"{clip}#t={time}" for time in ("0.500", "1.500", "2.500", "3.500")]
    labels = "".join(f"<frame {time}s><|extra_0|>" for time in (0.5, 1.5, 2.5, 3.5))
    assert seen[0].turns[0].question == f"{labels}\nWhat happens?" and len(seen[0].images) == 4
    assert json.loads(done.out)["question"] == "What happens?"
    done = console.run("--video", clip, "--frames", "40", "What happens?")
    assert done.status == 0 and done.err == "note: 9 of 40 frames, 8 tokens each within language.max_length = 256\n"
    assert len(seen[1].images) == 9 and seen[1].turns[0].question == "<|extra_0|>" * 9 + "\nWhat happens?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--video", "README.md", "x"], "error: --video README.md: cannot be decoded as a video"),
        (["--video", "no.mp4", "x"], "error: --video no.mp4: missing"),
        (["--video", "no.mp4", "x", "generate.max_new_tokens=190"], "error: language.max_length = 256: no room for a"),
    ],
)
def test_a_video_that_cannot_be_asked_about_is_one_line(console, arguments, message):
    pytest.importorskip("av", reason="PyAV is not installed")
    console.command = console.command[:2]
    console.patch.setattr(Assistant, "load", lambda *a, **k: pytest.fail("loaded"))
    done = console.run(*arguments)
    assert done.status == 2 and done.err.startswith(message) and done.err.count("\n") == 1


def test_without_pyav_one_line_says_what_to_install(console, monkeypatch, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    console.command = console.command[:2]
    done = console.run("--video", str(tmp_path / "a.mp4"), "x")
    assert done.status == 2 and done.err.endswith("a video, which is read with PyAV; pip install av==18.1.0\n")

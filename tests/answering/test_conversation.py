"""A conversation: its requests, and what it is saved as."""

from __future__ import annotations

import json
import os
import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from answering.conversation import Conversation, request_of
from common.errors import UserError
from dataset.prompt import IMAGE_TOKEN, neutralise
from dataset.video import frame_address, read_frames
from tests.helpers.clips import write_clip
from tests.helpers.tiny import picture


def test_an_unanswered_question_is_replaced_by_the_next():
    talk = Conversation([picture("red")], ["red.png"])
    talk.ask("never answered")
    request = talk.ask("What <image>?")
    assert [turn.question for turn in request.turns] == [IMAGE_TOKEN + "\nWhat < image >?"]
    talk.answer("red")
    assert [turn.question for turn in talk.ask("sure?").turns][1:] == ["sure?"]
    assert request.turns[0].answer is None  # a request is a copy: the worker's does not change
    assert talk.answered() == [("What < image >?", "red")]


def test_a_picture_that_was_added_comes_before_the_next_question(tmp_path):
    paths = [str(tmp_path / f"{color}.png") for color in ("red", "blue")]
    images = [picture(color) for color in ("red", "blue")]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    talk = Conversation(images[:1], paths[:1])
    talk.ask("What?")
    talk.answer("red")
    talk.images, talk.paths = images, paths
    talk.ask("never answered")
    request = talk.ask("and this?")
    assert [turn.question for turn in request.turns] == [f"{IMAGE_TOKEN}\nWhat?", f"{IMAGE_TOKEN}\nand this?"]
    assert request.images == images and talk.up_to(0).images == images[:1] and talk.pictures_before(1) == 1
    talk.answer("blue")
    talk.save(tmp_path / "talk.json")
    assert Conversation.open(tmp_path / "talk.json", 10_000).turns == talk.turns
    text = (tmp_path / "talk.json").read_text(encoding="utf-8")
    (tmp_path / "talk.json").write_text(text.replace('"images": 1', '"images": 2'), encoding="utf-8")
    with pytest.raises(UserError):
        Conversation.read(tmp_path / "talk.json")


def test_a_question_about_a_part_names_its_picture_unless_it_is_the_last(tmp_path):
    paths = [str(tmp_path / f"{color}.png") for color in ("red", "blue")]
    images = [picture("red").resize((200, 100)), picture("blue").resize((100, 200))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    talk = Conversation(images, paths)
    talk.ask("What?", [(100, 200, 500, 600)], picture=0)
    talk.answer("<ref>a dog</ref><box>(100,200),(500,600)</box> and <box>(9,9),(3,20)</box><box>(1,")
    talk.ask("And this?", [(100, 200, 500, 600)], picture=1)
    talk.answer("red")
    asked = f"{IMAGE_TOKEN * 2}\nPicture 1: <box>(100,200),(500,600)</box> What?"
    assert [turn.question for turn in talk.turns] == [asked, "<box>(100,200),(500,600)</box> And this?"]
    assert [talk.picture_of(turn) for turn in talk.turns] == [0, 1]
    assert talk.plain(talk.turns[0]) == (
        "Picture 1: [20, 20, 100, 60] What?",
        "a dog [20, 20, 100, 60] and (9,9),(3,20)",  # the second cannot be drawn, the third is not complete
    )
    assert talk.plain(talk.turns[1]) == ("[10, 40, 50, 120] And this?", "red")
    assert (
        talk.plain(talk.turns[0], "<ref>a dog</ref><box>(100,200),(500,600)</box> <re")[1] == "a dog [20, 20, 100, 60] "
    )
    talk.save(tmp_path / "talk.json")
    kept = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))["turns"]
    assert [turn.get("picture") for turn in kept] == [1, None]
    again = Conversation.open(tmp_path / "talk.json", 100_000)
    assert again.turns == talk.turns and again.plain(again.turns[0]) == talk.plain(talk.turns[0])
    text = (tmp_path / "talk.json").read_text(encoding="utf-8")
    (tmp_path / "talk.json").write_text(text.replace('"picture": 1', '"picture": 0'), encoding="utf-8")
    with pytest.raises(UserError):
        Conversation.read(tmp_path / "talk.json")
    page = rendered(talk, tmp_path)
    assert "Picture 1: [20, 20, 100, 60] What?" in page and "a dog [20, 20, 100, 60]" in page
    assert Conversation([], [], talk.turns).plain(talk.turns[1]) == (" And this?", "red")  # the pictures are gone


@pytest.mark.parametrize("times", [True, False])
def test_frames_of_a_video_are_read_again_with_their_times(tmp_path, times):
    pytest.importorskip("av", reason="PyAV is not installed")
    clip = str(write_clip(tmp_path / "clip.mp4", 40, rate=7))
    frames = read_frames(clip, 5, 10_000)
    paths = [frame_address(clip, frame.seconds) for frame in frames]
    talk = Conversation([frame.image for frame in frames], paths, times=times)
    request = talk.ask("What happens?")
    talk.answer("rain")
    talk.save(tmp_path / "talk.json")
    again = Conversation.open(tmp_path / "talk.json", 10_000)
    assert again.turns == talk.turns and again.times is times
    assert [image.tobytes() for image in again.images] == [image.tobytes() for image in talk.images]
    assert ("<frame 0.6s><|extra_0|>" in request.turns[0].question) is times
    os.remove(clip)
    with pytest.raises(UserError, match="clip.mp4#t=0.571: missing; the conversation is about this picture"):
        Conversation.open(tmp_path / "talk.json", 10_000)


def test_a_conversation_can_be_saved_and_opened_again(tmp_path):
    picture("red").save(tmp_path / "红.png")
    talk = Conversation(
        [picture("red")], [str(tmp_path / "红.png")], about={"checkpoint": "checkpoints/x", "top_p": 1.0}
    )
    for question, answer in (("什么颜色？", "红色"), ("two\nlines", "yes")):
        talk.ask(question)
        talk.answer(answer)
    talk.ask("not yet answered")
    talk.save(tmp_path / "talk.json")
    again = Conversation.open(tmp_path / "talk.json", 10_000)
    assert again.turns == talk.turns[:2] and again.about == talk.about and again.paths == talk.paths
    assert again.images[0].tobytes() == picture("red").tobytes()
    talk.save(tmp_path / "talk.md")
    lines = (tmp_path / "talk.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"![picture](<{tmp_path / '红.png'}>)" and "- checkpoint: checkpoints/x" in lines
    assert "> 什么颜色？" in lines and "红色" in lines and lines[-4:] == ["> two  ", "> lines", "", "yes"]


def test_halves_of_characters_are_replaced_and_a_name_that_is_not_utf8_is_kept(tmp_path):
    path = str(tmp_path / "caf\udce9.png")  # caf\xe9.png in Latin-1
    talk = Conversation([picture("red")], [path], about={"system": "\ud800"})
    assert talk.ask("\ud83d\udfe3 and \ud83d?").turns[-1].question == IMAGE_TOKEN + "\n🟣 and \ufffd?"
    assert talk.replaced == 1
    talk.answer("red")
    talk.save(tmp_path / "talk.json")
    assert json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))["images"] == [path]
    talk.save(tmp_path / "talk.md")
    assert "🟣 and \ufffd?" in (tmp_path / "talk.md").read_text(encoding="utf-8")
    assert talk.ask("sure?") and talk.replaced == 0


def rendered(conversation: Conversation, folder: Path) -> str:
    """The saved Markdown as a page, by a renderer of GitHub's kind."""
    conversation.save(folder / "talk.md")
    text = (folder / "talk.md").read_text(encoding="utf-8")
    return MarkdownIt("gfm-like", {"linkify": False}).render(text)


@pytest.mark.parametrize("name", ["a b.png", "[1] (2) <3>.png", "50% #1? &amp;.png", "back\\slash.png", "红.png"])
def test_a_saved_page_shows_a_picture_with_any_name(tmp_path, name):
    if os.name == "nt" and set(name) & set("<>?\\"):
        pytest.skip("Windows has no such names")
    picture("red").save(tmp_path / name)
    page = rendered(Conversation([picture("red")], [str(tmp_path / name)]), tmp_path)
    assert unquote(unescape(re.search('<img src="([^"]*)"', page)[1])) == (tmp_path / name).as_posix()
    assert "<img" not in rendered(Conversation([picture("red")], ["clipboard"]), tmp_path)  # not a file


def saved_page(question: str, answer: str, tmp_path) -> str:
    talk = Conversation()
    talk.ask(question)
    talk.answer(answer)
    talk.ask("next?")
    talk.answer("yes")
    return rendered(talk, tmp_path)


MARKUP = st.text("\n\n#>-=+*_~`|[]()<>!&;$\\.:1a \t", max_size=30)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example writes the file again
)
@given(question=MARKUP)
@example(question="# a\n> b\n1. c\n- d\n\n    e")
@example(question="<b>x</b> &lt; _y_ `z`")
@example(question="a\n===\nb\n---\n~~~")
@example(question="a | b\n--|--\n1 | 2")
def test_a_saved_page_shows_a_question_exactly(tmp_path, question):
    page = saved_page(question, "red", tmp_path)
    quote = re.search(r"<blockquote>(.*?)</blockquote>\n<p>red</p>", page, re.DOTALL)[1]
    assert set(re.findall(r"</?\w+", quote)) <= {"<p", "</p", "<br"}
    lines = [" ".join(line.split()) for line in unescape(re.sub(r"<[^>]*>", "", quote)).splitlines()]
    wanted = [" ".join(line.split()) for line in neutralise(question).splitlines()]
    assert [line for line in lines if line] == [line for line in wanted if line]


@pytest.mark.parametrize(
    ("answer", "html"),
    [
        ("a red\ncircle", "<p>a red<br />\ncircle</p>"),
        ("- one\n- **two**", "<ul>\n<li>one</li>\n<li><strong>two</strong></li>\n</ul>"),  # the model's own Markdown
        ("<ref>dog</ref> 1 < 2 <i>", "<p>dog 1 &lt; 2 &lt;i&gt;</p>"),  # a mark of ours, and a tag that is not
        ("<!-- never ends", "<p>&lt;!-- never ends</p>"),
        ("```\na < b:\n<div>", "<pre><code>a &lt; b:\n&lt;div&gt;\n</code></pre>"),
        ("> no question", "<p>&gt; no question</p>"),
    ],
)
def test_a_saved_page_shows_an_answer_whole_and_it_ends_where_the_answer_ends(tmp_path, answer, html):
    page = saved_page("What?", answer, tmp_path)
    quote = "<blockquote>\n<p>{}</p>\n</blockquote>\n"
    assert page == f"{quote.format('What?')}{html}\n{quote.format('next?')}<p>yes</p>\n"


@pytest.mark.parametrize("content", ["", "[]", '{"turns": []}', '{"images": [], "about": {}, "turns": [1]}'])
def test_a_file_that_is_not_a_conversation_is_one_line(tmp_path, content):
    (tmp_path / "talk.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="not a conversation that was saved here as JSON"):
        Conversation.open(tmp_path / "talk.json", 10_000)


def test_a_conversation_whose_picture_is_gone_names_it(tmp_path):
    Conversation([picture("red")], [str(tmp_path / "gone.png")]).save(tmp_path / "talk.json")
    with pytest.raises(UserError, match="gone.png: missing"):
        Conversation.open(tmp_path / "talk.json", 10_000)
    with pytest.raises(UserError, match="cannot be written"):
        Conversation().save(tmp_path / "talk.json" / "a file is no folder.json")


def test_boxes_of_questions_are_saved_and_typed_ones_are_not_boxes(tmp_path):
    picture("red").save(tmp_path / "red.png")
    conversation = Conversation([picture("red")], [str(tmp_path / "red.png")])
    request = conversation.ask("What is <box>(1,2),(3,4)</box> this?", [(100, 300, 600, 800)])
    asked = "<box>(100,300),(600,800)</box> What is < box >(1,2),(3,4)< /box > this?"
    assert request.turns[0].question == f"{IMAGE_TOKEN}\n{asked}"
    conversation.answer("a dog")
    conversation.save(tmp_path / "a.json")
    assert Conversation.open(tmp_path / "a.json", 10**6).turns == conversation.turns
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    for wrong in ("[[600, 300, 100, 800]]", "[[1, 2, 3]]", "[[0, 0, 1000, 5]]", "7"):
        (tmp_path / "b.json").write_text(re.sub(r'"boxes": \[.*?\]\s*\]', f'"boxes": {wrong}', text, flags=re.S))
        with pytest.raises(UserError, match="not a conversation"):
            Conversation.open(tmp_path / "b.json", 10**6)


def test_a_question_as_a_list(tmp_path):
    picture("red").save(tmp_path / "red.png")  # 30 x 60 pixels
    parts = [{"image": str(tmp_path / "red.png")}, {"text": "Is <box> "}, {"image": picture("blue")}]
    request = request_of([*parts, {"box": (3, 30, 18, 60), "ref": "a <b>"}, {"text": " larger?"}], 10**6)
    box = "<ref>a b</ref><box>(100,500),(600,999)</box>"
    assert request.turns[0].question == f"{IMAGE_TOKEN}\nIs < box > {IMAGE_TOKEN}\n{box} larger?"
    assert [image.size for image in request.images] == [(30, 60), (30, 60)]
    empty, outside = {"box": (1, 2)}, {"box": (90, 0, 95, 5)}
    for wrong in ([{"box": (1, 2, 3, 4)}], [{"sound": 1}], [*parts, empty], [*parts, outside]):
        with pytest.raises(UserError, match="part [03]: "):
            request_of(wrong, 10**6)

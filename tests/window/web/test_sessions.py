"""What a tab has of its own: pictures, conversation, answers; and what is refused, in a sentence."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from answering.assistant import Assistant
from baselines.train import main as train
from dataset.prompt import Request, Turn, question_with_images
from tests.baselines.conftest import SMALL, colors
from tests.helpers.asking import count_pictures
from tests.helpers.tiny import never_ends, picture
from window.web import limits
from window.web.model import Model
from window.web.sessions import Session, Sessions
from window.web.turns import Job

__all__ = ["colors"]  # a fixture


def ask(sessions: Sessions, session: Session, question: str, **settings) -> Job | None:
    return sessions.ask(session, question, sessions.model.first, {"do_sample": False, **settings})


def answer(sessions: Sessions, session: Session, question: str, **settings) -> str:
    """Ask, wait, and give the answer."""
    job = ask(sessions, session, question, **settings)
    assert job is not None, session.said()
    list(job.changes())
    return session.lines[-1].text


@pytest.fixture
def tab(sessions, red):
    """A tab with the red picture."""
    session = sessions.of("tab")
    assert sessions.show(session, [str(red)])
    return session


def endless(sessions: Sessions, session: Session) -> Job:
    """An answer in progress that does not end by itself, with some words said."""
    never_ends(sessions.model.assistant)
    job = ask(sessions, session, "What color?", max_new_tokens=3000)
    changes = job.changes()
    while session.lines[-1].text == "":
        next(changes)
    return job


def test_answers_are_those_of_the_assistant_and_a_follow_up_sees_the_conversation(sessions, tab, assistant):
    turns: list[Turn] = []
    for question in ("What color?", "哪里?"):
        turns.append(Turn(question_with_images(question, 0 if turns else 1)))
        turns[-1].answer = assistant.answer([Request(turns, [picture("red")])])[0]
        assert answer(sessions, tab, question) == turns[-1].answer != ""
    assert [(line.kind, line.text) for line in tab.lines[:2]] == [
        ("question", "What color?"),
        ("answer", turns[0].answer),
    ]
    assert tab.said() == "test / checkpoint-1 on cpu" and tab.job is None


def test_an_answer_is_shown_in_plain_words_with_its_boxes_in_pixels_also_while_it_comes(sessions, tab, monkeypatch):
    """The picture has 30 x 60 pixels. The conversation keeps the exact answer, which the next prompt has."""
    said, seen = "It is <ref>a dog</ref><box>(100,500),(600,999)</box>.", []

    def stream(*arguments, **settings):
        for piece in said:
            seen.append(tab.lines[-1].text)
            yield piece

    monkeypatch.setattr(sessions.model.assistant, "stream", stream)
    assert answer(sessions, tab, "Where is <box>?") == "It is a dog [3, 30, 18, 60]."
    assert tab.conversation.turns[-1].answer == said and tab.lines[-2].text == "Where is <box>?"
    assert all("It is a dog [3, 30, 18, 60].".startswith(words) for words in seen)
    assert {"", "It is", "It is a dog", "It is a dog [3, 30, 18, 60]"} <= set(seen)


def test_an_answer_of_nothing_but_marks_is_called_empty(sessions, tab, monkeypatch):
    monkeypatch.setattr(sessions.model.assistant, "stream", lambda *arguments, **settings: iter(["<ref>", "</ref>"]))
    assert answer(sessions, tab, "What?") == "" and tab.status.key == "nothing"


def test_two_tabs_have_their_own_conversations_and_kept_prefixes(sessions, red, blue, assistant):
    tabs = [sessions.of("a"), sessions.of("b")]
    for tab, file in zip(tabs, (red, blue), strict=True):
        sessions.show(tab, [str(file)])
    seen = count_pictures(sessions.model.assistant)
    for _ in range(2):
        found = [answer(sessions, tab, "What color?") for tab in tabs]
    assert len(seen) == 2  # each picture was encoded once, though the tabs took turns
    wanted = [
        assistant.answer([Request([Turn(question_with_images("What color?", 1))], [picture(color)])])[0]
        for color in ("red", "blue")
    ]
    assert [tab.lines[1].text for tab in tabs] == wanted and wanted[0] != wanted[1] and len(found) == 2


def test_several_pictures_are_one_conversation(sessions, red, blue, assistant):
    tab = sessions.of("tab")
    assert sessions.show(tab, [str(red), str(blue)])
    request = Request([Turn(question_with_images("Which?", 2))], [picture("red"), picture("blue")])
    assert answer(sessions, tab, "Which?") == assistant.answer([request])[0]
    assert tab.conversation.paths == ["red.png", "blue.png"]


def test_stop_keeps_the_words_so_far_and_does_not_stop_the_other_tab(sessions, tab, blue):
    other = sessions.of("other")
    sessions.show(other, [str(blue)])
    first = endless(sessions, tab)
    second = ask(sessions, other, "and here?", max_new_tokens=3)
    sessions.stop(tab)
    list(first.changes())
    assert tab.said() == "Stopped" and tab.lines[-1].text and tab.conversation.turns[-1].answer == tab.lines[-1].text
    list(second.changes())
    assert other.lines[-1].text and other.said().endswith("on cpu")


def test_a_question_that_is_stopped_while_it_waits_is_given_back(sessions, tab, blue):
    other = sessions.of("other")
    sessions.show(other, [str(blue)])
    first = endless(sessions, tab)
    second = ask(sessions, other, "and here?")
    assert other.said() == "Your question waits for its turn; before it: 1."
    sessions.stop(other)
    list(second.changes())
    assert other.take_back() == "and here?" and other.lines == [] and other.conversation.turns == []
    assert not first.stopped
    sessions.stop(tab)


def test_a_closed_tab_ends_its_answer_and_is_found_again_by_its_key(sessions, red):
    tab = sessions.open("first", "key", "zh")
    sessions.show(tab, [str(red)])
    job = endless(sessions, tab)
    sessions.close("first")
    list(job.changes())
    assert job.stopped
    again = sessions.open("second", "key", "en")
    assert again is tab and again.language == "zh" and again.lines[-1].text
    assert sessions.open("third", "another key", "en") is not tab and sessions.of("first") is not tab


def test_new_pictures_begin_a_conversation_below_the_old_one(sessions, tab, blue, assistant):
    answer(sessions, tab, "What color?")
    sessions.show(tab, [str(blue)])
    request = Request([Turn(question_with_images("What color?", 1))], [picture("blue")])
    assert answer(sessions, tab, "What color?") == assistant.answer([request])[0]
    kinds = [line.kind for line in tab.lines]
    assert kinds == ["question", "answer", "note", "question", "answer"]
    assert tab.lines[2].text == "From here on it is about blue.png."


def test_pictures_that_come_in_the_middle_of_an_answer_end_it(sessions, tab, blue):
    job = endless(sessions, tab)
    sessions.show(tab, [str(blue)])
    list(job.changes())
    assert job.stopped and tab.job is None and tab.conversation.turns == []
    assert tab.said() == "Ask about the picture, or choose one of the questions."


def test_a_new_conversation_keeps_the_pictures(sessions, tab):
    answer(sessions, tab, "What color?")
    images = tab.conversation.images
    sessions.restart(tab)
    assert tab.lines == [] and tab.conversation.turns == [] and tab.conversation.images == images


# ---------------------------------------------------------------------------------------------- what is refused


def test_what_cannot_be_asked_is_given_back_with_a_sentence_in_both_languages(sessions, red):
    tab = sessions.of("tab")
    assert ask(sessions, tab, "What color?") is None and tab.take_back() == "What color?"
    assert tab.said().startswith("Add a picture first") and tab.status.refused
    sessions.show(tab, [str(red)])
    assert ask(sessions, tab, "a" * (limits.MOST_CHARACTERS + 1)) is None
    assert tab.said() == "The question has 20001 characters; 20000 are allowed."
    list(ask(sessions, tab, "long " * 2000).changes())  # more than language.max_length
    assert tab.said().startswith("Cannot answer: the question cannot be asked: too long") and tab.lines == []
    tab.language = "zh"
    assert tab.said().startswith("无法回答：这个问题不能提问：太长")
    assert tab.take_back() == ("long " * 2000).strip() and tab.take_back() is None


def test_a_second_question_during_an_answer_is_refused(sessions, tab):
    endless(sessions, tab)
    assert ask(sessions, tab, "and now?") is None and tab.given_back == "and now?"
    assert tab.said() == "Your last question is still being answered; stop it first."
    sessions.stop(tab)


def test_a_checkpoint_that_the_page_does_not_offer_is_refused(sessions, tab, tmp_path):
    assert sessions.ask(tab, "What?", tmp_path, {}) is None and tab.status.refused


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_new_tokens": 0}, "Longest answer (tokens): 0 is not a number from 1 to 4096"),
        ({"num_beams": 1000}, "Beams: 1000 is not a number from 1 to 32"),
        ({"temperature": float("nan")}, "Temperature: nan is not a number from 0.1 to 5"),
    ],
)
def test_a_wrong_setting_is_a_sentence_and_the_question_is_given_back(sessions, tab, settings, sentence):
    assert ask(sessions, tab, "What?", **settings) is None
    assert tab.said() == sentence and tab.status.refused and tab.lines == [] and tab.take_back() == "What?"


def test_pictures_that_cannot_be_used_are_refused_and_the_conversation_stays(sessions, tab, tmp_path, monkeypatch):
    answer(sessions, tab, "What color?")
    before = tab.conversation
    (tmp_path / "broken.png").write_bytes((tmp_path / "red.png").read_bytes()[:60])
    (tmp_path / "page.png").write_bytes(b"<script>alert(1)</script>")
    monkeypatch.setattr(limits, "MOST_BYTES", 200)
    monkeypatch.setattr(limits, "MOST_PICTURES", 2)
    monkeypatch.setattr(limits, "MOST_PIXELS", 2000)
    picture("red").resize((60, 50)).save(tmp_path / "large.png")
    (tmp_path / "heavy.png").write_bytes(b"0" * 201)
    for names, sentence, chinese in (
        (["gone.png"], "Cannot open gone.png: missing", "无法打开 gone.png：文件不存在"),
        (["broken.png"], "Cannot open broken.png: cannot be decoded", "无法打开 broken.png：无法解码"),
        (["page.png"], "Cannot open page.png: cannot be decoded: not an image", "无法打开 page.png：无法解码"),
        (["red.png", "heavy.png"], "heavy.png has 1 MB; a file may have 0 MB.", "heavy.png 有 1 MB"),
        (["red.png"] * 3, "These are 3 pictures; a conversation may have 2.", "共 3 张图片"),
        (["large.png"], "The pictures have 3,000 pixels together; 2,000 are allowed.", "图片共有 3,000 像素"),
    ):
        tab.language = "en"
        assert not sessions.show(tab, [str(tmp_path / name) for name in names]) and tab.status.refused
        assert tab.said().startswith(sentence)
        tab.language = "zh"
        assert tab.said().startswith(chinese)
    assert tab.conversation is before and len(tab.lines) == 2


def test_memory_is_bounded_idle_tabs_are_dropped_closed_ones_first(sessions, red, monkeypatch):
    monkeypatch.setattr(limits, "MOST_PIXELS", 3 * 1800)
    for name in "abc":
        sessions.show(sessions.of(name), [str(red)])
    sessions.close("b")
    kept = {name: sessions._sessions[name] for name in "ac"}
    sessions.show(sessions.of("d"), [str(red)])
    assert set(sessions._sessions) == {"a", "c", "d"} and sessions._sessions["a"] is kept["a"]
    sessions.of("a")
    sessions.show(sessions.of("e"), [str(red)])
    assert set(sessions._sessions) == {"a", "d", "e"}  # c was idle for longest
    monkeypatch.setattr(limits, "MOST_SESSIONS", 2)
    sessions.of("f")
    assert len(sessions._sessions) == 2 and "f" in sessions._sessions
    sessions.close("f")
    monkeypatch.setattr(limits, "KEPT_S", -1)
    sessions.of("g")
    assert "f" not in sessions._sessions


def test_half_characters_are_replaced_and_it_is_said(sessions, tab):
    answer(sessions, tab, "What\ud83d color?")
    assert tab.lines[0].text == "1 character of the question cannot be read and was replaced by \ufffd."


# ---------------------------------------------------------------------------------------------- checkpoints, maps


def test_each_tab_is_answered_by_the_checkpoint_it_chose(sessions, tab, checkpoint, monkeypatch):
    other = checkpoint.with_name("checkpoint-2")
    shutil.copytree(checkpoint, other)
    monkeypatch.setattr("window.web.model.CHECKPOINTS", checkpoint.parent.parent)
    answer(sessions, tab, "What color?")
    list(sessions.ask(tab, "and now?", other, {}).changes())
    assert tab.lines[2].text == "From here on test / checkpoint-2 answers."
    assert sessions.model.checkpoint == other and tab.said() == "test / checkpoint-2 on cpu"
    answer(sessions, sessions.of("tab"), "and again?")
    assert sessions.model.checkpoint == checkpoint
    assert [turn.checkpoint for turn in tab.conversation.turns] == [str(checkpoint), str(other), str(checkpoint)]


def test_a_damaged_checkpoint_is_a_sentence_and_the_next_question_is_answered(sessions, tab, checkpoint, monkeypatch):
    other = checkpoint.with_name("checkpoint-2")
    shutil.copytree(checkpoint, other)
    (other / "projector.safetensors").write_bytes(b"")
    monkeypatch.setattr("window.web.model.CHECKPOINTS", checkpoint.parent.parent)
    list(sessions.ask(tab, "What?", other, {}).changes())
    assert tab.status.refused and "use an earlier checkpoint" in tab.said()
    assert answer(sessions, tab, "What?")


def test_a_baselines_checkpoint_answers_and_the_page_says_which_it_is(colors, tmp_path):
    config = colors()
    assert train(["--config", str(tmp_path / "run.yaml"), "--model", "attention", *SMALL]) == 0
    model = Model(config.train.output / "test-attention", "cpu")
    model.start()
    sessions = Sessions(model)
    tab = sessions.of("tab")
    assert tab.said(sessions.who(tab)) == f"test-attention / {model.first.name}, the baseline attention, on cpu"
    sessions.show(tab, [str(tmp_path / "0.png")])
    assert answer(sessions, tab, "What color is it?") == "red"
    assert tab.said() == f"test-attention / {model.first.name}, the baseline attention, on cpu"
    tab.looks = True
    list(sessions.look(tab).changes())
    assert tab.maps[0][0].weights.shape == (1, 3, 3)
    assert sessions.turns.close(timeout=60)


def test_examples_are_of_the_chosen_checkpoints_own_kind(sessions, tested, red, monkeypatch):
    tab = sessions.of("tab")
    assert [one.picture for one in sessions.examples(tab).pictures] == tested and sessions.example_questions(tab) == []
    assert sessions.show_example(tab, 1) and tab.conversation.paths == ["3.png"]
    assert sessions.example_questions(tab) == ["Is it 3?"]
    assert not sessions.show_example(tab, 2)  # there are two
    sessions.show(tab, [str(red)])
    assert sessions.example_questions(tab)[0] == "Describe the picture."  # no question was asked twice
    answer(sessions, tab, "What color?")
    assert sessions.example_questions(tab) == []


def test_a_chosen_checkpoint_is_loaded_when_it_has_a_question(sessions, tab, checkpoint, monkeypatch):
    other = checkpoint.with_name("checkpoint-2")
    shutil.copytree(checkpoint, other)
    sessions.choose(tab, other)
    assert tab.status.refused and tab.said().startswith("This checkpoint is no longer there")
    monkeypatch.setattr("window.web.model.CHECKPOINTS", checkpoint.parent.parent)
    sessions.choose(tab, other)
    assert tab.said() == "test / checkpoint-2, which is loaded when it has a question"
    assert sessions.model.checkpoint == checkpoint


def test_where_it_looks_is_computed_by_the_checkpoint_of_the_answer(sessions, tab, checkpoint, monkeypatch):
    other = checkpoint.with_name("checkpoint-2")
    shutil.copytree(checkpoint, other)
    monkeypatch.setattr("window.web.model.CHECKPOINTS", checkpoint.parent.parent)
    answer(sessions, tab, "What color?")
    list(sessions.ask(tab, "and now?", other, {}).changes())
    tab.looks, tab.selected = True, 0
    list(sessions.look(tab).changes())
    assert sessions.model.checkpoint == checkpoint and list(tab.maps) == [0]


def test_where_it_looks_has_a_map_for_each_picture_of_the_chosen_answer(sessions, red, blue):
    tab = sessions.of("tab")
    sessions.show(tab, [str(red), str(blue)])
    answer(sessions, tab, "What color?")
    answer(sessions, tab, "and where?")
    assert sessions.look(tab) is None  # maps are not wanted
    tab.looks = True
    list(sessions.look(tab).changes())
    assert list(tab.maps) == [1] and len(tab.maps[1]) == 2 and tab.maps[1][0].weights.shape[1:] == (3, 3)
    assert sessions.look(tab) is None  # they are there
    tab.selected = 0
    list(sessions.look(tab).changes())
    assert set(tab.maps) == {0, 1} and tab.shown_turn() == 0 and tab.said().endswith("on cpu")


def test_a_map_that_cannot_be_had_is_a_sentence(sessions, tab, monkeypatch):
    answer(sessions, tab, "What color?")
    tab.looks = True
    monkeypatch.setattr(Assistant, "where_it_looks", lambda *arguments, **options: Image.open("gone"))
    list(sessions.look(tab).changes())
    assert tab.status.refused and tab.said().startswith("Cannot show where it looked: FileNotFoundError")

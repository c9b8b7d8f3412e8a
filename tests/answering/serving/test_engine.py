"""The engine's answers are the assistant's, however questions come; a picture is computed once; a stop frees it."""

from __future__ import annotations

import threading

import pytest

from answering.prefix_cache import bytes_of, join_rows
from answering.serving import engine as engine_module
from answering.serving.engine import Engine, Failed, Finished, certain
from dataset.prompt import Request, Turn, question_with_images
from tests.helpers.asking import count_pictures, reference_answers, requests
from tests.helpers.serving import MIB, answer_to, question_for
from tests.helpers.tiny import never_ends, picture


@pytest.fixture
def batches(monkeypatch):
    """The sizes of the batches that were generated."""
    sizes, generate = [], engine_module.generate_on_rows
    keep = lambda model, prompts, *rest, **options: [  # noqa: E731
        sizes.append(len(prompts)),
        generate(model, prompts, *rest, **options),
    ][1]
    monkeypatch.setattr(engine_module, "generate_on_rows", keep)
    return sizes


@pytest.fixture
def engine(whole):
    engine = Engine(whole, 64 * MIB)
    yield engine
    assert engine.close(30)


class Held:
    """Keeps the engine busy until the end of the block, so that what is asked in it waits together."""

    def __init__(self, engine, whole):
        self.engine, self.go, began = engine, threading.Event(), threading.Event()
        wait = lambda event: [began.set(), self.go.wait(60)]  # noqa: E731
        blocker = question_for(whole, Request([Turn("wait")]), max_new_tokens=1)
        blocker.deliver = wait
        engine.ask(blocker)
        assert began.wait(60)

    def __enter__(self):
        return self.engine

    def __exit__(self, *error):
        self.go.set()


def about(color: str, text: str) -> Request:
    return Request([Turn(question_with_images(text, 1))], [picture(color)])


def test_questions_that_wait_are_answered_together_and_as_alone(whole, engine, batches):
    asked = [about("red", text) for text in ("What color?", "which shape is it, and where?", "图中有几个图形？")]
    asked += [about("blue", "What color?"), *requests()]
    questions = [question_for(whole, request, max_new_tokens=12) for request in asked]
    with Held(engine, whole):
        for question in questions:
            engine.ask(question)
    found = [answer_to(question) for question in questions]
    assert [text for text, _ in found] == reference_answers(whole, asked, max_new_tokens=12)
    assert len({text for text, _ in found}) > 3 and all(isinstance(end, Finished) for _, end in found)
    # Alone: what held the engine; a text; two pictures. With one picture, 4 (batch_size), then 2.
    assert batches == [1, 4, 2, 1, 1]


def test_the_pieces_of_a_stream_join_to_the_whole_answer(whole, engine):
    most = 0
    for request in requests():
        pieces: list[str] = []
        question = question_for(whole, request, streams=True, max_new_tokens=20)
        engine.ask(question)
        text, end = answer_to(question, pieces)
        most = max(most, len(pieces))
        assert [text] == whole.answer([request], max_new_tokens=20) and all(pieces)
        assert end.prompt_tokens == len(question.prompt) and end.cached_tokens == 0
        assert (end.completion_tokens == 20) == (end.reason == "length")
    assert most > 3


def test_a_stop_string_ends_its_own_row(whole, engine):
    request = about("red", "What color?")
    (uncut,) = whole.answer([request], max_new_tokens=20)
    stop = uncut[len(uncut) // 2 :][:3]
    questions = [
        question_for(whole, request, streams=streams, max_new_tokens=20, stop_strings=stops)
        for streams, stops in ((False, [stop]), (True, [stop]), (False, []))
    ]
    with Held(engine, whole):
        for question in questions:
            engine.ask(question)
    (cut, end), streamed, (rest, _) = [answer_to(question) for question in questions]
    assert [cut] == whole.answer([request], max_new_tokens=20, stop_strings=[stop]) and len(cut) < len(uncut)
    assert end.reason == "stop" and end.completion_tokens < 20 and streamed == (cut, end) and rest == uncut


def test_a_seed_gives_the_same_answer_in_any_company(whole, engine, batches):
    request, hot = about("red", "What color?"), {"do_sample": True, "temperature": 5.0}
    wanted = whole.answer([request], **hot, seed=7)
    questions = [question_for(whole, request, **hot, seed=seed) for seed in (7, 8, 7)]
    questions += [question_for(whole, request, **hot) for _ in range(2)]
    with Held(engine, whole):
        for question in questions:
            engine.ask(question)
    texts = [answer_to(question)[0] for question in questions]
    assert [texts[0]] == wanted and texts[0] == texts[2] != texts[1] and len(set(texts)) == 4
    assert batches == [1, 1, 1, 1, 2]  # seeded ones alone


def test_a_picture_is_computed_once_while_it_is_kept(whole, engine):
    seen, cached = count_pictures(whole), []
    for color, text in (("red", "What color?"), ("red", "where?"), ("blue", "What color?"), ("red", "What color?")):
        question = question_for(whole, about(color, text))
        engine.ask(question)
        cached.append(answer_to(question)[1].cached_tokens)
    assert seen == [1, 1] and cached == [0, question.end, 0, question.end]


def test_of_two_pictures_with_room_for_one_the_last_is_kept(whole):
    probe = Engine(whole, 64 * MIB)
    question = question_for(whole, about("red", "What color?"))
    probe.ask(question)
    answer_to(question)
    (one,) = probe.prefixes.kept.values()
    assert probe.prefixes.bytes == bytes_of(one) > 0 and probe.close(30)
    engine = Engine(whole, bytes_of(one) * 3 // 2)
    for color in ("red", "blue"):
        question = question_for(whole, about(color, "What color?"))
        engine.ask(question)
        assert [answer_to(question)[0]] == whole.answer([about(color, "What color?")])
    assert list(engine.prefixes.kept) == [question.key()] and engine.prefixes.bytes == bytes_of(one)
    assert engine.close(30)


def test_a_stopped_question_ends_within_a_token_and_the_next_is_answered(assistant):
    never_ends(assistant)
    engine = Engine(assistant, 64 * MIB)
    question = question_for(assistant, about("red", "What color?"), streams=True, max_new_tokens=150)
    steps: list[int] = []
    reached, go = threading.Event(), threading.Event()

    def step(module, args, output):
        steps.append(1)
        if len(steps) == 4:
            reached.set()
            assert go.wait(60)

    hook = assistant.model.language.register_forward_hook(step)
    engine.ask(question)
    assert reached.wait(60)
    question.stop.set()
    go.set()
    following = question_for(assistant, about("blue", "What color?"), max_new_tokens=3)
    engine.ask(following)
    assert answer_to(following)[1].completion_tokens == 3
    hook.remove()
    assert len(steps) < 12 and engine.close(30)
    assert not any(isinstance(event, Finished) for event in question.events.queue)


def test_a_question_that_cannot_be_asked_says_why_and_the_next_is_answered(whole, engine, monkeypatch):
    long = question_for(whole, Request([Turn("a red circle " * 200)]))
    engine.ask(long)
    assert answer_to(long) == ("", Failed("user", answer_of := long_message(whole)))
    assert "too long" in answer_of
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "generate_on_rows", lambda *a, **k: [][0])
        broken = question_for(whole, about("red", "What color?"))
        engine.ask(broken)
        assert answer_to(broken) == ("", Failed("unexpected", "IndexError: list index out of range"))
    fine = question_for(whole, about("red", "What color?"))
    engine.ask(fine)
    assert [answer_to(fine)[0]] == whole.answer([about("red", "What color?")])


def long_message(whole) -> str:
    try:
        whole.answer([Request([Turn("a red circle " * 200)])])
    except Exception as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("text", "stops", "wanted"),
    [
        ("a red ", [], "a red"),
        ("半\ufffd", [], "半"),
        ("a\ufffdb", [], "a\ufffdb"),
        ("it is <re", [], "it is"),
        ("1 < 2, and 2 < 3 or so it says", [], "1 < 2, and 2 < 3 or so it says"),
        ("one\nUs", ["\nUser:"], "one"),
        ("one END", ["\n", "END of it"], "one"),
        (" \n two", [], "two"),
    ],
)
def test_what_may_still_change_is_held_back(text, stops, wanted):
    assert certain(text, stops) == wanted


def test_rows_joined_are_copies(whole):
    engine = Engine(whole, 64 * MIB)
    question = question_for(whole, about("red", "What color?"))
    engine.ask(question)
    answer_to(question)
    (cache,) = engine.prefixes.kept.values()
    joined = join_rows([cache, cache])
    assert joined.layers[0].keys.shape[0] == 2 and cache.layers[0].keys.shape[0] == 1
    assert cache.get_seq_length() == question.end and engine.close(30)

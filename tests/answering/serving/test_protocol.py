"""A request's body becomes turns and settings; what cannot be done is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from answering.serving.engine import Finished
from answering.serving.protocol import (
    MESSAGES,
    PICTURES,
    ApiError,
    Reply,
    generate_of,
    read_request,
    turns_of,
    urls_of,
)
from dataset.prompt import IMAGE_TOKEN, Turn
from settings import Generate
from tests.helpers.serving import message


def body(messages: list[dict[str, Any]] | None = None, **fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": messages or [message("What?", "a")], **fields}).encode()


def turns(*messages: dict[str, Any]) -> tuple[list[Turn], str | None]:
    return turns_of(read_request(body(list(messages))).messages, 256)


def says(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def test_pictures_come_first_and_control_tokens_are_words():
    talk = [message("What <|im_end|>?", "a", "b"), says("assistant", "red"), says("user", "and <image>?")]
    first = Turn(f"{IMAGE_TOKEN * 2}\nWhat <| im_end |>?", "red")
    assert turns(says("system", "Be brief."), *talk) == ([first, Turn("and < image >?")], "Be brief.")
    assert turns(*talk)[1] is None and turns(says("developer", ""), *talk)[1] == ""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert turns({"role": "user", "content": parts}) == ([Turn("ab")], None)


def test_settings_are_the_runs_with_what_the_request_says():
    run = Generate(max_new_tokens=30, do_sample=True, temperature=0.5, top_p=0.9, seed=3)
    assert generate_of(read_request(body()), run) == run
    said = generate_of(
        read_request(body(temperature=0, max_tokens=9, max_completion_tokens=5, seed=-1, stop=["\n", "x"])), run
    )
    wanted = {"do_sample": False, "max_new_tokens": 5, "seed": 2**32 - 1, "stop_strings": ["\n", "x"]}
    assert said == run.model_copy(update=wanted)
    hot = generate_of(read_request(body(temperature=1.5, top_p=0.4, stop="end")), Generate())
    assert hot == Generate(do_sample=True, temperature=1.5, top_p=0.4, stop_strings=["end"])
    assert not generate_of(read_request(body(temperature=1e-300)), run).do_sample


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Invalid JSON: EOF"),
        (b"[1]", "Input should be an object"),
        (b"\xff", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\\ud800"}]}', "Invalid JSON"),
        (body(temperature="1"), "temperature: Input should be a valid number"),
        (body(temperature=float("nan")), "temperature: "),
        (body(max_tokens=0), "max_tokens: Input should be greater than or equal to 1"),
        (body(max_tokens=True), "max_tokens: "),
        (body(stop=""), "stop: String should have at least 1 character"),
        (body(n=2), "n: not offered here; leave it out"),
        (body(tools=[{"type": "function"}]), "tools: not offered here"),
        (body(response_format={"type": "json_object"}), "response_format: not offered"),
        (body([says("tool", "x")]), "messages.0.role: Input should be 'system', 'developer', 'user' or 'assistant'"),
        (body([{"role": "user", "content": [{"type": "input_audio"}]}]), "messages.0.content."),
        (body([says("user", "x")] * (MESSAGES + 1)), "messages: List should have at most 256 items"),
        (json.dumps({"model": "m", "messages": []}).encode(), "messages: List should have at least 1 item"),
    ],
)
def test_what_is_no_request_is_refused_by_name(content, message):
    with pytest.raises(ApiError) as refused:
        read_request(content)
    text = str(refused.value)
    assert refused.value.status == 400 and message in text and "\n" not in text and len(text) < 320


def test_what_has_no_effect_is_ignored():
    neutral = {"n": 1, "logprobs": False, "frequency_penalty": 0.0, "response_format": {"type": "text"}, "tools": []}
    assert read_request(body(user="me", metadata={}, **neutral)).stream is None


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([says("assistant", "a")], "expected at most one system message, then user and assistant in turn"),
        ([says("user", "a"), says("assistant", "b")], "and the user's last"),
        ([says("user", "a"), says("user", "b"), says("user", "c")], "in turn"),
        ([says("system", "a")], "the user's last"),
        ([says("user", "a"), says("assistant", "b"), says("system", "c")], "at most one system message"),
        ([{**message("a", "b"), "role": "system"}, says("user", "c")], "only a user's can have pictures"),
        ([says("user", "a" * 9000)], "more text than language.max_length (256) tokens"),
    ],
)
def test_conversations_that_cannot_be_asked(messages, text):
    with pytest.raises(ApiError, match=r"^[^\n]+$") as refused:
        turns(*messages)
    assert refused.value.status == 400 and text in str(refused.value)


def test_more_pictures_than_there_is_room_for_are_not_read():
    one = read_request(body([message("?", *["a"] * 3), says("assistant", "!"), message("?", "b")])).messages
    assert urls_of(one, 256, 60) == ["a", "a", "a", "b"]
    with pytest.raises(ApiError, match="4 pictures, and this model has room for 3"):
        urls_of(one, 256, 80)
    many = read_request(body([message("?", *["a"] * (PICTURES + 1))])).messages
    with pytest.raises(ApiError, match="17 pictures, and this model has room for 16"):
        urls_of(many, 256, 1)


def test_the_objects_of_a_reply():
    reply, end = Reply("m"), Finished("length", 90, 7, 80)
    whole = reply.whole("red", end)
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "red", "refusal": None}
    assert whole["choices"][0]["finish_reason"] == "length" and whole["object"] == "chat.completion"
    counts = {"prompt_tokens": 90, "completion_tokens": 7, "total_tokens": 97}
    assert whole["usage"] == {**counts, "prompt_tokens_details": {"cached_tokens": 80}}
    chunk = reply.chunk({"content": "r"})
    assert chunk["id"] == whole["id"] and chunk["choices"][0]["finish_reason"] is None
    assert reply.usage(end)["choices"] == [] and reply.usage(end)["usage"] == whole["usage"]

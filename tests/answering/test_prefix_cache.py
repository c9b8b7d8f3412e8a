"""The prefix cache: the same answers as without it, and nothing that prompts share is computed twice."""

from __future__ import annotations

import pytest
import torch
from transformers import StaticCache

from answering import graphs
from answering.graphs import Graphs
from answering.prefix_cache import prefill
from dataset.prompt import IMAGE_TOKEN, Request, Turn, question_with_images
from model.adapters import base_of
from tests.helpers.asking import count_pictures, reference_answers, requests
from tests.helpers.tiny import never_ends, picture


def test_answers_on_a_shared_prefix_equal_those_without_it(assistant):
    red, blue = picture("red"), picture("blue")
    questions = ["What color?", "and how many of them are there?", "哪里?"]
    asked = [Request([Turn(question_with_images(q, 1))], [image]) for q in questions for image in (red, blue)]
    asked += requests()
    wanted = reference_answers(assistant, asked, max_new_tokens=12)
    seen = count_pictures(assistant)
    assert assistant.answer(asked, max_new_tokens=12) == wanted and len(set(wanted)) > 3
    assert sum(seen) == 2 + 4  # one per picture shown, not one per question


def test_one_row_of_logits_is_computed_for_each_new_token(assistant):
    never_ends(assistant)
    rows: list[int] = []
    base_of(assistant.model.language).lm_head.register_forward_hook(lambda m, a, output: rows.append(output.shape[1]))
    assistant.answer(requests(), max_new_tokens=3)
    list(assistant.stream(requests()[0], max_new_tokens=3))
    assert rows == [1, 1, 1] * 2  # the picture goes through together with its question


def test_the_same_question_once_more_leaves_one_token_to_compute(assistant):
    request = Request([Turn(question_with_images("What is it?", 1))], [picture("red")])
    prompt, lengths = assistant._prompt(request), []
    first = "".join(assistant.stream(request))
    trunk = base_of(assistant.model.language).model
    trunk.layers[0].register_forward_hook(lambda m, args, output: lengths.append(args[0].shape[1]))
    assert "".join(assistant.stream(request)) == first and set(lengths) == {1}
    ids, cache = assistant._prefixes[-1][1].ids, assistant._prefixes[-1][1].cache
    assert ids[: len(prompt)] == prompt and len(ids) == cache.get_seq_length() == len(prompt) + len(lengths) - 1


def test_the_picture_changes_what_is_computed(assistant):
    prompt = torch.tensor([assistant._prompt(Request([Turn(IMAGE_TOKEN)], [picture("red")]))])
    caches = [
        prefill(assistant.model, prompt, torch.ones_like(prompt), [assistant._pixels([picture(color)])])
        for color in ("red", "blue")
    ]
    keys = [cache.layers[-1].keys[:, :, -1] for cache in caches]  # of the token after the picture
    assert (keys[0] - keys[1]).abs().max() > 0.01


@pytest.fixture
def asking(assistant, request, monkeypatch):
    """The assistant, with the usual cache or with the static one of CUDA graphs."""
    if request.param == "static":
        monkeypatch.setattr(graphs, "BLOCK", 4)  # the tokens that fill a question up are computed too
        assistant.graphs = Graphs(assistant.model)
    return assistant


BOTH_CACHES = pytest.mark.parametrize("asking", ["dynamic", "static"], indirect=True)


@BOTH_CACHES
@pytest.mark.parametrize("stopped", [False, True])
def test_a_follow_up_question_computes_neither_the_picture_nor_the_history_again(asking, stopped):
    assistant = asking
    image = picture("red")
    first = Request([Turn(question_with_images("What is it?", 1))], [image])
    pieces = []
    for piece in assistant.stream(first, max_new_tokens=6):
        pieces.append(piece)
        if stopped:
            break
    history = Turn(first.turns[0].question, "".join(pieces).strip())
    follow_up = Request([history, Turn("and where?")], [image])
    (wanted,) = reference_answers(assistant, [follow_up], max_new_tokens=8)
    seen, computed = count_pictures(assistant), []
    trunk = base_of(assistant.model.language).model
    trunk.layers[0].register_forward_hook(lambda m, args, output: computed.append(args[0].shape[1]))
    assert "".join(assistant.stream(follow_up, max_new_tokens=8)).strip() == wanted
    assert seen == [] and sum(computed) < len(assistant._prompt(follow_up)) - 8


@BOTH_CACHES
def test_another_picture_or_an_edited_history_is_computed_again(asking):
    assistant = asking
    red, blue = picture("red"), picture("blue")
    list(assistant.stream(Request([Turn(question_with_images("What is it?", 1))], [red])))
    for turns, image in (
        ([Turn(question_with_images("What is it?", 1))], blue),
        ([Turn(question_with_images("What was that?", 1), "a star"), Turn("sure?")], blue),
        ([Turn("before the picture", "yes"), Turn(question_with_images("and now?", 1))], blue),
    ):
        request = Request(turns, [image])
        assert "".join(assistant.stream(request)).strip() == reference_answers(assistant, [request])[0]


@pytest.mark.parametrize("asking", ["static"], indirect=True)
def test_a_static_cache_keeps_its_memory_and_grows_only_when_it_must(asking, monkeypatch):
    monkeypatch.setattr(graphs, "STEP", 64)
    red, addresses = picture("red"), []
    turns = [Turn(question_with_images("What is it?", 1))]
    for image, new in ((red, 4), (picture("blue"), 4), (red, 200)):
        request = Request(turns, [image])
        streamed = "".join(asking.stream(request, max_new_tokens=new)).strip()
        assert streamed == reference_answers(asking, [request], max_new_tokens=new)[0]
        cache = asking._prefixes[-1][1].cache
        assert isinstance(cache, StaticCache) and cache.layers[0].max_cache_len % 64 == 0
        addresses.append(cache.layers[0].keys.data_ptr())
    assert addresses[0] == addresses[1] != addresses[2]


def test_conversations_that_take_turns_keep_their_prefixes_up_to_the_number_asked_for(assistant):
    assistant.most_prefixes = 2
    requests = [Request([Turn(question_with_images("What is it?", 1))], [picture(c)]) for c in ("red", "blue", "green")]
    seen = count_pictures(assistant)
    for index in (0, 1, 0, 1):
        list(assistant.stream(requests[index]))
    assert len(seen) == 2 and len(assistant._prefixes) == 2  # each picture was encoded once
    list(assistant.stream(requests[2]))
    list(assistant.stream(requests[1]))
    assert len(seen) == 3 and len(assistant._prefixes) == 2
    wanted = reference_answers(assistant, [requests[0]])
    seen.clear()
    assert "".join(assistant.stream(requests[0])).strip() == wanted[0] and len(seen) == 1  # it was the oldest

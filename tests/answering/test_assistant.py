"""The assistant: batches answer as single calls do, streams as whole answers, and stops within a token."""

from __future__ import annotations

import threading

import pytest
import torch

from common.errors import UserError
from dataset.prompt import IMAGE_TOKEN, Request, Turn, question_with_images
from model.adapters import base_of
from tests.helpers.asking import requests
from tests.helpers.tiny import never_ends, picture


def test_a_batch_gives_the_answers_of_single_calls(assistant):
    together = assistant.answer(requests())
    assert together == [assistant.answer([request])[0] for request in requests()]
    assert len(set(together)) == 4  # not one answer to everything


def test_only_cuda_has_graphs(assistant):
    assert assistant.config.generate.cuda_graphs and assistant.graphs is None


def test_streamed_pieces_are_the_whole_answer(assistant):
    for request in requests():
        assert "".join(assistant.stream(request)).strip() == assistant.answer([request])[0]


def test_stop_ends_the_answer_within_a_token(assistant):
    stop, before = threading.Event(), set(threading.enumerate())
    never_ends(assistant)
    steps = []
    base_of(assistant.model.language).lm_head.register_forward_hook(lambda *_: steps.append(1))
    pieces = assistant.stream(requests()[0], stop, max_new_tokens=3000)
    next(pieces)
    stop.set()
    at_stop = len(steps)
    list(pieces)
    assert len(steps) <= at_stop + 1
    assert set(threading.enumerate()) <= before


def test_an_error_in_the_model_reaches_the_reader(assistant):
    def broken(*args, **kwargs):
        raise RuntimeError("out of something")

    assistant.model.generate = broken
    with pytest.raises(RuntimeError, match="out of something"):
        list(assistant.stream(requests()[0]))


def test_typed_control_tokens_are_defused(assistant):
    question = question_with_images("<|im_end|> <image> <|extra_0|>", 1)
    assert question == IMAGE_TOKEN + "\n<| im_end |> < image > <| extra_0 |>"
    assistant.answer([Request([Turn(question)], [picture("red")])], max_new_tokens=1)


def test_images_and_placeholders_must_agree(assistant):
    with pytest.raises(UserError, match="shows 1 images, but 2 were given"):
        assistant.answer([Request([Turn(question_with_images("a", 1))], [picture("red"), picture("blue")])])


def test_a_long_conversation_forgets_its_oldest_turns_and_keeps_the_picture(assistant):
    turns = [Turn(question_with_images("first", 1), "yes " * 20)]
    turns += [Turn(f"question {i}", "yes " * 20) for i in range(30)] + [Turn("last")]
    prompt = assistant._prompt(Request(turns, [picture("red")]))
    text = assistant.tokenizer.decode(prompt)
    assert len(prompt) <= 256 - 8
    assert text.count(IMAGE_TOKEN) == 8 and "first" not in text and "last" in text


def test_the_placeholder_is_never_generated(assistant):
    head = base_of(assistant.model.language).lm_head.weight
    with torch.no_grad():
        head[base_of(assistant.model.language).image_token_id] = head.abs().max() * 100 * torch.ones(32)
    seen = []
    decode = assistant.tokenizer.decode
    assistant.tokenizer.decode = lambda ids, **options: [seen.append(ids), decode(ids, **options)][1]
    assistant.answer(requests()[:1], max_new_tokens=5)
    assert len(seen[0]) == 5 and assistant.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) not in seen[0]


def test_sampling_follows_the_temperature_and_is_not_the_default(assistant):
    request = requests()[0]
    (greedy,) = assistant.answer([request])
    torch.manual_seed(0)
    cold = {assistant.answer([request], do_sample=True, temperature=1e-4)[0] for _ in range(5)}
    hot = {assistant.answer([request], do_sample=True, temperature=5.0)[0] for _ in range(5)}
    assert cold == {greedy} and len(hot) == 5
    assert assistant.answer([request], do_sample=False, temperature=5.0) == [greedy]


def test_the_system_prompt_can_be_another_for_one_call(assistant):
    request = requests()[0]
    texts = [assistant.tokenizer.decode(assistant._prompt(request, {"system": s})) for s in ("Be brief.", "")]
    assert texts[0].startswith("<|im_start|>system\nBe brief.<|im_end|>") and texts[1].startswith("<|im_start|>user")
    own = Request(request.turns, request.images, "In Chinese.")  # what the conversation says goes first
    text = assistant.tokenizer.decode(assistant._prompt(own, {"system": "Be brief."}))
    assert text.startswith("<|im_start|>system\nIn Chinese.<|im_end|>") and "Be brief." not in text
    usual = assistant.answer([request], max_new_tokens=12)
    assert assistant.answer([request], max_new_tokens=12, system="a red star and a blue star " * 3) != usual

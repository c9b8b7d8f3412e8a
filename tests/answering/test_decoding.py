"""Every way to decode gives transformers' own answer to the whole prompt: on a prefix cache, in a batch, in pieces."""

from __future__ import annotations

import pytest
import torch

from answering.decoding import cut_at_stop, generate_arguments, pieces_to_stop
from answering.graphs import Graphs
from answering.prefix_cache import generate_on_prefixes
from common.errors import UserError
from dataset.prompt import Request, Turn, question_with_images
from settings import Generate
from tests.helpers.asking import count_pictures, reference_answers, requests
from tests.helpers.tiny import never_ends, picture

WAYS = {
    "beams": {"num_beams": 3},
    "penalty": {"repetition_penalty": 3.0},
    "no repetition": {"no_repeat_ngram_size": 2},
    "at least": {"min_new_tokens": 9},
    "all": {"num_beams": 2, "repetition_penalty": 1.5, "no_repeat_ngram_size": 3, "min_new_tokens": 4},
}
each_way = pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)


@pytest.fixture
def ending(assistant):
    """The assistant with another token that ends answers: the third of its answer to the first request."""
    prompt, pixels = torch.tensor([assistant._prompt(requests()[0])]), assistant._pixels(requests()[0].images)
    ids = assistant.model.generate(prompt, None, pixels, torch.tensor([1]), max_new_tokens=3)
    decoding = assistant.model.language.generation_config
    decoding.eos_token_id = [*decoding.eos_token_id, int(ids[0, 2])]
    return assistant


@each_way
def test_a_batch_with_padding_gives_the_answers_of_whole_prompts_alone(ending, options):
    assistant = ending
    wanted = reference_answers(assistant, requests(), max_new_tokens=12, **options)
    assert assistant.answer(requests(), max_new_tokens=12, **options) == wanted
    assert wanted != reference_answers(assistant, requests(), max_new_tokens=12)  # the option matters


@pytest.mark.parametrize("beams", [1, 2])
def test_padding_is_no_repetition(assistant, beams):
    """The padding is the token that the first row answers with: as a repetition, it would give another answer."""
    asked = requests()[:2]
    prompts = [assistant._prompt(request) for request in asked]
    pixels = [assistant._pixels(request.images) for request in asked]
    assert len(prompts[0]) < len(prompts[1])
    options = {"max_new_tokens": 5, "repetition_penalty": 3.0, "no_repeat_ngram_size": 1, "num_beams": beams}

    def alone(**options) -> list[int]:
        images = {"pixel_values": pixels[0], "images_per_row": torch.tensor([1])}
        return assistant.model.generate(torch.tensor(prompts[:1]), **images, **options)[0].tolist()

    wanted = alone(**options)
    ends = [assistant.end_of_images(prompt) for prompt in prompts]
    together = generate_on_prefixes(assistant.model, prompts, ends, [0, 1], pixels, pad_token_id=wanted[0], **options)
    assert together[0].tolist() == wanted and wanted[0] not in prompts[0]


@each_way
@pytest.mark.parametrize("graphs", [False, True])
def test_streams_and_their_follow_ups_give_the_same_answers(assistant, options, graphs):
    assistant.graphs = Graphs(assistant.model) if graphs else None
    image = picture("red")
    first = Request([Turn(question_with_images("What is it?", 1))], [image])
    (one,) = reference_answers(assistant, [first], max_new_tokens=12, **options)
    assert "".join(assistant.stream(first, max_new_tokens=12, **options)).strip() == one
    follow_up = Request([Turn(first.turns[0].question, one), Turn("and where?")], [image])
    (two,) = reference_answers(assistant, [follow_up], max_new_tokens=12, **options)
    seen = count_pictures(assistant)
    assert "".join(assistant.stream(follow_up, max_new_tokens=12, **options)).strip() == two
    assert seen == []  # the picture was not encoded again, after beams either


def test_beams_come_in_one_piece_and_can_be_stopped(assistant):
    never_ends(assistant)
    pieces = list(assistant.stream(requests()[0], max_new_tokens=12, num_beams=2))
    assert len(pieces) == 1 and pieces[0].strip() == assistant.answer(requests()[:1], max_new_tokens=12, num_beams=2)[0]


def test_the_best_beam_is_at_least_as_likely_as_the_greedy_answer(assistant):
    never_ends(assistant)
    request = requests()[0]
    prompt, pixels = torch.tensor([assistant._prompt(request)]), assistant._pixels(request.images)

    def likelihood(**options) -> float:
        (answer,) = assistant.model.generate(
            input_ids=prompt, pixel_values=pixels, images_per_row=torch.tensor([1]), max_new_tokens=6, **options
        )
        ids = torch.cat([prompt[0], answer])[None]
        with torch.no_grad():
            logits = assistant.model(input_ids=ids, pixel_values=pixels, images_per_row=torch.tensor([1])).logits
        chances = logits[0, prompt.shape[1] - 1 : -1].log_softmax(-1)  # [6, V]
        return float(chances.gather(1, answer[:, None]).sum())

    assert likelihood(num_beams=4) >= likelihood()


def test_an_answer_ends_before_the_first_stop_string(assistant):
    never_ends(assistant)
    whole = assistant.answer(requests(), max_new_tokens=20)
    stops = [whole[0][5:8], whole[1][9:10]]
    wanted = [cut_at_stop(text, stops).strip() for text in whole]
    assert wanted[0] != whole[0] and wanted[1] != whole[1]
    assert assistant.answer(requests(), max_new_tokens=20, stop_strings=stops) == wanted
    for request, text in zip(requests(), wanted, strict=True):
        assert "".join(assistant.stream(request, max_new_tokens=20, stop_strings=stops)).strip() == text
    steps = []
    assistant.model.language.lm_head.register_forward_hook(lambda *_: steps.append(1))
    assistant.answer(requests()[:1], max_new_tokens=2000, stop_strings=stops)
    assert len(steps) < 20  # nothing is computed after it


def test_stop_strings_are_those_of_transformers(assistant):
    never_ends(assistant)
    request = requests()[0]
    (whole,) = assistant.answer([request], max_new_tokens=20)
    stop = whole[4:7]
    ids = assistant.model.generate(
        input_ids=torch.tensor([assistant._prompt(request)]),
        pixel_values=assistant._pixels(request.images),
        images_per_row=torch.tensor([1]),
        max_new_tokens=20,
        stop_strings=[stop],
        tokenizer=assistant.tokenizer,
    )
    text = assistant.tokenizer.decode(ids[0], skip_special_tokens=True)  # with the stop string, and what follows in
    assert stop in text and len(text) < len(whole)  # the same token
    assert assistant.answer([request], max_new_tokens=20, stop_strings=[stop]) == [cut_at_stop(text, [stop]).strip()]


def test_pieces_end_at_a_stop_string_wherever_it_is_cut():
    stops = ["END", "\n\n"]
    for text in ("a red circle END more", "E EN END", "ENEND", "a\n b\n\nc", "no stop", "EN", "END", "a\n"):
        wanted = cut_at_stop(text, stops)
        for size in range(1, len(text) + 1):
            pieces = [text[i : i + size] for i in range(0, len(text), size)]
            assert "".join(pieces_to_stop(pieces, stops)) == wanted
    assert next(pieces_to_stop(iter(["a red "]), stops)) == "a red "  # not held back


def test_a_seed_gives_the_same_sample_again(assistant):
    never_ends(assistant)
    options = {"do_sample": True, "max_new_tokens": 12, "temperature": 3.0}
    one, other = (assistant.answer(requests(), seed=seed, **options) for seed in (1, 2))
    assert assistant.answer(requests(), seed=1, **options) == one != other
    assert assistant.answer(requests(), **options) != assistant.answer(requests(), **options)
    streamed = ["".join(assistant.stream(requests()[0], seed=7, **options)) for _ in range(2)]
    assert streamed[0] == streamed[1]
    assert assistant.answer(requests(), top_k=1, **options) == assistant.answer(requests(), max_new_tokens=12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_new_tokens": 9}, "generate.min_new_tokens = 9: expected at most generate.max_new_tokens (8)"),
        ({"num_beam": 2}, "generate.num_beam = 2: unknown key"),
        ({"repetition_penalty": 0}, "generate.repetition_penalty = 0: expected a number above 0"),
        ({"stop_strings": [""]}, "generate.stop_strings"),
    ],
)
def test_what_cannot_be_combined_is_refused_in_one_line(assistant, options, message):
    for call in (
        lambda: assistant.answer(requests(), **options),
        lambda: list(assistant.stream(requests()[0], **options)),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert str(caught.value).startswith(message)


def test_transformers_is_given_only_what_was_chosen():
    assert generate_arguments(Generate()) == {"max_new_tokens": 256, "do_sample": False}
    sampled = generate_arguments(Generate(do_sample=True, top_p=0.9, num_beams=2))
    assert sampled["top_k"] == 0 and sampled["top_p"] == 0.9 and sampled["num_beams"] == 2

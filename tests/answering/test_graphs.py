"""Answers from graphs are those of transformers' ``generate``. On a CPU nothing is recorded; all else is the same."""

from __future__ import annotations

import pytest
import torch

from answering import graphs, prefix_cache
from answering.decoding import cut_at_stop
from answering.graphs import Graph, Graphs, Recorder
from answering.prefix_cache import generate_on_rows, prefill, take_row
from dataset.prompt import Request, Turn, question_with_images
from tests.helpers.asking import count_pictures, reference_answers, requests
from tests.helpers.tiny import never_ends, picture


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(graphs, "STEP", 32)
    monkeypatch.setattr(graphs, "BLOCK", 8)


@pytest.fixture
def recorded(assistant):
    assistant.graphs = Graphs(assistant.model)
    return assistant


WAYS = {
    "greedy": {},
    "penalty": {"repetition_penalty": 3.0},
    "at least": {"min_new_tokens": 9},
    "no repetition": {"no_repeat_ngram_size": 2, "repetition_penalty": 1.5},
    "beams": {"num_beams": 2},
}
each_way = pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)


def about_two_pictures() -> list[Request]:
    red, blue = picture("red"), picture("blue")
    questions = ["What color?", "and how many of them are there?", "哪里?"]
    return [Request([Turn(question_with_images(q, 1))], [image]) for q in questions for image in (red, blue)]


@pytest.mark.parametrize("together", [True, False])
@each_way
def test_batches_with_padding_give_the_answers_of_whole_prompts_alone(recorded, options, together, monkeypatch):
    monkeypatch.setattr(prefix_cache, "MOST_ONE_BY_ONE", 1 if together else 9)
    for asked in (requests(), about_two_pictures(), requests()[:1]):
        wanted = reference_answers(recorded, asked, max_new_tokens=12, **options)
        assert recorded.answer(asked, max_new_tokens=12, **options) == wanted and (
            len(set(wanted)) > 1 or len(asked) == 1
        )


def test_rows_that_end_are_filled_and_the_others_continue(recorded):
    ids = [recorded.tokenizer(text)["input_ids"] for text in recorded.answer(requests(), max_new_tokens=6)]
    ends = recorded.model.language.generation_config
    ends.eos_token_id = [*ends.eos_token_id, ids[0][2]]
    wanted = reference_answers(recorded, requests(), max_new_tokens=12)
    assert recorded.answer(requests(), max_new_tokens=12) == wanted


def test_a_picture_is_encoded_once_for_its_questions(recorded):
    seen = count_pictures(recorded)
    recorded.answer(about_two_pictures(), max_new_tokens=2)
    assert sum(seen) == 2


@each_way
def test_conversations_take_turns_and_each_keeps_its_picture(recorded, options):
    recorded.most_prefixes = 2
    asked = [Request([Turn(question_with_images("What is it?", 1))], [picture(color)]) for color in ("red", "blue")]
    seen = count_pictures(recorded)
    for turn in range(2):
        for index, request in enumerate(asked):
            (wanted,) = reference_answers(recorded, [request], max_new_tokens=30, **options)
            seen.clear()
            assert "".join(recorded.stream(request, max_new_tokens=30, **options)).strip() == wanted
            assert len(seen) == (turn == 0)
            last = Turn(request.turns[-1].question, wanted)
            asked[index] = Request([*request.turns[:-1], last, Turn("and where?")], request.images)


def test_a_sample_is_that_of_transformers_with_the_same_seed(assistant):
    never_ends(assistant)
    options = {"do_sample": True, "temperature": 2.0, "top_p": 0.9, "top_k": 50, "max_new_tokens": 12, "seed": 3}
    wanted = assistant.answer(requests(), **options), "".join(assistant.stream(requests()[1], **options))
    plain = assistant.answer(requests(), max_new_tokens=12)
    assistant.graphs = Graphs(assistant.model)
    assert (assistant.answer(requests(), **options), "".join(assistant.stream(requests()[1], **options))) == wanted
    assert wanted[0] != plain


def test_an_answer_ends_at_a_stop_string_and_a_stream_when_it_is_told_to(recorded):
    never_ends(recorded)
    whole = recorded.answer(requests(), max_new_tokens=20)
    stops = [whole[0][5:8], whole[1][9:10]]
    wanted = [cut_at_stop(text, stops).strip() for text in whole]
    assert wanted != whole and recorded.answer(requests(), max_new_tokens=20, stop_strings=stops) == wanted
    for request, text in zip(requests(), wanted, strict=True):
        assert "".join(recorded.stream(request, max_new_tokens=20, stop_strings=stops)).strip() == text
    for pieces, _ in zip(recorded.stream(requests()[0], max_new_tokens=2000), range(2), strict=False):
        assert pieces
    ids = recorded._prefixes[-1][1].ids
    assert ids[: len(recorded._prompt(requests()[0]))] == recorded._prompt(requests()[0])


def test_nothing_of_an_earlier_answer_is_seen_even_if_it_is_nan(recorded, monkeypatch):
    asked, follow = about_two_pictures(), Turn("and where?")
    wanted = reference_answers(recorded, asked, max_new_tokens=12)
    for most in (9, 1):
        monkeypatch.setattr(prefix_cache, "MOST_ONE_BY_ONE", most)
        for some in (asked, asked[:2], asked[:1]):
            assert recorded.answer(some, max_new_tokens=12) == wanted[: len(some)]
            poison(recorded.graphs, 0)
    first = asked[0]
    assert "".join(recorded.stream(first, max_new_tokens=12)).strip() == wanted[0]
    poison(recorded.graphs, len(recorded._prefixes[-1][1].ids))
    again = Request([Turn(first.turns[0].question, wanted[0]), follow], first.images)
    (wanted_after,) = reference_answers(recorded, [again], max_new_tokens=12)
    assert "".join(recorded.stream(again, max_new_tokens=12)).strip() == wanted_after


def poison(graphs: Graphs, begin: int) -> None:
    """NaN in all that a call may find in the batches: slots from ``begin`` on, logits and filled inputs."""
    for batch in graphs.batches.values():
        batch.storage[..., begin:, :] = torch.nan
        batch.logits.fill_(torch.nan)
        for key, (_, inputs) in batch.graphs.items():
            if key[0] == "read":
                inputs[0].fill_(torch.nan)


def test_rows_that_were_kept_are_continued(recorded):
    model, asked = recorded.model, about_two_pictures()[::2]
    prompts = [recorded._prompt(request) for request in asked]
    end = recorded.end_of_images(prompts[0])
    first = torch.tensor([prompts[0][:end]])
    kept = take_row(prefill(model, first, torch.ones_like(first), [recorded._pixels(asked[0].images)]), 0)
    rows = [
        generate_on_rows(model, prompts, end, [kept] * 3, 0, which, max_new_tokens=9)
        for which in (None, recorded.graphs)
    ]
    assert rows[0].tolist() == rows[1].tolist()


def test_what_graphs_compute_otherwise_is_left_to_transformers(assistant):
    assert Graphs.serve(assistant.model)
    assistant.model.set_attention("eager")
    assert not Graphs.serve(assistant.model)
    assistant.model.language.config.seq_length = 64
    assert Graphs(assistant.model).fit(64) and not Graphs(assistant.model).fit(65)


def test_batches_and_graphs_are_few(recorded, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_BATCHES", 2)
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 2)
    for rows in (1, 2, 3):
        recorded.answer(about_two_pictures()[:rows], max_new_tokens=2)
    assert sorted(recorded.graphs.batches) == [1, 3]
    assert all(len(batch.graphs) <= 2 for batch in recorded.graphs.batches.values())


class FakeRecorder(Recorder):
    """Records as CUDA does: what is recorded does not run."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__(torch.device("cpu"))
        self.records, self.fails = True, fails

    def record(self, function):
        if self.fails:
            self.records = False
            return None
        return type("Recorded", (), {"replay": staticmethod(function)})()


@pytest.mark.parametrize("fails", [False, True])
def test_every_call_of_a_graph_runs_its_function_once(fails):
    calls = []
    graph = Graph(lambda: calls.append(1), FakeRecorder(fails))
    for number in range(1, 5):
        graph()
        assert len(calls) == number
        assert (graph.recorded is not None) == (number >= 2 and not fails)


def test_a_failed_recording_is_one_warning_and_answers_go_on(recorded, monkeypatch, caplog):
    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("no capture here\nand a long trace")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Broken)
    recorded.graphs.recorder.records = True
    wanted = reference_answers(recorded, requests(), max_new_tokens=12)
    assert recorded.answer(requests(), max_new_tokens=12) == wanted
    (record,) = caplog.records
    assert record.message == "answering without CUDA graphs, since recording failed: no capture here"


class OwnStep:
    """In place of the kernels, which need CUDA: transformers' forward on the batch's static cache."""

    def __init__(self, language, cache) -> None:
        self.language, self.cache = language, cache

    def __call__(self, input_ids, position_ids, starts, slot):
        for layer in self.cache.layers:
            layer.cumulative_length.copy_(slot[0])
        seen = torch.arange(self.cache.layers[0].max_cache_len) >= starts[:, None]  # [B, length]
        inputs = {"attention_mask": seen.long(), "position_ids": position_ids, "past_key_values": self.cache}
        return self.language(input_ids, **inputs).logits[:, -1]


def test_kernels_get_the_tokens_positions_and_slots_of_a_step(recorded, monkeypatch):
    monkeypatch.setattr(graphs, "DecodingStep", OwnStep)
    recorded.graphs.kernels = True
    wanted = reference_answers(recorded, requests(), max_new_tokens=12)
    assert recorded.answer(requests(), max_new_tokens=12) == wanted
    assert ["".join(recorded.stream(request, max_new_tokens=12)).strip() for request in requests()] == wanted
    assert {rows: batch.kernels is not None for rows, batch in recorded.graphs.batches.items()} == {1: True, 4: True}


def test_kernels_that_fail_are_one_warning_and_answers_go_on(recorded, monkeypatch, caplog):
    def fails(language, cache):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(graphs, "DecodingStep", fails)
    recorded.graphs.kernels = True
    wanted = reference_answers(recorded, requests(), max_new_tokens=12)
    assert recorded.answer(requests(), max_new_tokens=12) == wanted
    (record,) = caplog.records
    assert record.message == "answering without own kernels, since they failed: no compiler"

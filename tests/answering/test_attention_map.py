"""Attention maps: equal to attention computed by hand, on the grid, by word, and without effect on later answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import StaticCache

from answering.assistant import Assistant
from answering.attention_map import AttentionMap, on_grid, to_patches, token_spans
from answering.graphs import Graphs
from common.errors import UserError
from dataset.prompt import Request, Turn, encode_text, question_with_images
from model.adapters import base_of
from qwen.tokenizer import IMAGE_TOKEN, token_id
from tests.helpers.asking import count_pictures, reference_answers
from tests.helpers.models import build, save
from tests.helpers.tiny import enlarge_projector, picture

ANSWER = "a red circle, 红色"


def answered(answer: str | None = ANSWER) -> Request:
    return Request([Turn(question_with_images("What is it?", 1), answer)], [picture("red")])


def rotated(states: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of [H, T, 8] by its formula: pairs (i, i + 4) turned by t / 10000^(i / 4)."""
    half = states.shape[-1] // 2
    angle = torch.arange(states.shape[1])[:, None] * 10000.0 ** (-torch.arange(half) / half)  # [T, 4]
    first, second = states[..., :half], states[..., half:]
    turned = first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()
    return torch.cat(turned, -1)


def attention_by_hand(assistant, request: Request) -> torch.Tensor:
    """[A, V] from the queries and keys of each layer, the whole conversation computed at once."""
    (turn,) = request.turns
    prompt = assistant._prompt(Request([Turn(turn.question)], request.images))
    answer = list(encode_text(assistant.tokenizer, turn.answer))
    ids = torch.tensor([prompt + answer])
    seen: list[torch.Tensor] = []
    hooks = []
    for layer in base_of(assistant.model.language).model.layers:
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            hooks.append(part.register_forward_hook(lambda module, args, output: seen.append(output[0])))
    with torch.no_grad():
        pixels = assistant._pixels(request.images)
        assistant.model(input_ids=ids, pixel_values=pixels, images_per_row=torch.tensor([len(request.images)]))
    for hook in hooks:
        hook.remove()
    visual = [i for i, token in enumerate(prompt) if token == token_id(assistant.tokenizer, IMAGE_TOKEN)]
    layers = []
    for q, k in zip(seen[::2], seen[1::2], strict=True):  # [T, 4 * 8] and [T, 2 * 8]: each key serves two queries
        queries = rotated(q.unflatten(1, (4, 8)).transpose(0, 1))  # [4, T, 8]
        keys = rotated(k.unflatten(1, (2, 8)).transpose(0, 1)).repeat_interleave(2, 0)
        scores = queries @ keys.transpose(1, 2) / math.sqrt(8)
        scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), float("-inf"))
        layers.append(scores.softmax(-1).mean(0)[len(prompt) - 1 : -1, visual])  # what predicted the answer
    return torch.stack(layers).mean(0)


def test_the_map_is_the_mean_attention_of_the_positions_that_predicted_the_answer(assistant):
    request = answered()
    wanted = attention_by_hand(assistant, request)  # [A, 8]
    found = assistant.where_it_looks(request)
    assert found.weights.shape == (len(encode_text(assistant.tokenizer, ANSWER)), 3, 3)
    np.testing.assert_allclose(found.weights.reshape(-1, 9)[:, 1:], wanted, atol=1e-6)
    assert np.isnan(found.weights[:, 0, 0]).all() and wanted.std() > 1e-3  # not all alike
    assert ((wanted.sum(1) > 0) & (wanted.sum(1) < 1)).all()


@pytest.mark.parametrize("static", [False, True])
def test_the_map_is_the_same_with_and_without_a_prefix_cache(assistant, static):
    assistant.graphs = Graphs(assistant.model) if static else None
    fresh = assistant.where_it_looks(answered())
    list(assistant.stream(answered(None), max_new_tokens=5))
    kept = answered()
    kept.images = assistant._prefixes[-1][0]
    seen = count_pictures(assistant)
    again = assistant.where_it_looks(kept)
    assert seen == []  # the picture was not encoded again
    np.testing.assert_allclose(again.weights, fresh.weights, atol=1e-6)
    assert isinstance(assistant._prefixes[-1][1].cache, StaticCache) == static


def test_looking_changes_nothing_about_the_answers_that_follow(assistant):
    request = answered()
    follow_up = Request([*request.turns, Turn("and where?")], request.images)
    (wanted,) = reference_answers(assistant, [follow_up])
    assistant.where_it_looks(request)
    assert assistant.model.language.config._attn_implementation == "sdpa"
    seen = count_pictures(assistant)
    assert "".join(assistant.stream(follow_up)).strip() == wanted and seen == []


def test_another_picture_gives_another_map(assistant):
    red, blue = answered(), answered()
    blue.images = [picture("blue")]
    maps = [assistant.where_it_looks(request).weights for request in (red, blue)]
    assert np.nanmax(abs(maps[0] - maps[1])) > 1e-3


def test_only_a_finished_answer_about_a_picture_has_a_map(assistant):
    text_only = Request([Turn("a", "b")], [])
    for request, number in ((answered(None), 0), (answered(""), 0), (answered(), 1), (text_only, 0)):
        with pytest.raises(UserError, match="about a picture"):
            assistant.where_it_looks(request, number)


def test_each_of_several_pictures_has_a_map_and_together_they_are_the_attention(assistant):
    two = Request([Turn(question_with_images("a", 2), "b c")], [picture("red"), picture("blue")])
    maps = [assistant.where_it_looks(two, number).weights for number in range(2)]
    wanted = attention_by_hand(assistant, two)  # [A, 2 * 8]
    for number, found in enumerate(maps):
        parts = found.reshape(len(wanted), 9)[:, 1:]
        np.testing.assert_allclose(parts, wanted[:, 8 * number : 8 * number + 8].numpy(), atol=1e-5)


def test_the_grid_is_in_reading_order_with_the_dropped_patch_at_the_top_left():
    weights = torch.arange(1, 9.0)[None]
    found = on_grid(weights, 3, 3, dropped_patches=1)[0]
    assert found[1:].tolist() == [[3, 4, 5], [6, 7, 8]]
    assert found[0, 1:].tolist() == [1, 2] and np.isnan(found[0, 0])
    assert on_grid(torch.arange(9.0)[None], 3, 3)[0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_class_tokens_are_not_drawn_and_a_grid_need_not_be_square():
    assert on_grid(torch.arange(7.0)[None], 2, 3, class_tokens=1)[0].tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("kind", ["resampler", "qformer"])
def test_learnt_queries_show_where_they_looked_on_the_patches_and_say_so(make_config, tmp_path, kind):
    sizes = ["projector.layers=3", "projector.hidden_size=16"] if kind == "qformer" else []
    config = make_config(f"projector.kind={kind}", "projector.queries=4", "vision.image_context_length=4", *sizes)
    model = build(config)
    enlarge_projector(model)
    assistant = Assistant.load(save(config, model, tmp_path / "checkpoint"), "cpu")
    found = assistant.where_it_looks(answered())
    assert found.shows == "queries" and found.weights.shape == (len(found.spans), 3, 3)
    looks = assistant.model.where_queries_look(assistant._pixels([picture("red")]))
    assert looks.shape == (1, 4, 8)  # four queries, eight patches
    torch.testing.assert_close(looks.sum(-1), torch.ones(1, 4))
    wanted = attention_by_hand(assistant, answered()) @ looks[0]  # [A, 4] @ [4, 8]
    np.testing.assert_allclose(found.weights.reshape(len(wanted), 9)[:, 1:], wanted.numpy(), atol=1e-5)
    assert np.isnan(found.weights[:, 0, 0]).all()


def test_cross_attention_shows_its_own_weights(make_config, tmp_path):
    config = make_config("projector.kind=cross_attention", "projector.every=1", "vision.image_context_length=1")
    model = build(config)
    enlarge_projector(model)
    assistant = Assistant.load(save(config, model, tmp_path / "checkpoint"), "cpu")
    found = assistant.where_it_looks(answered())
    assert found.shows == "cross_attention" and found.weights.shape == (len(found.spans), 3, 3)
    assert np.nansum(found.weights, (1, 2)) == pytest.approx(1.0)
    states: list[torch.Tensor] = []
    for layer in assistant.model.projector.layers:
        layer.norm.register_forward_hook(lambda module, args, output: states.append(output[0]))
    prompt = assistant._prompt(Request([Turn(answered().turns[0].question)], [picture("red")]))
    answer = list(encode_text(assistant.tokenizer, ANSWER))
    pixels = assistant._pixels([picture("red")])
    with torch.no_grad():
        assistant.model(torch.tensor([prompt + answer]), pixel_values=pixels, images_per_row=torch.tensor([1]))
        features = assistant.model.encode_images(pixels)[0]  # [8, 16]
        shares = [
            (layer.q_proj(normed[len(prompt) - 1 : -1]) @ layer.k_proj(features).T / 32**0.5).softmax(-1)
            for layer, normed in zip(assistant.model.projector.layers, states, strict=True)
        ]  # one head of 32
    wanted = torch.stack(shares).mean(0)
    np.testing.assert_allclose(found.weights.reshape(len(wanted), 9)[:, 1:], wanted.numpy(), atol=1e-5)
    two = Request([Turn(question_with_images("Which?", 2), ANSWER)], [picture("red"), picture("blue")])
    first, second = (assistant.where_it_looks(two, number).weights for number in (0, 1))
    assert np.nansum(first + second, (1, 2)) == pytest.approx(1.0)


def test_a_word_is_the_mean_of_the_tokens_it_touches():
    maps = np.array([1.0, 3.0, 10.0], dtype=np.float32)[:, None, None] * np.ones((3, 2, 2), dtype=np.float32)
    found = AttentionMap("ab cd红", [(0, 1), (1, 5), (5, 6)], maps)
    assert found.words() == [(0, 2), (3, 5), (5, 6)]
    assert [found.of(word)[0, 0] for word in found.words()] == [2.0, 3.0, 10.0]
    assert found.of()[0, 0] == pytest.approx(14 / 3)


def test_tokens_have_their_span_in_the_text_even_within_a_character(assistant):
    text = "star 五角星 🟣 ok"
    ids = list(encode_text(assistant.tokenizer, text))
    spans = token_spans(assistant.tokenizer, ids)
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
    assert all(one[1] == other[0] for one, other in zip(spans, spans[1:], strict=False))
    whole = [(assistant.tokenizer.decode([token]), span) for token, span in zip(ids, spans, strict=True)]
    whole = [(piece, span) for piece, span in whole if "\ufffd" not in piece]  # tokens of whole characters
    assert len(whole) > 5 and all(text[slice(*span)] == piece for piece, span in whole)
    assert len(ids) > len(set(spans))  # the circle is several tokens with one span


def test_each_patch_has_the_weight_of_its_cell():
    cells = np.arange(1.0, 5)[None].reshape(1, 2, 2)
    assert to_patches(cells, 2, 3, 3)[0].tolist() == [[1, 1, 2], [1, 1, 2], [3, 3, 4]]
    assert to_patches(cells, 3, 6, 6)[0, 3].tolist() == [3, 3, 3, 4, 4, 4]

"""Gated cross-attention: closed it is the plain Qwen, open it sees the right picture; rows without one cost nothing."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2ForCausalLM

from answering.assistant import Assistant
from common.errors import UserError
from dataset.prompt import Request, Turn, question_with_images
from model.connectors.cross_attention import CrossAttentionConnector, GatedCrossAttention, Pictures
from tests.helpers.asking import count_pictures, reference_answers, requests
from tests.helpers.conversations import CONVERSATIONS
from tests.helpers.models import build_with_batch, save
from tests.helpers.tiny import picture
from tests.model.test_tree_loss import loss_and_gradients

KIND = ["projector.kind=cross_attention", "projector.every=1", "vision.image_context_length=1"]


@pytest.fixture
def built(make_config):
    config = make_config(*KIND)
    return (config, *build_with_batch(config))


def open_gates(model, value: float = 1.0) -> None:
    """Gates open and large weights, so that one picture gives another answer than the other."""
    with torch.no_grad():
        for name, parameter in model.projector.named_parameters():
            if name.endswith("gate"):
                parameter.fill_(value)
            elif parameter.ndim == 2:
                parameter.normal_(std=0.4)


def test_closed_gates_equal_the_plain_qwen_to_the_bit(built):
    config, model, _, batch = built
    language = Qwen2ForCausalLM.from_pretrained(config.language.path, dtype=torch.float32).eval()
    with torch.no_grad():
        wanted = language(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        found = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
        assert torch.equal(found, wanted)
        open_gates(model, 0.1)
        assert not torch.allclose(model(**{k: v for k, v in batch.items() if k != "labels"}).logits, wanted)


def test_a_layer_is_the_papers_formula():
    torch.manual_seed(0)
    layer = GatedCrossAttention(6, 128).double()
    with torch.no_grad():
        layer.attention_gate.fill_(0.3), layer.mlp_gate.fill_(-0.7)
    x, features = torch.randn(1, 5, 128).double(), torch.randn(1, 1, 4, 6).double()
    seen = torch.tensor([[[False], [False], [True], [True], [True]]])
    found = layer(x, layer.keys_values(features), seen)

    def normed(states, norm):
        centred = states - states.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
        return scaled * norm.weight + norm.bias

    queries = normed(x, layer.norm) @ layer.q_proj.weight.T
    keys, values = (features[:, 0] @ weight.T for weight in (layer.k_proj.weight, layer.v_proj.weight))
    heads = []
    for part in (slice(0, 64), slice(64, 128)):  # heads are 64 wide
        shares = (queries[..., part] @ keys[..., part].transpose(1, 2) / 8).softmax(-1)
        heads.append(shares @ values[..., part])
    y = x + torch.tensor(0.3, dtype=torch.float64).tanh() * layer.o_proj(torch.cat(heads, -1))
    inner = torch.nn.functional.gelu(layer.mlp[0](normed(y, layer.mlp_norm)))
    y = y + torch.tensor(-0.7, dtype=torch.float64).tanh() * layer.mlp[2](inner)
    torch.testing.assert_close(found[:, 2:], y[:, 2:], rtol=0, atol=1e-12)
    assert torch.equal(found[:, :2], x[:, :2])


def test_it_stands_in_front_of_every_kth_layer_and_trains_alone(make_config):
    config = make_config(*KIND, "projector.every=2", "language.train=frozen")
    model, _, batch = build_with_batch(config)
    assert len(list(model.projector.children())) == 1 and model.num_visual_tokens == 1
    hooks = [len(layer._forward_pre_hooks) for layer in model.language.model.layers]
    assert hooks == [0, 1]
    open_gates(model)
    model.train()(**batch).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.projector.parameters())
    with pytest.raises(UserError, match="projector.every: 3, but the language model has 2 layers"):
        CrossAttentionConnector(16, 32, decoder_layers=2, every=3)


def test_a_token_sees_the_pictures_before_it_of_its_own_branch_and_tree():
    placeholder = torch.tensor([[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]).bool()
    images = [torch.ones(2, 3, 4), torch.zeros(0, 3, 4), torch.ones(1, 3, 4)]
    pictures = Pictures.of(images, placeholder)
    assert pictures.rows.tolist() == [0, 2] and pictures.features.shape == (2, 2, 3, 4)
    assert pictures.seen(6, 0)[0].int().tolist() == [[0, 0], [1, 0], [1, 0], [1, 0], [1, 1], [1, 1]]
    assert pictures.seen(6, 0)[1, :, 0].int().tolist() == [0, 0, 1, 1, 1, 1] and not pictures.seen(6, 0)[1, :, 1].any()
    assert pictures.seen(1, 4)[0].tolist() == [[True, True]]
    selected = pictures.select(torch.tensor([2, 1, 2]))
    assert selected.rows.tolist() == [0, 2] and selected.positions[:, 0].tolist() == [2, 2] and selected.batch == 3
    branches = torch.tensor([[0, 0, 1, 1, 2, 2]])  # the second picture belongs to branch 2 alone
    seen = Pictures.of(images[:1], placeholder[:1], branches).seen(6, 0)[0]
    assert seen.int().tolist() == [[0, 0], [1, 0], [1, 0], [1, 0], [1, 1], [1, 1]]
    branches = torch.tensor([[0, 1, 2, 2, 2, 2]])  # and here the first to branch 1
    seen = Pictures.of(images[:1], placeholder[:1], branches).seen(6, 0)[0]
    assert seen.int().tolist() == [[0, 0], [1, 0], [0, 0], [0, 0], [0, 1], [0, 1]]
    with pytest.raises(ValueError, match=r"placeholders but \[1, 0, 1\] pictures"):
        Pictures.of([images[2], *images[1:]], placeholder)


@pytest.mark.parametrize("packed", [False, True])
def test_trees_give_the_loss_and_the_gradients_of_separate_rows(make_config, packed):
    options = {"pictures": 5, "conversations": CONVERSATIONS}
    packing = ["data.packing=true", "data.tokens_per_batch=4096"] if packed else []
    rows = make_config(*KIND, "data.message_trees=false", **options)
    trees = make_config(*KIND, *packing, **options)
    wanted, gradients, _ = loss_and_gradients(rows, torch.float64, False, 1)
    loss, found, samples = loss_and_gradients(trees, torch.float64, True, 3, "tree_attention")
    assert samples == 4 and loss == pytest.approx(wanted, rel=1e-6)
    for name, gradient in gradients.items():
        assert (found[name] - gradient).abs().max() <= 1e-6 * gradient.abs().max() > 0, name


def test_rows_without_a_picture_cost_nothing(built):
    _, model, _, batch = built
    open_gates(model)
    ids, mask = batch["input_ids"].clone(), batch["attention_mask"]
    ids[1, ids[1] == model.language.base_model.model.image_token_id] = 7  # no picture in the second row
    rows: list[int] = []
    for layer in model.projector.layers:
        layer.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    with torch.no_grad():
        text = model(input_ids=ids[1:], attention_mask=mask[1:]).logits
        assert rows == []
        shown = {"pixel_values": batch["pixel_values"][:1], "images_per_row": torch.tensor([1, 0])}
        both = model(input_ids=ids, attention_mask=mask, **shown).logits
    assert rows == [1, 1]
    torch.testing.assert_close(both[1:], text, rtol=0, atol=1e-5)


@pytest.fixture
def asking(built, tmp_path):
    config, model, *_ = built
    open_gates(model)
    return Assistant.load(save(config, model, tmp_path / "checkpoint"), "cpu")


def test_answers_on_a_shared_prefix_equal_those_without_it(asking):
    questions = ["What color?", "and how many of them are there?", "哪里?"]
    asked = [
        Request([Turn(question_with_images(q, 1))], [image])
        for q in questions
        for image in (picture("red"), picture("blue"))
    ]
    asked += requests()
    for options in ({}, {"num_beams": 3}):
        wanted = reference_answers(asking, asked, max_new_tokens=8, **options)
        assert asking.answer(asked, max_new_tokens=8, **options) == wanted and len(set(wanted)) > 3
        assert ["".join(asking.stream(r, max_new_tokens=8, **options)).strip() for r in asked] == wanted


def test_a_follow_up_question_keeps_the_keys_and_values_of_the_picture(asking):
    image = picture("red")
    turn = Turn(question_with_images("What is it?", 1))
    turn.answer = "".join(asking.stream(Request([turn], [image]), max_new_tokens=6)).strip()
    follow_up = Request([turn, Turn("and where?")], [image])
    (wanted,) = reference_answers(asking, [follow_up], max_new_tokens=8)
    seen = count_pictures(asking)
    keys: list[int] = []
    asking.model.projector.layers[0].k_proj.register_forward_hook(lambda module, args, output: keys.append(1))
    assert "".join(asking.stream(follow_up, max_new_tokens=8)).strip() == wanted
    assert seen == [] and keys == []


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("vision.image_context_length=728", "vision.image_context_length = 728: expected 1, which is"),
        ("language.attention=flex_attention", 'language.attention = "flex_attention": expected auto'),
        ("projector.queries=4", "projector.queries = 4: expected null with projector.kind = cross_attention"),
    ],
)
def test_what_does_not_go_with_it_is_refused_by_name(make_config, override, problem):
    with pytest.raises(UserError, match=problem.replace(".", r"\.")):
        make_config(*KIND, override)

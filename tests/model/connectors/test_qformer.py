"""The Q-Former against transformers' own BLIP-2, and its start."""

from __future__ import annotations

import pytest
import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig

from model.connectors import QFormerConnector, build_connector
from visual.geometry import PatchGrid


def qformer(vision: int = 6, language: int = 8, **options) -> QFormerConnector:
    options = {"queries": 4, "layers": 3, "hidden_size": 128, **options}
    connector = build_connector(vision, language, kind="qformer", **options)
    assert isinstance(connector, QFormerConnector)
    return connector.eval()


@pytest.fixture
def blip2() -> Blip2ForConditionalGeneration:
    """A tiny BLIP-2: features 16 wide, three layers of 128 with 2 heads, 4 queries, language model 8 wide."""
    torch.manual_seed(0)
    qformer = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 512}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 16, "num_hidden_layers": 1, "vocab_size": 50}
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**vision, image_size=28, patch_size=14).to_dict(),
        qformer_config=Blip2QFormerConfig(**qformer, encoder_hidden_size=16).to_dict(),
        text_config=OPTConfig(**text, num_attention_heads=2).to_dict(),
        num_query_tokens=4,
    )
    model = Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.query_tokens.normal_()
    return model


def test_its_tokens_are_those_of_a_stock_blip_2(blip2):
    connector = qformer(16)
    parts = ("query_tokens", "qformer.", "language_projection.")
    connector.load_state_dict({n: value for n, value in blip2.state_dict().items() if n.startswith(parts)})
    with torch.no_grad():
        pixels = torch.randn(2, 3, 28, 28)
        features = blip2.vision_model(pixels).last_hidden_state  # [2, 5, 16]
        wanted = blip2.get_image_features(pixels).pooler_output
        assert torch.equal(connector(features), wanted)


def test_every_second_layer_looks_at_the_picture():
    layers = qformer().qformer.encoder.layer
    assert [layer.has_cross_attention for layer in layers] == [True, False, True]


def test_it_gives_as_many_tokens_as_queries_which_have_no_part_of_the_picture():
    connector, grid = qformer(), PatchGrid(3, 3, 0, 1)
    assert connector.num_tokens(grid) == 4 == connector(torch.zeros(1, 8, 6)).shape[1]
    assert connector.token_grid(grid) is None


def test_it_starts_as_bert_does_with_queries_that_differ():
    torch.manual_seed(0)
    connector = qformer(layers=2, hidden_size=128, queries=64)
    for name, parameter in connector.named_parameters():
        if "bias" in name:
            assert not parameter.any(), name
        elif parameter.ndim > 1:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.1), name
    tokens = connector(torch.randn(1, 9, 6))[0]
    assert (tokens[0] - tokens[1]).abs().max() > 0.1


def test_gradients_reach_every_parameter():
    connector = qformer()
    connector(torch.randn(2, 9, 6)).pow(3).sum().backward()
    for name, parameter in connector.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("key.bias"):  # adding one number to all scores of a query changes no softmax
            assert parameter.grad.abs().sum() > 0, name

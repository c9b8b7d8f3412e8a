"""A small transformer of learnt queries that read the picture, then a linear layer (BLIP-2: Li et al. 2023,
arXiv:2301.12597, section 3.1)."""

from __future__ import annotations

import torch
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from model.connectors.base import Connector
from visual.geometry import PatchGrid

HEAD = 64  # width of an attention head, as in BERT-base
STD = 0.02  # of BERT's start, in which BLIP-2 starts its queries too


class QFormerConnector(Connector):
    """``queries`` visual tokens for a picture of any size.

    The Q-Former is transformers' ``Blip2QFormerModel``: in each layer self-attention of the queries, in every second
    one, from the first, cross-attention to the features, then an MLP of four times the width. Linear layers and queries
    start from N(0, 0.02), biases at 0, or from a BLIP-2 (model/pretrained_qformer.py); the paper starts from BERT-base,
    whose weights are not read here. With equal queries all visual tokens would stay equal, since queries have no
    positions.

    Args:
        vision_width: Dv, of the tower's features.
        language_width: Dl, of the language model's embeddings.
        queries: M.
        layers: of the Q-Former.
        hidden_size: its width; heads are 64 wide.
        standardize: begin with statistics that change nothing (mean 0, deviation 1), to be set before training.
    """

    name = "qformer"

    def __init__(
        self,
        vision_width: int,
        language_width: int,
        *,
        queries: int = 32,
        layers: int = 12,
        hidden_size: int = 768,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        config = Blip2QFormerConfig(
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=max(1, hidden_size // HEAD),
            intermediate_size=4 * hidden_size,
            encoder_hidden_size=vision_width,
            initializer_range=STD,
        )
        self.query_tokens = nn.Parameter(torch.randn(1, queries, hidden_size) * STD)
        self.qformer = Blip2QFormerModel(config)
        self.language_projection = nn.Linear(hidden_size, language_width)
        nn.init.normal_(self.language_projection.weight, std=STD)
        nn.init.zeros_(self.language_projection.bias)
        self.start_statistics(vision_width, standardize)

    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        queries = self.query_tokens.expand(len(features), -1, -1)  # [K, M, D]
        hidden_states = self.qformer(query_embeds=queries, encoder_hidden_states=features).last_hidden_state
        return self.language_projection(hidden_states)  # [K, M, Dl]

    def looks(self, features: torch.Tensor) -> torch.Tensor | None:
        queries = self.query_tokens.expand(len(features), -1, -1)  # [K, M, D]
        usual = self.qformer.config._attn_implementation
        self.qformer.set_attn_implementation("eager")  # the fused kernels return no weights
        try:
            output = self.qformer(query_embeds=queries, encoder_hidden_states=features, output_attentions=True)
        finally:
            self.qformer.set_attn_implementation(usual)
        return torch.stack([weights.mean(1) for weights in output.cross_attentions]).mean(0)  # [K, M, N]

    def num_tokens(self, grid: PatchGrid) -> int:
        return self.query_tokens.shape[1]

    def token_grid(self, grid: PatchGrid) -> PatchGrid | None:
        return None

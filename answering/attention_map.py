"""Where the model looked while it answered: the attention from the answer's tokens to the visual tokens.

For each token of the answer, this takes the attention weights of the position that predicted it (the one before it) to
each visual token, averaged over all layers and heads. The weights are shares: the rest of 1 went to the text. Averaged
raw weights are what LVLM-Interpret shows (Stan et al. 2024, arXiv:2404.03118). They say where the language model read,
not why it answered: in the encoder, each visual token has already gathered information from the whole picture.

Learnt queries (resampler, Q-Former) are no parts of the picture. Their map is the product of two shares: how much the
answer attends to each query, and how much that query attended to each feature of the tower. With cross-attention, the
map shows the weights of the layers between the decoder layers, which read the features directly.

Measured on 40 questions about one region of the demo's pictures: 56 % of the picture's share went to the 3 x 3 patches
of that region (a seventh of the picture). Taken at the answer token itself instead of the one before it is 50 %; with
attention rollout, 55 %; in the last layer alone, 27 %.

It is computed after the answer is complete, in one forward pass of its tokens on the prefix cache, with eager
attention: the fused kernels that stream the answer do not return weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from transformers import StaticCache

from answering.prefix_cache import PrefixCache, prefix_of, to_dynamic
from dataset.prompt import decode_said
from model.connectors.cross_attention import CrossAttentionConnector
from model.model import MMultiModal

# What the mouse selects as a word: characters up to a space, or one character of a script without spaces.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


Shows = Literal["tokens", "queries", "cross_attention"]


@dataclass
class AttentionMap:
    """An answer, and the attention of each of its tokens to the picture.

    ``spans`` are the tokens' characters in ``text`` (begin, end), the end excluded. ``weights`` [A, G, G] float32 are
    their maps, rows from top to bottom; NaN where a patch was dropped, which the model did not see.

    ``shows`` says what was measured: the language model's attention to visual tokens that are parts of the picture,
    the product through learnt queries, or the connector's cross-attention, of which all of 1 is on the picture.
    """

    text: str
    spans: list[tuple[int, int]]
    weights: np.ndarray
    shows: Shows = "tokens"

    def words(self) -> list[tuple[int, int]]:
        """The spans of the words, in order."""
        return [match.span() for match in _WORD.finditer(self.text)]

    def of(self, span: tuple[int, int] | None = None) -> np.ndarray:
        """[G, G]: the mean over the tokens that touch ``span``, or over the whole answer."""
        if span is None:
            return self.weights.mean(0)
        begin, end = span
        touched = [first < end and max(last, first + 1) > begin for first, last in self.spans]
        return self.weights[touched].mean(0)


@torch.inference_mode()
def answer_attention(
    model: MMultiModal,
    prompt: list[int],
    answer: list[int],
    end: int,
    pixels: Callable[[], torch.Tensor],
    prefix: PrefixCache | None,
) -> tuple[torch.Tensor, PrefixCache]:
    """The attention [A, V] of A answer tokens to V visual tokens, averaged over layers and heads; and the prefix cache.

    With cross-attention, V are the features of the picture.

    ``end``, ``pixels`` and ``prefix`` as for :func:`answering.prefix_cache.generate_cached`.
    """
    ids = prompt + answer
    cached = prefix_of(model, prompt, end, pixels, prefix)  # not the last position of the prompt: it predicts a token
    done = int(cached.get_seq_length())
    # A static cache stays as it is for the compiled step, and may be too short for the answer.
    cache = to_dynamic(model, cached) if isinstance(cached, StaticCache) else cached
    language: Any = model.language
    usual = language.config._attn_implementation
    language.set_attn_implementation("eager")
    looked: list[torch.Tensor] = []  # [1, S, V], by the connector's own layers
    outside = model.projector if isinstance(model.projector, CrossAttentionConnector) else None
    hooks = [layer.register_forward_hook(_record(looked)) for layer in outside.layers] if outside else []
    try:
        rest = torch.tensor([ids[done:-1]], device=model.device)  # [1, S]: the last token predicts nothing
        output = model(
            input_ids=rest,
            attention_mask=torch.ones(1, len(ids) - 1, dtype=torch.long, device=model.device),
            past_key_values=cache,
            use_cache=True,
            output_attentions=True,
            logits_to_keep=1,
        )
    finally:
        language.set_attn_implementation(usual)
        for hook in hooks:
            hook.remove()
    predicting = slice(len(prompt) - 1 - done, None)
    if outside:
        layers = [weights[0, predicting].float() for weights in looked]  # each [A, V]
    else:
        visual = torch.tensor(ids[:-1], device=model.device) == language.image_token_id  # [T - 1]
        layers = [layer[0, :, predicting, visual].float().mean(0) for layer in output.attentions]  # each [A, V]
    return torch.stack(layers).mean(0).cpu(), PrefixCache(ids[: int(cached.get_seq_length())], cached)


def _record(looked: list[torch.Tensor]) -> Callable[..., None]:
    return lambda layer, args, output: looked.append(layer.weights(*args))


def on_grid(
    weights: torch.Tensor, rows: int, columns: int, *, class_tokens: int = 0, dropped_patches: int = 0
) -> np.ndarray:
    """Weights [A, N] of the visual tokens -> maps [A, rows, columns].

    The first ``class_tokens`` are not drawn: they have no position in the picture. The first ``dropped_patches`` of
    the picture, which have no token, are NaN.
    """
    drawn = weights[:, class_tokens:].float().numpy()
    missing = np.full((len(drawn), dropped_patches), np.nan, dtype=np.float32)
    return np.concatenate([missing, drawn], 1).reshape(len(drawn), rows, columns)


def to_patches(maps: np.ndarray, cell: int, rows: int, columns: int) -> np.ndarray:
    """Maps [A, r, c] of cells -> [A, rows, columns] of patches: each patch has the weight of its cell.

    The last cells may reach over the edge of the picture; their patches there are left out.
    """
    return maps.repeat(cell, axis=1).repeat(cell, axis=2)[:, :rows, :columns]


def token_spans(tokenizer: Any, ids: list[int]) -> list[tuple[int, int]]:
    """Where each token's text is in the decoded text: (begin, end) in characters.

    A character that takes several tokens ends the span of the token that completes it; the others' spans are empty.
    """
    ends = [len(decode_said(tokenizer, ids[: i + 1]).rstrip("\ufffd")) for i in range(len(ids))]
    return list(zip([0, *ends[:-1]], ends, strict=True))

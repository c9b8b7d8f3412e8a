"""Where the model looked while it answered: a measure over the attention of the answer to the visual tokens.

For each token of the answer, the attention weights of the position that chose it (the one before it) to each visual
token, averaged over all layers and heads. The numbers are shares: what is missing to 1 went to the text. The mean of
raw weights is what LVLM-Interpret (Stan et al. 2024, arXiv:2404.03118) shows. It says where the language model read,
not why it answered: a visual token has itself gathered from the whole picture in the encoder.

Of 40 questions about one place of the demo's pictures, 56 % of what went to the picture went to the 3 x 3 patches of
that place (a seventh of the picture); taken at the answer token itself instead of the one before, 50 %; with attention
rollout, 55 %; in the last layer alone, 27 %.

Taken after the answer is finished, in one forward of its tokens over the kept keys and values, with eager attention:
the fused kernels that stream the answer give no weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import StaticCache

from answering.prefix_cache import Kept, resume, to_dynamic
from model.model import MMultiModal

# A word, to the mouse: a run of letters without spaces, or a single character of a script that uses none.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


@dataclass
class AttentionMap:
    """An answer and what each of its tokens drew from the picture.

    ``spans`` are the tokens' (first, behind last) characters in ``text``; ``weights`` [A, G, G] float32 holds their
    maps, rows from top to bottom, NaN where the patch was dropped and the model saw nothing.
    """

    text: str
    spans: list[tuple[int, int]]
    weights: np.ndarray

    def words(self) -> list[tuple[int, int]]:
        """The spans of the words, in order."""
        return [match.span() for match in _WORD.finditer(self.text)]

    def of(self, span: tuple[int, int] | None = None) -> np.ndarray:
        """[G, G]: the mean over the tokens that touch ``span``, or over the whole answer."""
        if span is None:
            return self.weights.mean(0)
        begin, end = span
        touched = [first < end and max(behind, first + 1) > begin for first, behind in self.spans]
        return self.weights[touched].mean(0)


@torch.inference_mode()
def answer_attention(
    model: MMultiModal,
    prompt: list[int],
    answer: list[int],
    end: int,
    pixels: Callable[[], torch.Tensor],
    kept: Kept | None,
) -> tuple[torch.Tensor, Kept]:
    """Mean attention over layers and heads [A, V] from what chose each answer token to each visual one; what to keep.

    ``end``, ``pixels`` and ``kept`` as for :func:`model.answering.generate_keeping`.
    """
    ids = prompt + answer
    cache = resume(model, prompt, end, pixels, kept)  # never of the whole prompt: its last position chose a token
    done = int(cache.get_seq_length())
    keep = cache
    if isinstance(cache, StaticCache):  # its place in memory is a compiled step's, and it may have no room
        cache = to_dynamic(model, cache)
    language = model.language
    usual = language.config._attn_implementation
    language.set_attn_implementation("eager")
    try:
        rest = torch.tensor([ids[done:-1]], device=model.device)  # [1, S]: the last token chooses nothing of the answer
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
    visual = torch.tensor(ids[:-1], device=model.device) == language.image_token_id  # [T - 1]
    choosing = slice(len(prompt) - 1 - done, None)
    mean = torch.stack([layer[0, :, choosing, visual].float().mean(0) for layer in output.attentions]).mean(0)  # [A, V]
    return mean.cpu(), Kept(ids[: int(keep.get_seq_length())], keep)


def on_grid(weights: torch.Tensor) -> np.ndarray:
    """[A, N] -> [A, G, G]; where N is one short of a square the first patch was dropped: NaN at the top left.

    CLIP's N is a square: what was dropped there is a class token, which has no place in the picture.
    """
    dropped = int(math.isqrt(weights.shape[1]) ** 2 != weights.shape[1])
    missing = np.full((len(weights), dropped), np.nan, dtype=np.float32)
    side = math.isqrt(weights.shape[1] + dropped)
    return np.concatenate([missing, weights.float().numpy()], 1).reshape(len(weights), side, side)


def token_spans(tokenizer, ids: list[int]) -> list[tuple[int, int]]:
    """Where each token's text lies in the decoded whole, in characters.

    A token that ends in the middle of a character has that character as its span's end no sooner than the token that
    completes it.
    """
    ends = [len(tokenizer.decode(ids[: i + 1]).rstrip("\ufffd")) for i in range(len(ids))]
    return list(zip([0, *ends[:-1]], ends, strict=True))

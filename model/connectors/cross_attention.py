"""The picture stays outside the sequence: gated cross-attention in front of every k-th decoder layer (Flamingo: Alayrac
et al. 2022, arXiv:2204.14198, section 2.2 and figure 4).

A picture takes one token of the sequence, the placeholder ``<|extra_0|>``, which is an ordinary word here: it marks
where the picture is. Keys and values of a picture are in :class:`PictureCache` while an answer is generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache

from common.errors import UserError
from model.connectors.base import Connector
from qwen.tree_attention import sees
from visual.geometry import PatchGrid

HEAD = 64  # width of an attention head, Flamingo's
INNER = 4  # the MLP is four times as wide, as Flamingo's
NEVER = 2**62  # the position of a picture that is not there

KeysValues = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Pictures:
    """The pictures of a batch, for the R of its B rows that have any.

    A token sees a picture if it could attend to its placeholder: from there on, in the same branch or from the root of
    its tree. Rows with fewer than P pictures are filled up with pictures that no token sees.

    Attributes:
        rows: [R], ascending.
        features: [R, P, N, Dv], standardised.
        positions: [R, P], the index of each picture's placeholder in its row.
        batch: B.
        segments: [B, T] of message trees, or None.
        kept: keys and values [R, H, P * N, E] by the number of the layer, while an answer is generated.
    """

    rows: torch.Tensor
    features: torch.Tensor
    positions: torch.Tensor
    batch: int
    segments: torch.Tensor | None = None
    kept: dict[int, KeysValues] = field(default_factory=dict)

    @classmethod
    def of(
        cls, images: Sequence[torch.Tensor], placeholder: torch.Tensor, segments: torch.Tensor | None = None
    ) -> Pictures:
        """From the features [n_b, N, Dv] of each row's images, and where its placeholders are, [B, T] bool.

        Raises:
            ValueError: a row has another number of placeholders than of images.
        """
        counts = [len(image) for image in images]
        if counts != (found := placeholder.sum(1).tolist()):
            raise ValueError(f"rows have {found} <|extra_0|> placeholders but {counts} pictures")
        rows = [row for row, count in enumerate(counts) if count]
        features = nn.utils.rnn.pad_sequence([images[row] for row in rows], batch_first=True)  # [R, P, N, Dv]
        positions = nn.utils.rnn.pad_sequence(
            [placeholder[row].nonzero().flatten() for row in rows], batch_first=True, padding_value=NEVER
        )  # [R, P]
        return cls(torch.tensor(rows, device=features.device), features, positions, len(images), segments)

    @classmethod
    def joined(cls, parts: Sequence[Pictures]) -> Pictures:
        """Of the batch whose rows are those of ``parts``, one after the other, with equally many pictures in each."""
        firsts = accumulate((part.batch for part in parts[:-1]), initial=0)  # the first row of each part
        rows = torch.cat([part.rows + first for part, first in zip(parts, firsts, strict=True)])
        kept = {
            layer: (
                torch.cat([part.kept[layer][0] for part in parts]),
                torch.cat([part.kept[layer][1] for part in parts]),
            )
            for layer in parts[0].kept
        }
        features, positions = (torch.cat([getattr(p, name) for p in parts]) for name in ("features", "positions"))
        return cls(rows, features, positions, sum(part.batch for part in parts), kept=kept)

    def seen(self, length: int, past: int) -> torch.Tensor:
        """Which of ``length`` tokens, which follow ``past`` others, sees which picture: bool [R, T, P]."""
        index = torch.arange(past, past + length, device=self.positions.device)  # [T]
        seen = index[:, None] >= self.positions[:, None]  # [R, T, P]
        if self.segments is None:
            return seen
        own = self.segments[self.rows]  # [R, T]
        of_picture = own.gather(1, self.positions.clamp(max=length - 1))  # [R, P]
        return seen & sees(own[..., None], of_picture[:, None])

    def select(self, indices: torch.Tensor) -> Pictures:
        """Of the batch whose rows are ``indices`` [B'] of this one's."""
        number = self.rows.new_full((self.batch,), -1)
        number[self.rows] = torch.arange(len(self.rows), device=self.rows.device)
        chosen = number[indices.to(self.rows.device)]  # [B'], -1: a row without pictures
        rows = (chosen >= 0).nonzero().flatten()
        chosen = chosen[rows]
        kept = {layer: (keys[chosen], values[chosen]) for layer, (keys, values) in self.kept.items()}
        return Pictures(rows, self.features[chosen], self.positions[chosen], len(indices), kept=kept)


class PictureCache(DynamicCache):
    """The keys and values of words, as transformers keeps them, and those of the pictures that the words see."""

    pictures: Pictures | None = None

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        if self.pictures is not None:
            self.pictures = self.pictures.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        if self.pictures is not None:
            self.pictures = self.pictures.select(torch.arange(self.pictures.batch).repeat_interleave(repeats))


class GatedCrossAttention(nn.Module):
    """x + tanh(a) attention(LN(x), picture), and then x + tanh(b) MLP(LN(x)); the gates a and b start at 0."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD)
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.k_proj, self.v_proj = (nn.Linear(vision_width, width, bias=False) for _ in range(2))
        self.mlp = nn.Sequential(
            nn.Linear(width, INNER * width, bias=False), nn.GELU(), nn.Linear(INNER * width, width, bias=False)
        )
        self.attention_gate, self.mlp_gate = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def keys_values(self, features: torch.Tensor) -> KeysValues:
        """``features`` [R, P, N, Dv] -> keys and values [R, H, P * N, E]."""
        flat = features.flatten(1, 2)
        return self._split(self.k_proj(flat)), self._split(self.v_proj(flat))

    def forward(self, x: torch.Tensor, keys_values: KeysValues, seen: torch.Tensor) -> torch.Tensor:
        """``x`` [R, T, Dl] -> [R, T, Dl]. ``seen`` [R, T, P]: a token that sees no picture stays as it is."""
        keys, values = keys_values
        queries = self._split(self.q_proj(self.norm(x)))  # [R, H, T, E]
        any_seen = seen.any(-1, keepdim=True)  # [R, T, 1]
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=_mask(keys, seen))
        attended = self.o_proj(attended.transpose(1, 2).flatten(2))  # [R, T, Dl]
        new = x + self.attention_gate.tanh() * attended
        new = new + self.mlp_gate.tanh() * self.mlp(self.mlp_norm(new))
        return torch.where(any_seen, new, x)

    def weights(self, x: torch.Tensor, keys_values: KeysValues, seen: torch.Tensor) -> torch.Tensor:
        """How much each token attends to each feature of the pictures, the mean over the heads: [R, T, P * N]."""
        queries, keys = self._split(self.q_proj(self.norm(x))), keys_values[0]
        scores = queries @ keys.transpose(2, 3) * queries.shape[-1] ** -0.5  # [R, H, T, P * N]
        if (mask := _mask(keys, seen)) is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1).mean(1) * seen.any(-1, keepdim=True)

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        """[R, T, Dl] -> [R, H, T, E]."""
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _mask(keys: torch.Tensor, seen: torch.Tensor) -> torch.Tensor | None:
    """``seen`` [R, T, P] for each of ``keys`` [R, H, P * N, E]: [R, 1, T, P * N]; None for one picture.

    A query without keys would become NaN. So a token that sees no picture is given all of them.
    """
    pictures = seen.shape[-1]
    if pictures == 1:
        return None
    return (seen | ~seen.any(-1, keepdim=True)).repeat_interleave(keys.shape[2] // pictures, -1)[:, None]


class CrossAttentionConnector(Connector):
    """Gives the language model no visual tokens; its layers are run in front of every k-th decoder layer.

    Flamingo lets a token see the last picture before it, of which a resampler left 64 vectors. Here it sees every
    picture before it, since questions about two pictures show both first, and all their features. With closed gates
    nothing is added, so training starts from the plain language model.

    Args:
        vision_width: Dv, of the tower's features.
        language_width: Dl, of the language model's embeddings; heads are 64 wide.
        decoder_layers: of the language model.
        every: k.
        standardize: begin with statistics that change nothing (mean 0, deviation 1), to be set before training.

    Raises:
        UserError: the language model has fewer than ``every`` layers, or no whole number of heads is as wide as it.
    """

    name = "cross_attention"
    in_sequence = False
    needs_decoder_layers = True

    def __init__(
        self,
        vision_width: int,
        language_width: int,
        *,
        decoder_layers: int,
        every: int = 4,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        if every > decoder_layers:
            raise UserError(f"projector.every: {every}, but the language model has {decoder_layers} layers; set fewer")
        if language_width % max(1, language_width // HEAD):
            raise UserError(
                f"projector.kind = cross_attention: the language model's width {language_width} is not heads of one "
                "width; choose another kind"
            )
        self.every = every
        self.layers = nn.ModuleList(
            GatedCrossAttention(vision_width, language_width) for _ in range(decoder_layers // every)
        )
        self.start_statistics(vision_width, standardize)

    def attach(self, decoder_layers: nn.ModuleList) -> None:
        """Run each layer in front of its decoder layer from now on."""
        for number in range(len(self.layers)):
            decoder_layers[(number + 1) * self.every - 1].register_forward_pre_hook(
                partial(self._before, number), with_kwargs=True
            )

    def _before(
        self, number: int, module: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]] | None:
        """``pictures`` are a keyword of the decoder layer's in training, and those of its cache in answering."""
        cache = kwargs.get("past_key_values")
        pictures = cache.pictures if isinstance(cache, PictureCache) else kwargs.pop("pictures", None)
        if pictures is None or not len(pictures.rows):
            return None
        layer = cast(GatedCrossAttention, self.layers[number])
        hidden_states, *rest = args  # [B, T, Dl]
        if cache is None:  # gradient checkpointing computes everything twice alike, so nothing is kept
            past, keys_values = 0, layer.keys_values(pictures.features)
        else:
            past = cache.get_seq_length((number + 1) * self.every - 1)
            if number not in pictures.kept:
                pictures.kept[number] = layer.keys_values(pictures.features)
            keys_values = pictures.kept[number]
        everyone = len(pictures.rows) == len(hidden_states)
        own = hidden_states if everyone else hidden_states[pictures.rows]  # [R, T, Dl]
        new = layer(own.to(self.dtype), keys_values, pictures.seen(own.shape[1], past)).to(hidden_states.dtype)
        hidden_states = new if everyone else hidden_states.index_copy(0, pictures.rows, new)
        return (hidden_states, *rest), kwargs

    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        return features

    def num_tokens(self, grid: PatchGrid) -> int:
        return 1

    def token_grid(self, grid: PatchGrid) -> PatchGrid | None:
        return None

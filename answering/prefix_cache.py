"""Generating without computing anything twice: keys and values of what prompts share are kept.

With 728 visual tokens before every question, the picture is nearly all of a prompt. Here it goes through the encoder
and the language model once, for a batch of questions about it and for every follow-up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import Cache, DynamicCache, StaticCache

from model.model import MMultiModal

ROOM = 256  # a static cache holds a multiple of this many tokens: a compiled step serves one length of cache


@dataclass
class Kept:
    """What a call computed: the tokens whose keys and values are in ``cache``."""

    ids: list[int]
    cache: Cache


def generate_on_prefixes(
    model: MMultiModal,
    prompts: Sequence[list[int]],
    ends: Sequence[int],
    owners: Sequence[int],
    pixels: Sequence[torch.Tensor],
    pad_token_id: int,
    **options,
) -> torch.Tensor:
    """Ids of the answers [B, new] to ``prompts``, what they share computed once.

    Args:
        ends: for each prompt, the tokens up to the end of its last image: at least 1, fewer than it has.
        owners: for each prompt, which of ``pixels`` it shows.
        pixels: the images of each owner, [n, 3, H, W]; n may be 0.
        options: as for ``generate``.
    """
    numbers: dict[tuple, int] = {}  # (owner, the ids up to the end of its images) -> row of the prefix
    rows = [
        numbers.setdefault((owner, *prompt[:end]), len(numbers))
        for prompt, end, owner in zip(prompts, ends, owners, strict=True)
    ]
    first = [rows.index(number) for number in range(len(numbers))]  # a prompt that begins with each prefix
    prefixes, prefix_mask = _pad_left([prompts[i][: ends[i]] for i in first], pad_token_id, model.device)  # [P, T]
    cache = prefill(model, prefixes, prefix_mask, [pixels[owners[i]] for i in first])
    cache.batch_select_indices(torch.tensor(rows, device=model.device))
    endings = [prompt[end:] for prompt, end in zip(prompts, ends, strict=True)]
    rest, rest_mask = _pad_left(endings, pad_token_id, model.device)  # [B, S]
    return model.generate(
        input_ids=torch.cat([prefixes[rows], rest], 1),  # [B, T + S], padding in front of both parts
        attention_mask=torch.cat([prefix_mask[rows], rest_mask], 1),
        past_key_values=cache,
        **options,
    )


def generate_keeping(
    model: MMultiModal,
    prompt: list[int],
    end: int,
    pixels: Callable[[], torch.Tensor],
    kept: Kept | None,
    static: bool = False,
    **options,
) -> tuple[torch.Tensor, Kept]:
    """Ids of the answer [1, new], beginning behind what ``kept`` has in common with ``prompt``, and what to keep next.

    ``kept`` must come from a call with the same images (or hold no ids), and is used up. Where it does not reach to
    ``end``, the end of the last image, everything is computed anew; only then is ``pixels`` called for the images,
    [n, 3, H, W]. ``static`` decodes into a cache of fixed length, with which transformers compiles the step on CUDA;
    its memory is that of ``kept`` where that has the room, since a compiled step is bound to its addresses.
    """
    ids, mask = _pad_left([prompt], 0, model.device)  # [1, T], nothing to pad
    cache = resume(model, prompt, end, pixels, kept)
    if static:
        cache = to_static(model, cache, len(prompt) + options["max_new_tokens"], kept.cache if kept else None)
    new = model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache, **options)
    return new, Kept((prompt + new[0].tolist())[: int(cache.get_seq_length())], cache)


def resume(
    model: MMultiModal, ids: list[int], end: int, pixels: Callable[[], torch.Tensor], kept: Kept | None
) -> Cache:
    """Keys and values of a beginning of ``ids`` that reaches at least to ``end``: of ``kept`` where it does, else new.

    At least the last token is left to be computed.
    """
    common = len(os.path.commonprefix([kept.ids, ids[:-1]])) if kept is not None else 0
    if common < end:
        first, mask = _pad_left([ids[:end]], 0, model.device)
        return prefill(model, first, mask, [pixels()])
    forget_behind(kept.cache, common)
    return kept.cache


@torch.inference_mode()
def prefill(
    model: MMultiModal, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixels: Sequence[torch.Tensor]
) -> DynamicCache:
    """Keys and values of ``input_ids`` [P, T], of which row p shows ``pixels[p]`` [n, 3, H, W]."""
    shown = [images for images in pixels if len(images)]
    cache = DynamicCache(config=model.language.config)
    model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
        pixel_values=torch.cat(shown) if shown else None,  # [K, 3, H, W]
        images_per_row=torch.tensor([len(images) for images in pixels]),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,  # a row of logits is 151,936 wide, and none of them is wanted
    )
    return cache


def forget_behind(cache: Cache, length: int) -> None:
    """Keep the first ``length`` tokens of a cache."""
    if isinstance(cache, StaticCache):  # which cannot be cropped; what stands behind is masked, then overwritten
        for layer in cache.layers:
            layer.cumulative_length.fill_(length)
    elif surplus := cache.get_seq_length() - length:
        cache.crop(-surplus)


def to_dynamic(model: MMultiModal, cache: Cache) -> DynamicCache:
    """A copy of a static cache that can grow."""
    length, dynamic = int(cache.get_seq_length()), DynamicCache(config=model.language.config)
    for number, layer in enumerate(cache.layers):
        dynamic.update(layer.keys[:, :, :length], layer.values[:, :, :length], number)
    return dynamic


def to_static(model: MMultiModal, cache: Cache, tokens: int, storage: Cache | None = None) -> StaticCache:
    """The same keys and values in a cache of fixed length with room for ``tokens``, in ``storage`` if that is one."""
    if isinstance(cache, StaticCache) and cache.layers[0].max_cache_len >= tokens:
        return cache
    length = int(cache.get_seq_length())
    if isinstance(storage, StaticCache) and storage.layers[0].max_cache_len >= tokens:
        static = storage
        forget_behind(static, 0)
    else:
        static = StaticCache(config=model.language.config, max_cache_len=-(-tokens // ROOM) * ROOM)
    for number, layer in enumerate(cache.layers):
        static.update(layer.keys[:, :, :length], layer.values[:, :, :length], number)
    return static


def _pad_left(rows: Sequence[list[int]], pad: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [B, T]."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask

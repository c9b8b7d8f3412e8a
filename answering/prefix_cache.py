"""Generating on a prefix cache: the keys and values of what prompts share are computed once.

With 728 visual tokens before every question, the picture is nearly all of a prompt. It goes through the encoder and
the language model once, for a batch of questions about it and for every follow-up question. A prompt that shares
nothing goes through in one pass.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from transformers import Cache, DynamicCache, StaticCache

from answering.decoding import count_no_padding
from answering.graphs import Graphs, StaticBatch
from model.connectors.cross_attention import PictureCache, Pictures
from model.model import MMultiModal

# More prefixes than this go through the model together, without graphs: the GPU then computes for longer than launching
# takes. One by one, 40 questions about 40 pictures took 1.2 times as long on an H200 as in one pass.
MOST_ONE_BY_ONE = 2


@dataclass
class PrefixCache:
    """The keys and values that a call computed, and the tokens they belong to."""

    ids: list[int]
    cache: Cache


def generate_on_prefixes(
    model: MMultiModal,
    prompts: Sequence[list[int]],
    ends: Sequence[int],
    owners: Sequence[int],
    pixels: Sequence[torch.Tensor],
    pad_token_id: int,
    graphs: Graphs | None = None,
    **options,
) -> torch.Tensor:
    """Ids [B, new] of the answers to ``prompts``; what prompts share is computed once.

    Args:
        ends: for each prompt, the number of tokens up to the end of its last image; at least 1, fewer than all.
        owners: for each prompt, the index in ``pixels`` of the images it shows.
        pixels: groups of images, each [n, 3, H, W]; n may be 0.
        graphs: what computes it, if it can: beams need transformers' own way.
        options: as for ``generate``.
    """
    prefix_rows: dict[tuple[int, ...], int] = {}  # (owner, ids up to the end of its images) -> row of the prefix
    rows = [
        prefix_rows.setdefault((owner, *prompt[:end]), len(prefix_rows))
        for prompt, end, owner in zip(prompts, ends, owners, strict=True)
    ]
    if _recorded(graphs, prompts, options):
        return _fill_batch(graphs, prompts, ends, rows, [pixels[owner] for owner in owners], pad_token_id, options)
    if len(prefix_rows) == len(prompts) and options.get("num_beams", 1) == 1:
        ids, mask = _pad_left(prompts, pad_token_id, model.device)  # [B, T]
        shown = _shown([pixels[owner] for owner in owners])
        return model.generate(input_ids=ids, attention_mask=mask, **shown, **_unpadded(options, mask))
    first = [rows.index(row) for row in range(len(prefix_rows))]  # for each prefix, the first prompt with it
    prefixes, prefix_mask = _pad_left([prompts[i][: ends[i]] for i in first], pad_token_id, model.device)  # [P, T]
    cache = prefill(model, prefixes, prefix_mask, [pixels[owners[i]] for i in first])
    # Beams need a row each, and generate repeats every input but the cache.
    cache.batch_select_indices(torch.tensor(rows, device=model.device).repeat_interleave(options.get("num_beams", 1)))
    endings = [prompt[end:] for prompt, end in zip(prompts, ends, strict=True)]
    return _generate_after(model, prefixes[rows], prefix_mask[rows], cache, endings, pad_token_id, **options)


def generate_on_rows(
    model: MMultiModal,
    prompts: Sequence[list[int]],
    end: int,
    caches: Sequence[Cache],
    pad_token_id: int,
    graphs: Graphs | None = None,
    **options,
) -> torch.Tensor:
    """Ids [B, new] of the answers to ``prompts``, of which ``caches`` hold the first ``end`` tokens.

    Each cache has one row, and stays as it is.
    """
    if _recorded(graphs, prompts, options):
        batch = graphs.batch(len(prompts), max(map(len, prompts)) + options["max_new_tokens"])
        batch.clear(0)
        batch.take_in(join_rows(caches), end)
        _read_endings(graphs, batch, prompts, [end] * len(prompts))
        return _answer_in(batch, prompts, pad_token_id, options)
    prefixes = torch.tensor([prompt[:end] for prompt in prompts], device=model.device)  # [B, end]
    endings = [prompt[end:] for prompt in prompts]
    cache = join_rows(caches)
    return _generate_after(model, prefixes, torch.ones_like(prefixes), cache, endings, pad_token_id, **options)


def _generate_after(
    model: MMultiModal,
    prefixes: torch.Tensor,
    prefix_mask: torch.Tensor,
    cache: Cache,
    endings: Sequence[list[int]],
    pad_token_id: int,
    **options,
) -> torch.Tensor:
    """Ids [B, new] of the answers to ``prefixes`` [B, T], which are in ``cache``, with ``endings`` after them."""
    rest, rest_mask = _pad_left(endings, pad_token_id, model.device)  # [B, S]
    mask = torch.cat([prefix_mask, rest_mask], 1)  # [B, T + S]
    return model.generate(
        input_ids=torch.cat([prefixes, rest], 1),  # [B, T + S], both parts padded on the left
        attention_mask=mask,
        past_key_values=cache,
        **_unpadded(options, mask),
    )


def _unpadded(options: dict[str, Any], mask: torch.Tensor) -> dict[str, Any]:
    """Options of ``generate`` with which the padding of ``mask`` [B, T] does not count as text."""
    return options if mask.all() else count_no_padding(options, mask)


def _shown(pixels: Sequence[torch.Tensor]) -> dict[str, torch.Tensor | None]:
    """The model's arguments for rows that show ``pixels``, for each row [n, 3, H, W]."""
    shown = [images for images in pixels if len(images)]
    return {
        "pixel_values": torch.cat(shown) if shown else None,  # [K, 3, H, W]
        "images_per_row": torch.tensor([len(images) for images in pixels]),
    }


def generate_cached(
    model: MMultiModal,
    prompt: list[int],
    end: int,
    pixels: Callable[[], torch.Tensor],
    prefix: PrefixCache | None,
    graphs: Graphs | None = None,
    **options,
) -> tuple[torch.Tensor, PrefixCache]:
    """Ids [1, new] of the answer, and the prefix cache for the next call.

    What ``prefix`` has in common with ``prompt`` is not computed again. ``prefix`` must come from a call with the same
    images (or hold no ids), and must not be used again. If it does not reach to ``end``, the end of the last image,
    everything is computed; only then is ``pixels`` called for the images, [n, 3, H, W].

    With ``graphs``, the new prefix cache is in their memory: the next call with them overwrites it, unless it is given
    as ``prefix``.
    """
    if _recorded(graphs, [prompt], options):
        return _generate_in_batch(graphs, prompt, end, pixels, prefix, options)
    ids, mask = _pad_left([prompt], 0, model.device)  # [1, T], without padding
    beams, shown = options.get("num_beams", 1), {}
    if beams == 1 and _common(prefix, prompt, end) == 0:
        cache, shown = model.new_cache(), _shown([pixels()])
    else:
        cache = prefix_of(model, prompt, end, pixels, prefix)
    if isinstance(cache, StaticCache):
        cache = to_dynamic(model, cache)
    if beams > 1:  # generate repeats every input but the cache
        cache.batch_repeat_interleave(beams)
    new = model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache, **shown, **options)
    if beams > 1:  # the rows are those of the last step; only the prompt is the same in all
        crop(cache, len(prompt))
        cache.batch_select_indices(torch.zeros(1, dtype=torch.long, device=model.device))
    return new, PrefixCache((prompt + new[0].tolist())[: int(cache.get_seq_length())], cache)


def prefix_of(
    model: MMultiModal, ids: list[int], end: int, pixels: Callable[[], torch.Tensor], prefix: PrefixCache | None
) -> Cache:
    """Keys and values of a prefix of ``ids`` that reaches at least to ``end``, taken from ``prefix`` if it does.

    At least the last token of ``ids`` is left out: ``generate`` needs one to compute.
    """
    if prefix is not None and (common := _common(prefix, ids, end)):
        crop(prefix.cache, common)
        return prefix.cache
    first, mask = _pad_left([ids[:end]], 0, model.device)  # [1, end]
    return prefill(model, first, mask, [pixels()])


def _common(prefix: PrefixCache | None, ids: list[int], end: int) -> int:
    """How many tokens of ``ids`` are taken from ``prefix``: at least ``end`` and never all; 0 if it has no ``end``."""
    common = 0 if prefix is None else len(os.path.commonprefix([prefix.ids, ids[:-1]]))
    return common if common >= end else 0


@torch.inference_mode()
def prefill(
    model: MMultiModal, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixels: Sequence[torch.Tensor]
) -> DynamicCache:
    """Keys and values of ``input_ids`` [P, T], of which row p shows ``pixels[p]`` [n, 3, H, W]."""
    return _prefill(model, input_ids, attention_mask, pixels)[0]


def _prefill(
    model: MMultiModal, input_ids: torch.Tensor, attention_mask: torch.Tensor, pixels: Sequence[torch.Tensor]
) -> tuple[DynamicCache, torch.Tensor]:
    """What :func:`prefill` gives, and the logits [P, V] after the last tokens."""
    cache = model.new_cache()
    output = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
        **_shown(pixels),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,  # a row of logits is 151,936 wide
    )
    return cache, output.logits[:, -1]


# ---------------------------------------------------------------------------------------------- with CUDA graphs


def _recorded(graphs: Graphs | None, prompts: Sequence[list[int]], options: dict[str, Any]) -> TypeGuard[Graphs]:
    """Whether ``graphs`` answer ``prompts``."""
    if graphs is None or options.get("num_beams", 1) > 1:
        return False
    return graphs.fit(max(map(len, prompts)) + options["max_new_tokens"])


def _generate_in_batch(
    graphs: Graphs,
    prompt: list[int],
    end: int,
    pixels: Callable[[], torch.Tensor],
    prefix: PrefixCache | None,
    options: dict[str, Any],
) -> tuple[torch.Tensor, PrefixCache]:
    """:func:`generate_cached` with ``graphs``."""
    batch = graphs.batch(1, len(prompt) + options["max_new_tokens"])
    if prefix is not None and (common := _common(prefix, prompt, end)):
        batch.take_in(prefix.cache, common)
        _read_endings(graphs, batch, [prompt], [common])
    else:
        batch.read_first(graphs.embed(prompt, pixels()))
    new = _answer_in(batch, [prompt], 0, options)
    said = (prompt + new[0].tolist())[:-1]  # nobody reads the last token: an answer ends with it
    batch.lengths.fill_(len(said))
    return new, PrefixCache(said, batch.cache)


@torch.no_grad()
def _fill_batch(
    graphs: Graphs,
    prompts: Sequence[list[int]],
    ends: Sequence[int],
    rows: Sequence[int],
    pixels: Sequence[torch.Tensor],
    pad_token_id: int,
    options: dict[str, Any],
) -> torch.Tensor:
    """:func:`generate_on_prefixes` with ``graphs``; for each prompt, ``rows`` has the number of its prefix.

    A prompt that shares nothing goes through whole.
    """
    alone = len(set(rows)) == len(rows)
    done = list(map(len, prompts)) if alone else list(ends)  # tokens that go through as a prefix
    rest = 0 if alone else max(len(prompt) - end for prompt, end in zip(prompts, ends, strict=True))
    batch = graphs.batch(len(prompts), max(done) + rest + options["max_new_tokens"])
    prefixes = [prompt[:number] for prompt, number in zip(prompts, done, strict=True)]
    if len(set(rows)) > MOST_ONE_BY_ONE:
        _read_together(graphs, batch, prefixes, rows, pixels, pad_token_id)
    else:
        _read_one_by_one(graphs, batch, prefixes, rows, pixels)
    if alone:
        batch.end_at(max(done), done)
    else:
        _read_endings(graphs, batch, prompts, ends)
    return _answer_in(batch, prompts, pad_token_id, options)


def _read_together(
    graphs: Graphs,
    batch: StaticBatch,
    prefixes: Sequence[list[int]],
    rows: Sequence[int],
    pixels: Sequence[torch.Tensor],
    pad_token_id: int,
) -> None:
    """Read prefixes in one pass, each once; all end at the same slot."""
    first = [rows.index(row) for row in dict.fromkeys(rows)]  # row 0, 1, ...
    ids, mask = _pad_left([prefixes[number] for number in first], pad_token_id, graphs.model.device)  # [P, T]
    cache, logits = _prefill(graphs.model, ids, mask, [pixels[number] for number in first])
    of_prompts = torch.tensor(rows, device=ids.device)
    cache.batch_select_indices(of_prompts)
    batch.clear(ids.shape[1])
    batch.take_in(cache, ids.shape[1])
    batch.logits.copy_(logits[of_prompts])


def _read_one_by_one(
    graphs: Graphs,
    batch: StaticBatch,
    prefixes: Sequence[list[int]],
    rows: Sequence[int],
    pixels: Sequence[torch.Tensor],
) -> None:
    """Read prefixes with one graph, each once; all end at the same slot."""
    longest = max(map(len, prefixes))
    if batch.rows == 1:
        return batch.read_first(graphs.embed(prefixes[0], pixels[0]))
    single = graphs.batch(1, longest)
    batch.clear(0)
    for row in dict.fromkeys(rows):
        same = [number for number, other in enumerate(rows) if other == row]
        tokens = len(prefixes[same[0]])
        single.read_first(graphs.embed(prefixes[same[0]], pixels[same[0]]))
        for number in same:
            batch.copy_row(number, single, longest - tokens, tokens)


def _read_endings(graphs: Graphs, batch: StaticBatch, prompts: Sequence[list[int]], ends: Sequence[int]) -> None:
    """Read what comes after the first ``ends`` tokens of ``prompts``, which are in the batch and end at max(ends).

    The endings are padded on the left. Then a row's first tokens move to where its ending begins.
    """
    at = max(ends)
    endings = [prompt[end:] for prompt, end in zip(prompts, ends, strict=True)]
    ids, mask = _pad_left(endings, 0, graphs.model.device)  # [B, S]
    width = ids.shape[1]
    seen = torch.ones(batch.rows, batch.length, dtype=torch.bool)
    for row, (end, ending) in enumerate(zip(ends, endings, strict=True)):
        seen[row, : at - end] = False
        seen[row, at : at + width - len(ending)] = False
    batch.seen.copy_(seen)
    after = torch.tensor(ends, device=ids.device)[:, None]  # [B, 1]
    batch.read(graphs.embed_ids(ids), at, after + (mask.cumsum(1) - 1).clamp(min=0))
    for row, (end, ending) in enumerate(zip(ends, endings, strict=True)):
        if gap := width - len(ending):
            batch.move_row(row, at - end, at, gap)
    batch.end_at(at + width, list(map(len, prompts)))


def _answer_in(
    batch: StaticBatch, prompts: Sequence[list[int]], pad_token_id: int, options: dict[str, Any]
) -> torch.Tensor:
    """Ids [B, new] of the answers to prompts that a batch holds."""
    ids, mask = _pad_left(prompts, pad_token_id, torch.device("cpu"))  # [B, T]
    return batch.answer(ids, mask, **_unpadded(options, mask))


# ---------------------------------------------------------------------------------------------- caches


def take_row(cache: Cache, row: int) -> Cache:
    """A copy of one row of a cache."""
    taken = _with_own_layers(cache)
    taken.batch_select_indices(torch.tensor([row], device=cache.layers[0].keys.device))
    return taken


def join_rows(caches: Sequence[Cache]) -> Cache:
    """A copy of caches of equal length as the rows of one. Either all of them show pictures, or none does."""
    joined = _with_own_layers(caches[0])
    for number, layer in enumerate(joined.layers):
        layer.keys = torch.cat([cache.layers[number].keys for cache in caches])
        layer.values = torch.cat([cache.layers[number].values for cache in caches])
    if isinstance(joined, PictureCache) and joined.pictures is not None:
        joined.pictures = Pictures.joined([cache.pictures for cache in caches])
    return joined


def _with_own_layers(cache: Cache) -> Cache:
    """The same cache, of which layers can be changed and the tensors are shared."""
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]
    return other


def bytes_of(cache: Cache) -> int:
    """The memory of the keys and values of a cache."""
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    if isinstance(cache, PictureCache) and cache.pictures is not None:
        tensors += [cache.pictures.features, *(one for pair in cache.pictures.kept.values() for one in pair)]
    return sum(tensor.nbytes for tensor in tensors)


def crop(cache: Cache, length: int) -> None:
    """Keep the first ``length`` tokens of a cache."""
    if isinstance(cache, StaticCache):  # cannot be cropped; what comes after is masked, then overwritten
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


def _pad_left(rows: Sequence[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [B, T]."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask

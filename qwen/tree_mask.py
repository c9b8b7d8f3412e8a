"""Masks of message trees, one for each attention that can take them.

A tree's row of tokens holds a root (a picture and what else its conversations share) and, after it, a branch for each
conversation. ``segments`` [B, T] says which is which.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from qwen.tokenizer import IGNORE_INDEX
from qwen.tree_attention import NAME as TREE_ATTENTION
from qwen.tree_attention import TreeLayout

FLEX_BLOCK = 128  # FlexAttention's kernels go by blocks of this many tokens, and its backward wants whole ones


def tree_mask(segments: torch.Tensor) -> torch.Tensor:
    """Who sees whom in a message tree: ``segments`` [B, T] int64 -> bool [B, 1, T, T], True where attended.

    0 is the root, which every branch 1, 2, ... of its row sees; a branch sees itself besides, and no other. -1 is
    padding, which sees the padding before it: a row that sees nothing would be NaN.
    """
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]  # [B, T, T], query by key
    of_root = (segments == 0)[:, None, :] & (segments >= 0)[:, :, None]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return ((same | of_root) & causal)[:, None]


def tree_block_mask(segments: torch.Tensor) -> BlockMask:
    """:func:`tree_mask` for FlexAttention, which skips the blocks where no branch sees another; T in whole blocks."""

    def attended(row, head, query, key):
        own, other = segments[row, query], segments[row, key]
        return (query >= key) & ((own == other) | ((other == 0) & (own >= 0)))

    rows, length = segments.shape
    return create_block_mask(attended, rows, None, length, length, device=segments.device, BLOCK_SIZE=FLEX_BLOCK)


def fill_blocks(inputs: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor]:
    """A labelled batch for FlexAttention: ``segments`` and ``position_ids`` filled in, all [B, T] to whole blocks.

    Takes ``input_ids``, ``labels``, ``attention_mask``, ``segments`` and ``position_ids``; gives all but the mask.
    """
    ids, segments, positions = inputs["input_ids"], inputs["segments"], inputs["position_ids"]
    if segments is None:
        mask = inputs["attention_mask"]
        segments = torch.zeros_like(ids) if mask is None else mask - 1  # all root; padding is -1
    if positions is None:
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    wanted = {
        "input_ids": (ids, 0),
        "labels": (inputs["labels"], IGNORE_INDEX),
        "segments": (segments, -1),
        "position_ids": (positions, 0),
    }
    more = -ids.shape[1] % FLEX_BLOCK
    return {name: F.pad(tensor, (0, more), value=fill) for name, (tensor, fill) in wanted.items()}


def check_mask(
    mask: torch.Tensor | BlockMask | TreeLayout | None, implementation: str, position_ids: torch.Tensor | None
) -> None:
    """A mask of the wrong kind does not fail in transformers 5: it gives another loss, silently.

    Raises:
        ValueError: with the mask's kind and what this attention takes.
    """
    if isinstance(mask, TreeLayout):
        if implementation != TREE_ATTENTION:
            raise ValueError(f"a TreeLayout cannot be used with {implementation!r} attention")
        return
    if isinstance(mask, BlockMask) != (implementation == "flex_attention"):
        raise ValueError(f"a {type(mask).__name__} mask cannot be used with {implementation!r} attention")
    if isinstance(mask, torch.Tensor) and mask.ndim == 4:
        takes = {
            "sdpa": (torch.bool,),
            TREE_ATTENTION: (torch.bool,),
            "eager": (torch.float64, torch.float32, torch.bfloat16, torch.float16),
        }
        if mask.dtype not in takes.get(implementation, ()):
            raise ValueError(f"a {mask.dtype} mask [B, 1, T, T] cannot be used with {implementation!r} attention")
    elif position_ids is not None and bool((position_ids.diff() < 0).any()) and not isinstance(mask, BlockMask):
        # Restarting positions without such a mask are taken for packed rows: a branch would lose its root.
        raise ValueError("position_ids restart, so a mask [B, 1, T, T] of the branches is needed")

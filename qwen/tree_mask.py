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
from qwen.tree_attention import TreeLayout, sees

FLEX_BLOCK = 128  # FlexAttention's kernels go by blocks of this many tokens, and its backward wants whole ones


def tree_mask(segments: torch.Tensor) -> torch.Tensor:
    """Which token attends to which in a message tree: ``segments`` [B, T] int64 -> bool [B, 1, T, T], query by key.

    0 is the root, which every branch 1, 2, ... of its row sees. A branch also sees itself, and no other branch. Further
    trees of the row follow in steps of TREE_STRIDE, and no tree sees another. -1 is padding.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return (sees(segments[:, :, None], segments[:, None, :]) & causal)[:, None]


def tree_block_mask(segments: torch.Tensor) -> BlockMask:
    """:func:`tree_mask` for FlexAttention, which skips blocks that are all False. T is a multiple of FLEX_BLOCK."""

    def attended(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (query >= key) & sees(segments[row, query], segments[row, key])

    rows, length = segments.shape
    return create_block_mask(attended, rows, None, length, length, device=segments.device, BLOCK_SIZE=FLEX_BLOCK)


def fill_blocks(
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    segments: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A labelled batch for FlexAttention, all [B, T]: ids, labels, segments and positions, padded to whole blocks.

    Without ``segments``, all that ``attention_mask`` does not mark as padding is root.
    """
    if segments is None:
        segments = torch.zeros_like(input_ids) if attention_mask is None else attention_mask - 1  # padding is -1
    if position_ids is None:
        position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    more = -input_ids.shape[1] % FLEX_BLOCK
    return (
        F.pad(input_ids, (0, more), value=0),
        F.pad(labels, (0, more), value=IGNORE_INDEX),
        F.pad(segments, (0, more), value=-1),
        F.pad(position_ids, (0, more), value=0),
    )


def check_mask(
    mask: torch.Tensor | BlockMask | TreeLayout | None, implementation: str, position_ids: torch.Tensor | None
) -> None:
    """Refuse a mask that the attention would misread: in transformers 5 it does not fail but gives a wrong loss.

    Raises:
        ValueError: names the kind of the mask and the attention.
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
        # transformers takes positions that restart for packed rows, so a branch would not see its root.
        raise ValueError("position_ids restart, so a mask [B, 1, T, T] of the branches is needed")

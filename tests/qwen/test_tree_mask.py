"""Which token of a message tree sees which."""

from __future__ import annotations

import pytest
import torch

from dataset.collate import PADDING
from qwen.tokenizer import TREE_STRIDE
from qwen.tree_mask import check_mask, tree_block_mask, tree_mask


def test_mask_lets_a_branch_see_the_root_and_itself():
    mask = tree_mask(torch.tensor([[0, 1, 1, 2, PADDING]]))
    assert mask.shape == (1, 1, 5, 5) and mask.dtype == torch.bool
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]


def test_trees_of_one_row_do_not_see_each_other():
    one, other = [0, 0, 1, 2], [0, 1, 1]
    packed = tree_mask(torch.tensor([[*one, *(TREE_STRIDE + segment for segment in other), PADDING]]))[0, 0]
    wanted = torch.block_diag(
        *(tree_mask(torch.tensor([tree]))[0, 0].int() for tree in (one, other)), torch.ones(1, 1, dtype=torch.int)
    )
    assert torch.equal(packed.int(), wanted)


def test_a_mask_of_the_wrong_kind_is_refused():
    mask, restart = torch.ones(1, 1, 3, 3, dtype=torch.bool), torch.tensor([[0, 1, 1, 0]])
    check_mask(mask, "sdpa", None)
    check_mask(mask.float(), "eager", None)
    for kind, implementation in ((mask, "eager"), (mask.float(), "sdpa"), (mask, "flash_attention_2")):
        with pytest.raises(ValueError, match=f"mask .* cannot be used with '{implementation}'"):
            check_mask(kind, implementation, None)
    for flat in (None, torch.ones(1, 4)):
        with pytest.raises(ValueError, match="position_ids restart"):
            check_mask(flat, "sdpa", restart)
    check_mask(None, "sdpa", torch.tensor([[0, 1, 2, 3]]))
    blocks = tree_block_mask(torch.zeros(1, 128, dtype=torch.long))
    check_mask(blocks, "flex_attention", restart)
    for kind, implementation in ((blocks, "sdpa"), (mask, "flex_attention"), (None, "flex_attention")):
        with pytest.raises(ValueError, match=f"mask cannot be used with '{implementation}'"):
            check_mask(kind, implementation, None)


def test_block_mask_is_the_tree_mask():
    packed = [0, 1, TREE_STRIDE, TREE_STRIDE, TREE_STRIDE + 1, 2 * TREE_STRIDE + 1, 3 * TREE_STRIDE, PADDING]
    segments = torch.tensor([[0, 0, 1, 1, 2, PADDING, PADDING, PADDING], packed]).repeat_interleave(32, 1)
    blocks = tree_block_mask(segments)
    rows, query, key = (torch.arange(n) for n in (2, 256, 256))
    dense = blocks.mask_mod(rows[:, None, None], torch.tensor(0), query[None, :, None], key[None, None, :])
    assert torch.equal(dense, tree_mask(segments)[:, 0])
    assert blocks.shape == (2, 1, 256, 256) and blocks.sparsity() > 0

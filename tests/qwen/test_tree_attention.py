"""Tree attention: its parts, joined, are attention with the tree's mask, and so are their gradients."""

from __future__ import annotations

import pytest
import torch

from qwen.tokenizer import TREE_STRIDE
from qwen.tree_attention import tree_attention, tree_layout
from qwen.tree_mask import tree_mask

needs_flash = pytest.mark.skipif(not torch.cuda.is_available(), reason="flash kernels need CUDA")
S = TREE_STRIDE
SEGMENTS = {
    "two trees and padding": [[0, 0, 0, 1, 1, 2, 2, 2, -1, -1], [0, 0, 1, 1, 1, 1, 2, 3, 3, 3]],
    "a row without branches": [[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 2, 2]],
    "branches without a root": [[1, 1, 2, 2, 2, 3], [0, 0, 0, 1, 2, 2]],
    "no root at all": [[1, 1, 2, 2, -1, -1]],
    "packed": [
        [0, 0, 1, 1, 2, S, S, S, S + 1, S + 2, S + 2, 2 * S + 1, 2 * S + 1, 3 * S, 3 * S + 1, -1],
        [1, 1, 1, S, S, S + 1, S + 1, 2 * S, 2 * S, 2 * S, 3 * S, 3 * S + 1, 3 * S + 1, 3 * S + 2, -1, -1],
    ],
}


def attention_with_mask(query, key, value, segments, scale):
    """[B, T, H, E] through SDPA and the boolean mask of the tree."""
    states = [states.transpose(1, 2) for states in (query, key, value)]
    mask = tree_mask(segments)
    out = torch.nn.functional.scaled_dot_product_attention(*states, attn_mask=mask, scale=scale, enable_gqa=True)
    return out.transpose(1, 2)


def states_of(segments, heads, groups, width, dtype, device="cpu"):
    torch.manual_seed(0)
    shapes = ((*segments.shape, count, width) for count in (heads, groups, groups))
    return [torch.randn(shape, dtype=dtype, device=device, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("segments", SEGMENTS.values(), ids=SEGMENTS)
@pytest.mark.parametrize("heads, groups", [(4, 4), (6, 2)])
def test_outputs_and_gradients_are_those_with_the_mask(segments, heads, groups):
    segments = torch.tensor(segments)
    states = states_of(segments, heads, groups, 8, torch.float64)
    weights = torch.randn(*segments.shape, heads, 8, dtype=torch.float64)
    weights[segments < 0] = 0  # nothing reads the output at padding
    own = tree_attention(*states, tree_layout(segments), 0.3)
    other = attention_with_mask(*states, segments, 0.3)
    real = segments >= 0
    torch.testing.assert_close(own[real], other[real], rtol=1e-12, atol=1e-12)
    mine = torch.autograd.grad((own * weights).sum(), states)
    theirs = torch.autograd.grad((other * weights).sum(), states)
    for one, two in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_the_operator_is_what_torch_asks_of_one():
    layout = tree_layout(torch.tensor(SEGMENTS["two trees and padding"]))
    query, key, value = states_of(torch.empty(1, len(layout.branches)), 6, 2, 8, torch.float32)
    _, *of_root = states_of(torch.empty(1, 5), 6, 2, 8, torch.float32)
    flat = [states.detach().flatten(0, 1).requires_grad_() for states in (query, key, value, *of_root)]
    bounds = (layout.branch_bounds, layout.tree_bounds, layout.root_bounds)
    torch.library.opcheck(torch.ops.vlm.branch_attention, (*flat, *bounds, *layout.longest, 0.3))


def test_rows_of_one_tree_are_cut_where_the_longest_root_ends():
    layout = tree_layout(torch.tensor([[0, 0, 0, 1, 2, -1], [0, 1, 1, 1, 2, 2], [0, 0, -1, -1, -1, -1]]))
    assert layout.length == 3
    assert layout.dense is None and layout.alone is None
    assert layout.branches.tolist() == [3, 4, 7, 8, 9, 10, 11]
    assert layout.branch_bounds.tolist() == [0, 1, 2, 5, 7]
    assert layout.tree_bounds.tolist() == [0, 2, 7]
    assert layout.roots.tolist() == [0, 1, 2, 3]  # of the dense batch [3, 3]; the last row has no branch
    assert layout.root_bounds.tolist() == [0, 3, 4]
    assert layout.longest == (128, 128, 128)


def test_roots_elsewhere_in_a_row_are_gathered():
    layout = tree_layout(torch.tensor([[0, 0, 1, S, S + 1, S + 1], [1, 1, 1, S, S, -1]]))
    assert layout.length == 3
    assert layout.dense.tolist() == [0, 1, 1, 3, 3, 3, 6, 7, 8, 9, 10, 10]
    assert [part.tolist() for part in layout.alone] == [[0, 1, 3, 6, 7, 8, 9, 10], [0, 1, 3, 6, 7, 8, 9, 10]]
    assert layout.branches.tolist() == [2, 4, 5]
    assert layout.roots.tolist() == [0, 1, 3]
    assert layout.root_bounds.tolist() == [0, 2, 3]


def test_roots_of_equal_length_need_no_index():
    layout = tree_layout(torch.tensor([[0, 0, 1, 2], [0, 0, 1, 1]]))
    assert layout.dense is None and layout.roots is None
    assert layout.root_bounds.tolist() == [0, 2, 4]


@needs_flash
@pytest.mark.parametrize("heads, groups, width", [(12, 2, 128), (14, 2, 64), (28, 4, 128)])
def test_flash_kernels_give_the_masks_result_to_bf16(heads, groups, width):
    segments = torch.tensor([[0] * 700 + [1] * 30 + [2] * 33 + [-1] * 5, [0] * 600 + [1] * 100 + [2] * 40 + [3] * 28])
    segments = segments.cuda()
    states = states_of(segments, heads, groups, width, torch.bfloat16, "cuda")
    exact = [tensor.detach().double().requires_grad_() for tensor in states]
    real = segments >= 0
    own = tree_attention(*states, tree_layout(segments), width**-0.5)
    other = attention_with_mask(*exact, segments, width**-0.5)
    weights = torch.randn_like(own) * real[..., None, None]
    pairs = [(own[real], other[real])]
    mine = torch.autograd.grad((own * weights).sum(), states)
    pairs += zip(mine, torch.autograd.grad((other * weights.double()).sum(), exact), strict=True)
    for one, two in pairs:  # bf16 keeps 8 bits: 2 ** -8 = 0.004 of a value
        assert (one.double() - two).norm() < 0.01 * two.norm()

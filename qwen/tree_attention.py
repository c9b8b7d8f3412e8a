"""Exact attention over message trees with flash kernels: no mask, no masked-out blocks.

A boolean mask [B, 1, T, T] keeps SDPA off its flash kernels. But a tree is three problems without a mask, because a
branch sees the whole root and, causally, itself:

    roots     each root attends causally to itself: one dense batch, for SDPA's fastest kernel (on Hopper cuDNN's, which
              takes half the time of FlashAttention 2: 1.1 instead of 2.2 ms forward and backward on an H200)
    own       each branch attends causally to itself
    to root   the branches of a tree attend to all of its root

The last two give an output and the log-sum-exp of their scores, and ``out = sum_i exp(lse_i - lse) * out_i`` with
``lse = logsumexp_i lse_i`` joins them exactly. In the backward pass each of them calls the flash backward kernel with
the joined ``out`` and ``lse``: dS = P * (dP - rowsum(dO * O)) with P = exp(S - lse) needs nothing else. Ring attention
(Liu et al. 2023, arXiv:2310.01889) splits attention over keys in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from qwen.tokenizer import TREE_STRIDE

NAME = "tree_attention"
# The longest lengths only size the kernels' grid. Rounded up, they take few values, and each value that a compiled
# layer sees is another compilation.
ROUND = 128


@dataclass
class TreeLayout:
    """Where the segments of a batch lie in its B * T flattened tokens; on the model's device.

    The roots, and the branches without one, form a dense batch [A, L]. Shorter ones are padded on the right, where
    causal attention does not see the padding.

    Attributes:
        ids: [B, T] int64, the segment of each token (:func:`tree_layout`).
        length: L, tokens of the longest root.
        dense: [A * L] positions of the dense batch's tokens. None if it is the first L tokens of each row.
        alone: with ``dense``, the positions of its real tokens, and their indices in it.
        branches: [Q] positions of the branch tokens of all trees that have a root, tree by tree.
        branch_bounds: [branches + 1] int32, boundaries of the branches in ``branches``.
        tree_bounds: [trees + 1] int32, boundaries of the trees in ``branches``.
        roots: [R] indices of these trees' root tokens in the dense batch. None if they are all of it.
        root_bounds: [trees + 1] int32, boundaries of the trees in ``roots``.
        longest: tokens of the longest branch, of the most branches of a tree, and of the longest root, rounded up.
    """

    ids: torch.Tensor
    length: int
    dense: torch.Tensor | None
    alone: tuple[torch.Tensor, torch.Tensor] | None
    branches: torch.Tensor
    branch_bounds: torch.Tensor
    tree_bounds: torch.Tensor
    roots: torch.Tensor | None
    root_bounds: torch.Tensor
    longest: tuple[int, int, int]

    def mask_at(self, rows: torch.Tensor) -> torch.Tensor:
        """What the tokens at ``rows`` [B, M] see, [B, 1, M, T] bool."""
        own = self.ids.gather(1, rows)[..., None]  # [B, M, 1]
        earlier = torch.arange(self.ids.shape[1], device=rows.device) <= rows[..., None]  # [B, M, T]
        return (earlier & sees(own, self.ids[:, None]))[:, None]

    def to_dense(self, states: torch.Tensor) -> torch.Tensor:
        """``states`` [B, T, H, E] of the dense batch, [A, L, H, E].

        It is contiguous in both cases: cuDNN prepares a kernel for each new stride, and T differs from batch to batch.
        """
        if self.dense is None:
            return states[:, : self.length].contiguous()
        return states.flatten(0, 1).index_select(0, self.dense).unflatten(0, (-1, self.length))

    def from_dense(self, states: torch.Tensor) -> torch.Tensor:
        """The inverse: [A, L, H, E] -> [B * T, H, E]. Positions of branches and of padding get unspecified values."""
        rows, length = self.ids.shape
        if self.alone is None:
            return F.pad(states, (0, 0, 0, 0, 0, length - self.length)).flatten(0, 1)
        positions, indices = self.alone
        empty = states.new_zeros(rows * length, *states.shape[2:])
        return empty.index_copy(0, positions, states.flatten(0, 1).index_select(0, indices))

    def root_tokens(self, states: torch.Tensor) -> torch.Tensor:
        """The dense batch's keys or values [A, L, K, E] of the roots, [R, K, E]."""
        flat = states.flatten(0, 1)
        return flat if self.roots is None else flat.index_select(0, self.roots)


def sees(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Whether a token of segment ``own`` may attend to an earlier one of segment ``other``: bool, of broadcast shape.

    It may if both are of one segment, or ``other`` is the root of its tree. Padding, -1, sees padding: a query that
    sees nothing would become NaN.
    """
    root = (other % TREE_STRIDE == 0) & (
        own.div(TREE_STRIDE, rounding_mode="floor") == other.div(TREE_STRIDE, rounding_mode="floor")
    )
    return (own == other) | root


def tree_layout(segments: torch.Tensor) -> TreeLayout:
    """The layout of ``segments`` [B, T]: n * TREE_STRIDE for the root of a row's tree n = 0, 1, ..., the numbers after
    it for its branches, -1 for padding.

    It is computed on the CPU; segments on a GPU cost one wait for it, once a batch.
    """
    host = segments.cpu()
    rows, length = host.shape
    first = torch.ones_like(host, dtype=torch.bool)
    first[:, 1:] = host[:, 1:] != host[:, :-1]
    starts = first.flatten().nonzero().flatten()  # [S], of all segments
    sizes = torch.cat([starts[1:], torch.tensor([rows * length])]) - starts  # [S]
    kinds = host.flatten()[starts]  # [S]
    most = int(kinds.max()) // TREE_STRIDE + 1 if length else 1
    trees = starts // max(1, length) * most + kinds.clamp(min=0) // TREE_STRIDE  # [S], numbered through the batch
    is_root = (kinds >= 0) & (kinds % TREE_STRIDE == 0)
    rooted = torch.zeros(rows * most, dtype=torch.bool)
    rooted[trees[is_root]] = True
    is_branch = (kinds >= 0) & ~is_root & rooted[trees]
    is_alone = (kinds >= 0) & ~is_branch  # a branch without a root attends to itself alone
    branching = torch.zeros_like(rooted)
    branching[trees[is_branch]] = True

    longest = int(sizes[is_alone].max()) if is_alone.any() else 0
    begins, own = starts[is_alone], sizes[is_alone]  # [A]
    inside = torch.arange(longest) < own[:, None]  # [A, L], the real tokens of the dense batch
    positions = begins[:, None] + torch.arange(longest).minimum(own[:, None] - 1)  # [A, L]
    is_first = len(begins) == rows and torch.equal(begins, torch.arange(rows) * length)
    used = inside & (is_root & branching[trees])[is_alone][:, None]  # [A, L], what branches attend to
    in_branch = is_branch.repeat_interleave(sizes)  # [B * T]
    branch_tokens = torch.bincount(trees[is_branch], sizes[is_branch].double(), rows * most).long()[branching]
    root_sizes = used.sum(1)[used.any(1)]  # [trees]

    def to_device(values: torch.Tensor) -> torch.Tensor:
        return values.to(segments.device, non_blocking=True)

    def bounds_of(sizes: torch.Tensor) -> torch.Tensor:
        return to_device(torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).int())

    def rounded(sizes: torch.Tensor) -> int:
        return -(-max(sizes.tolist(), default=0) // ROUND) * ROUND

    return TreeLayout(
        ids=segments,
        length=longest,
        dense=None if is_first else to_device(positions.flatten()),
        alone=None if is_first else (to_device(positions[inside]), to_device(inside.flatten().nonzero().flatten())),
        branches=to_device(in_branch.nonzero().flatten()),
        branch_bounds=bounds_of(sizes[is_branch]),
        tree_bounds=bounds_of(branch_tokens),
        roots=None if used.all() else to_device(used.flatten().nonzero().flatten()),
        root_bounds=bounds_of(root_sizes),
        longest=(rounded(sizes[is_branch]), rounded(branch_tokens), rounded(root_sizes)),
    )


def tree_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: TreeLayout, scale: float
) -> torch.Tensor:
    """``query`` [B, T, H, E], ``key`` and ``value`` [B, T, K, E], where K divides H -> [B, T, H, E].

    On CUDA in fp16 or bf16, with the flash kernels. On a CPU in any dtype, segment by segment: for tests.
    """
    states = (query, key, value)
    dense = [layout.to_dense(one) for one in states]  # [A, L, H or K, E]
    one, two, three = (part.transpose(1, 2) for part in dense)
    roots = F.scaled_dot_product_attention(
        one, two, three, is_causal=True, scale=scale, enable_gqa=True
    )  # [A, H, L, E]
    out = layout.from_dense(roots.transpose(1, 2))  # [B * T, H, E]
    if len(layout.branches):
        own = [one.flatten(0, 1).index_select(0, layout.branches) for one in states]  # [Q, H or K, E]
        of_root = [layout.root_tokens(one) for one in dense[1:]]  # [R, K, E]
        bounds = (layout.branch_bounds, layout.tree_bounds, layout.root_bounds)
        branches, _ = _branch_attention(*own, *of_root, *bounds, *layout.longest, scale)
        out = out.index_copy(0, layout.branches, branches)
    return out.view(query.shape)


def attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | TreeLayout | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface. With a :class:`TreeLayout` for the mask it is tree attention, else SDPA.

    Takes states [B, H or K, T, E], and returns [B, T, H, E].
    """
    if not isinstance(attention_mask, TreeLayout):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))  # [B, T, H or K, E]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return tree_attention(query, key, value, attention_mask, scale), None


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


# ---------------------------------------------------------------------------------------------- the operator
# One operator for torch.compile, which cannot look into it, with its own backward pass.


@torch.library.custom_op("vlm::branch_attention", mutates_args=())
def _branch_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    root_key: torch.Tensor,
    root_value: torch.Tensor,
    branch_bounds: torch.Tensor,
    tree_bounds: torch.Tensor,
    root_bounds: torch.Tensor,
    longest_branch: int,
    most_branches: int,
    longest_root: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Branches' ``query`` [Q, H, E], ``key`` and ``value`` [Q, K, E], their roots' [R, K, E], and the bounds of both.

    -> the output [Q, H, E] and the log-sum-exp of the scores [H, Q], fp32 (fp64 for fp64).
    """
    bounds = (branch_bounds, branch_bounds, longest_branch, longest_branch)
    out, lse = _attend(query, key, value, *bounds, True, scale)
    bounds = (tree_bounds, root_bounds, most_branches, longest_root)
    root_out, root_lse = _attend(query, root_key, root_value, *bounds, False, scale)
    joined = torch.logaddexp(lse, root_lse)  # [H, Q]
    own, other = ((part - joined).exp().T[..., None] for part in (lse, root_lse))  # [Q, H, 1]
    return (own * out + other * root_out).to(out.dtype).contiguous(), joined


@_branch_attention.register_fake
def _(query, *rest):
    return torch.empty_like(query), query.new_empty(query.shape[1], query.shape[0], dtype=_lse_dtype(query))


@torch.library.custom_op("vlm::branch_attention_backward", mutates_args=())
def _branch_attention_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    root_key: torch.Tensor,
    root_value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    branch_bounds: torch.Tensor,
    tree_bounds: torch.Tensor,
    root_bounds: torch.Tensor,
    longest_branch: int,
    most_branches: int,
    longest_root: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> gradients of query [Q, H, E], key and value [Q, K, E], the roots' key and value [R, K, E]."""
    bounds = (branch_bounds, branch_bounds, longest_branch, longest_branch)
    d_query, d_key, d_value = _attend_backward(grad, query, key, value, out, lse, *bounds, True, scale)
    bounds = (tree_bounds, root_bounds, most_branches, longest_root)
    other, *of_root = _attend_backward(grad, query, root_key, root_value, out, lse, *bounds, False, scale)
    return d_query.add_(other), d_key, d_value, *of_root


@_branch_attention_backward.register_fake
def _(grad, query, key, value, root_key, root_value, *rest):
    return tuple(torch.empty_like(one) for one in (query, key, value, root_key, root_value))


def _keep(ctx, inputs, output) -> None:
    out, lse = output
    ctx.save_for_backward(*inputs[:5], out, lse, *inputs[5:8])
    ctx.numbers = inputs[8:]
    ctx.mark_non_differentiable(lse)


def _backward(ctx, grad: torch.Tensor, _):
    return *_branch_attention_backward(grad.contiguous(), *ctx.saved_tensors, *ctx.numbers), *[None] * 7


_branch_attention.register_autograd(_backward, setup_context=_keep)


# ---------------------------------------------------------------------------------------------- one part
# Sequence i has the queries bounds_q[i] to bounds_q[i + 1] and the keys bounds_k[i] to bounds_k[i + 1].


def _attend(query, key, value, bounds_q, bounds_k, longest_q, longest_k, causal, scale):
    """-> output [Nq, H, E] and log-sum-exp [H, Nq]."""
    if query.is_cuda:
        bounds = (bounds_q, bounds_k, longest_q, longest_k)
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            query, key, value, *bounds, 0.0, causal, False, scale=scale
        )
        return out, lse
    dtype, wide = query.dtype, _lse_dtype(query)
    query, key, value = (states.to(wide) for states in (query, key, value))
    out, lse = torch.zeros_like(query), query.new_zeros(query.shape[1], len(query))
    for begin, end, keys in _sequences(bounds_q, bounds_k):
        scores = _scores(query[begin:end], key[keys], causal, scale)  # [H, q, k]
        lse[:, begin:end] = scores.logsumexp(-1)
        out[begin:end] = torch.einsum("hqk,khe->qhe", scores.softmax(-1), _per_head(value[keys], query))
    return out.to(dtype), lse


def _attend_backward(grad, query, key, value, out, lse, bounds_q, bounds_k, longest_q, longest_k, causal, scale):
    """-> gradients of query, key and value through this part, given the joined ``out`` and ``lse``."""
    if query.is_cuda:
        bounds = (bounds_q, bounds_k, longest_q, longest_k)
        seed, unused = torch.zeros(2, dtype=torch.uint64, device=query.device), query.new_empty(0)  # of dropout
        return torch.ops.aten._flash_attention_backward(
            grad, query, key, value, out, lse, *bounds, 0.0, causal, seed, unused, scale=scale
        )
    dtype, wide = query.dtype, _lse_dtype(query)
    grad, query, key, value, out = (states.to(wide) for states in (grad, query, key, value, out))
    d_query, d_key, d_value = (torch.zeros_like(states) for states in (query, key, value))
    groups = key.shape[1], query.shape[1] // key.shape[1]
    for begin, end, keys in _sequences(bounds_q, bounds_k):
        scores = _scores(query[begin:end], key[keys], causal, scale)
        weights = (scores - lse[:, begin:end, None]).exp()  # [H, q, k]
        d_weights = torch.einsum("qhe,khe->hqk", grad[begin:end], _per_head(value[keys], query))
        delta = (grad[begin:end] * out[begin:end]).sum(-1).T[..., None]  # [H, q, 1]
        d_scores = weights * (d_weights - delta) * scale
        d_query[begin:end] += torch.einsum("hqk,khe->qhe", d_scores, _per_head(key[keys], query))
        of_key = torch.einsum("hqk,qhe->khe", d_scores, query[begin:end])
        of_value = torch.einsum("hqk,qhe->khe", weights, grad[begin:end])
        d_key[keys] += of_key.unflatten(1, groups).sum(2)
        d_value[keys] += of_value.unflatten(1, groups).sum(2)
    return d_query.to(dtype), d_key.to(dtype), d_value.to(dtype)


def _lse_dtype(query: torch.Tensor) -> torch.dtype:
    return torch.float64 if query.dtype == torch.float64 else torch.float32


def _sequences(bounds_q: torch.Tensor, bounds_k: torch.Tensor):
    """(first query, end of queries, slice of keys) of each sequence."""
    queries, keys = bounds_q.tolist(), bounds_k.tolist()
    for i in range(len(queries) - 1):
        yield queries[i], queries[i + 1], slice(keys[i], keys[i + 1])


def _per_head(states: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Keys or values [k, K, E] repeated for each head of the query: [k, H, E]."""
    return states.repeat_interleave(query.shape[1] // states.shape[1], dim=1)


def _scores(query: torch.Tensor, key: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """[q, H, E] and [k, K, E] -> [H, q, k]; causal with as many keys as queries."""
    scores = torch.einsum("qhe,khe->hqk", query, _per_head(key, query)) * scale
    if causal:
        later = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores

"""Exact attention over message trees with flash kernels: no mask, no copies of keys and values, no masked-out blocks.

A boolean mask [B, 1, T, T] keeps SDPA off its flash kernels. But a tree is two flash problems, because a branch sees
the whole root and, causally, itself:

    self   every segment (root, branch 1, branch 2, ..., padding) attends causally to itself
    root   the branches of a tree attend to all of its root

Both parts give an output and the log-sum-exp of their scores, and ``out = sum_i exp(lse_i - lse) * out_i`` with
``lse = logsumexp_i lse_i`` joins them exactly. In the backward pass each part calls the flash backward kernel with the
joined ``out`` and ``lse``: dS = P * (dP - rowsum(dO * O)) with P = exp(S - lse) needs nothing else. Ring attention
(Liu et al. 2023, arXiv:2310.01889) splits attention over keys in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
    """Where the segments of a batch lie in its B * T flattened tokens; on the model's device, int32 but for ``ids``.

    Attributes:
        ids: [B, T] int64, the segment of each token (:func:`tree_layout`).
        segments: [S + 1] boundaries of all segments, padding included, from 0 to B * T.
        roots: [R] positions of the root tokens of all trees, tree by tree.
        branches: [Q] positions of the branch tokens of all trees that have a root, tree by tree.
        root_bounds: [trees + 1] boundaries of the trees in ``roots``.
        branch_bounds: [trees + 1] boundaries of the trees in ``branches``.
        longest: tokens of the longest segment, of the longest root, and of the most branches of a tree, rounded up.
    """

    ids: torch.Tensor
    segments: torch.Tensor
    roots: torch.Tensor
    branches: torch.Tensor
    root_bounds: torch.Tensor
    branch_bounds: torch.Tensor
    longest: tuple[int, int, int]

    def mask_at(self, rows: torch.Tensor) -> torch.Tensor:
        """What the tokens at ``rows`` [B, M] see, [B, 1, M, T] bool."""
        own = self.ids.gather(1, rows)[..., None]  # [B, M, 1]
        earlier = torch.arange(self.ids.shape[1], device=rows.device) <= rows[..., None]  # [B, M, T]
        return (earlier & sees(own, self.ids[:, None]))[:, None]


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
    starts = torch.ones_like(host, dtype=torch.bool)
    starts[:, 1:] = host[:, 1:] != host[:, :-1]
    bounds = torch.cat([starts.flatten().nonzero().flatten(), torch.tensor([rows * length])])  # [S + 1]
    trees = host.div(TREE_STRIDE, rounding_mode="floor")  # [B, T], -1 at padding
    most = int(trees.max()) + 1 if length else 1
    tree = torch.arange(rows)[:, None] * most + trees.clamp(min=0)  # [B, T], numbered through the batch
    of_root, of_branch = (host >= 0) & (host % TREE_STRIDE == 0), (host >= 0) & (host % TREE_STRIDE > 0)  # [B, T]
    root_sizes = torch.bincount(tree[of_root], minlength=rows * most)
    of_branch &= (root_sizes > 0)[tree]  # branches without a root attend to themselves alone
    branch_sizes = torch.bincount(tree[of_branch], minlength=rows * most)[root_sizes > 0]  # [trees]
    root_sizes = root_sizes[root_sizes > 0]

    def to_device(values: torch.Tensor) -> torch.Tensor:
        return values.to(torch.int32).to(segments.device, non_blocking=True)

    def bounds_of(sizes: torch.Tensor) -> torch.Tensor:
        return to_device(torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]))

    def longest(sizes: torch.Tensor) -> int:
        return -(-max(sizes.tolist(), default=0) // ROUND) * ROUND

    return TreeLayout(
        ids=segments,
        segments=to_device(bounds),
        roots=to_device(of_root.flatten().nonzero().flatten()),
        branches=to_device(of_branch.flatten().nonzero().flatten()),
        root_bounds=bounds_of(root_sizes),
        branch_bounds=bounds_of(branch_sizes),
        longest=(longest(bounds.diff()), longest(root_sizes), longest(branch_sizes)),
    )


def tree_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: TreeLayout, scale: float
) -> torch.Tensor:
    """``query`` [B, T, H, E], ``key`` and ``value`` [B, T, K, E], where K divides H -> [B, T, H, E].

    On CUDA in fp16 or bf16, with the flash kernels. On a CPU in any dtype, segment by segment: for tests.
    """
    batch, length = query.shape[:2]
    flat = [states.reshape(batch * length, *states.shape[2:]) for states in (query, key, value)]  # [N, H or K, E]
    parts = (layout.segments, layout.roots, layout.branches, layout.root_bounds, layout.branch_bounds)
    out, _ = _tree_attention(*flat, *parts, *layout.longest, scale)
    return out.view(batch, length, *query.shape[2:])


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


@torch.library.custom_op("vlm::tree_attention", mutates_args=())
def _tree_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: torch.Tensor,
    roots: torch.Tensor,
    branches: torch.Tensor,
    root_bounds: torch.Tensor,
    branch_bounds: torch.Tensor,
    longest_segment: int,
    longest_root: int,
    most_branches: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """-> the output [N, H, E] and the log-sum-exp of the scores [H, N], fp32 (fp64 for fp64)."""
    out, lse = _attend(query, key, value, segments, segments, longest_segment, longest_segment, True, scale)
    if len(branches):
        of_root = (key[roots], value[roots], branch_bounds, root_bounds, most_branches, longest_root)
        root_out, root_lse = _attend(query[branches], *of_root, False, scale)
        own_lse = lse[:, branches]  # [H, Q]
        joined = torch.logaddexp(own_lse, root_lse)
        own, other = ((part - joined).exp().T[..., None] for part in (own_lse, root_lse))  # [Q, H, 1]
        out[branches] = (own * out[branches] + other * root_out).to(out.dtype)
        lse[:, branches] = joined
    return out, lse


@_tree_attention.register_fake
def _(query, key, value, *layout):
    return torch.empty_like(query), query.new_empty(query.shape[1], query.shape[0], dtype=_lse_dtype(query))


@torch.library.custom_op("vlm::tree_attention_backward", mutates_args=())
def _tree_attention_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    segments: torch.Tensor,
    roots: torch.Tensor,
    branches: torch.Tensor,
    root_bounds: torch.Tensor,
    branch_bounds: torch.Tensor,
    longest_segment: int,
    longest_root: int,
    most_branches: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> gradients of query [N, H, E], key and value [N, K, E]."""
    grad = grad.contiguous()
    bounds = (segments, segments, longest_segment, longest_segment)
    d_query, d_key, d_value = _attend_backward(grad, query, key, value, out, lse, *bounds, True, scale)
    if len(branches):
        bounds = (branch_bounds, root_bounds, most_branches, longest_root)
        more = _attend_backward(
            grad[branches].contiguous(),
            query[branches].contiguous(),
            key[roots].contiguous(),
            value[roots].contiguous(),
            out[branches].contiguous(),
            lse[:, branches].contiguous(),
            *bounds,
            False,
            scale,
        )
        for total, indices, part in zip((d_query, d_key, d_value), (branches, roots, roots), more, strict=True):
            total.index_add_(0, indices, part)
    return d_query, d_key, d_value


@_tree_attention_backward.register_fake
def _(grad, query, key, value, *rest):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx, inputs, output) -> None:
    out, lse = output
    ctx.save_for_backward(*inputs[:3], out, lse, *inputs[3:8])
    ctx.numbers = inputs[8:]
    ctx.mark_non_differentiable(lse)


def _backward(ctx, grad: torch.Tensor, _):
    return *_tree_attention_backward(grad, *ctx.saved_tensors, *ctx.numbers), *[None] * 9


_tree_attention.register_autograd(_backward, setup_context=_keep)


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

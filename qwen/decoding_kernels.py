"""Triton kernels for one decoding step of Qwen2 and Qwen3: five a layer, and each reads its weights once.

At batch 1 a step is nothing but reading weights: 3.1 GB at 1.5B in bf16. A program of a linear layer therefore holds
its few rows of the weight whole in registers: all its 16-byte loads are in flight at once, and every row of the batch
uses them. On Hopper (OVERLAP) the next kernel starts while the last programs of this one run: it loads its weights, and
waits only before it reads what this kernel writes.

Rounding follows transformers: RMSNorm is rounded before its weight; rotary embedding, residuals and SiLU are rounded
after each operation; softmax and sums of products are in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Names of arguments: B rows of the batch, D hidden, N output and K input features of a linear layer, E of a head.


@triton.jit
def start_step(
    input_ids,  # [B]
    position_ids,  # [B]
    embedding,  # [V, D]
    inv_freq,  # [E / 2], float32
    hidden,  # [B, D], written
    cos,  # [B, E], written
    sin,  # [B, E], written
    D: tl.constexpr,
    E: tl.constexpr,
    SCALING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Word embeddings and rotary angles; one program for each row of the batch."""
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    token = tl.load(input_ids + row).to(tl.int64)
    tl.store(hidden + row * D + columns, tl.load(embedding + token * D + columns, columns < D), columns < D)
    half = tl.arange(0, E // 2)
    angle = tl.load(position_ids + row).to(tl.float32) * tl.load(inv_freq + half)
    cosine, sine = tl.cos(angle) * SCALING, tl.sin(angle) * SCALING
    tl.store(cos + row * E + half, cosine)
    tl.store(cos + row * E + half + E // 2, cosine)
    tl.store(sin + row * E + half, sine)
    tl.store(sin + row * E + half + E // 2, sine)


@triton.jit
def project_qkv(
    hidden,  # [B, D]
    norm,  # [D]
    q,  # [Q, D]
    k,  # [KV, D]
    v,  # [KV, D]
    q_bias,  # [Q]
    k_bias,  # [KV]
    v_bias,  # [KV]
    qkv,  # [B, Q + 2 KV], written
    B: tl.constexpr,
    D: tl.constexpr,
    Q: tl.constexpr,
    KV: tl.constexpr,
    EPS: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Queries, keys and values of the normed hidden states. A program has ROWS rows of one of the three weights."""
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    first = tl.program_id(0) * ROWS
    weight, bias, own = q, q_bias, first
    if first >= Q:
        weight, bias, own = k, k_bias, first - Q
    if first >= Q + KV:
        weight, bias, own = v, v_bias, first - Q - KV
    tile = _rows_of(weight, own, D, BLOCK, ROWS)
    scale = _vector(norm, D, BLOCK)
    added = tl.zeros([ROWS], tl.float32)
    if BIAS:
        added = tl.load(bias + own + tl.arange(0, ROWS)).to(tl.float32)
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
    for row in range(B):
        x = _vector(hidden + row * D, D, BLOCK)
        x = _scaled(x, _inverse_rms(x, D, EPS), scale).to(tl.float32)
        y = tl.sum(tile.to(tl.float32) * x, 1) + added
        tl.store(qkv + row * (Q + 2 * KV) + first + tl.arange(0, ROWS), y)


@triton.jit
def attend(
    qkv,  # [B, Q + 2 KV]
    q_norm,  # [E], read if NORM
    k_norm,  # [E], read if NORM
    cos,  # [B, E]
    sin,  # [B, E]
    keys,  # [B, HEADS / GROUP, S, E], written at ``slot``
    values,  # like keys
    starts,  # [B]
    slot,  # [1]
    partial,  # [B, HEADS, SPLITS, E], float32, scratch
    peaks,  # [B, HEADS, SPLITS], float32, scratch
    totals,  # [B, HEADS, SPLITS], float32, scratch
    arrived,  # [B, HEADS / GROUP], int32, 0 before and after
    attended,  # [B, Q], written
    row_stride,
    head_stride,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    E: tl.constexpr,
    EPS: tl.constexpr,
    SCALE: tl.constexpr,
    NORM: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    KEYS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Attention of the new token over the cache's slots from ``starts`` on, itself included (flash decoding).

    A program has the GROUP queries of one key head and one of SPLITS parts of the keys. The first part also rotates the
    new key, writes key and value into the cache and counts them. The last program to finish merges the parts.
    """
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    KV_HEADS: tl.constexpr = HEADS // GROUP
    e = tl.arange(0, E)
    start, end = tl.load(starts + row).to(tl.int32), tl.load(slot).to(tl.int32)
    part = tl.cdiv(tl.cdiv(end - start, SPLITS), KEYS) * KEYS
    first = start + split * part
    last = tl.minimum(first + part, end)
    own_keys = keys + row.to(tl.int64) * row_stride + head * head_stride
    own_values = values + row.to(tl.int64) * row_stride + head * head_stride
    key_block = _cached(own_keys, first, last, E, KEYS)  # [KEYS, E]
    value_block = _cached(own_values, first, last, E, KEYS)
    if OVERLAP:
        tl.extra.cuda.gdc_wait()

    own_qkv = qkv + row * (HEADS + 2 * KV_HEADS) * E
    group = tl.arange(0, 16)  # tl.dot takes no fewer rows
    queries = own_qkv + (head * GROUP + group) * E
    query = _rotated(queries, q_norm, cos + row * E, sin + row * E, group < GROUP, E, NORM, EPS)  # [16, E]
    one = tl.arange(0, 1)
    new_key = own_qkv + (HEADS + head + one) * E
    key = _rotated(new_key, k_norm, cos + row * E, sin + row * E, one < 1, E, NORM, EPS)  # [1, E]
    value = tl.load(own_qkv + (HEADS + KV_HEADS + head) * E + e)[None, :]  # [1, E]
    if split == 0:
        tl.store(own_keys + end * E + e[None, :], key)
        tl.store(own_values + end * E + e[None, :], value)

    score = tl.sum(query.to(tl.float32) * key.to(tl.float32), 1) * SCALE  # [16]; SCALE holds log2(e), for exp2
    peak = tl.where(split == 0, score, float("-inf"))
    total = tl.where(split == 0, tl.full([16], 1.0, tl.float32), 0.0)
    output = tl.where(split == 0, tl.zeros([16, E], tl.float32) + value.to(tl.float32), 0.0)
    while first < last:
        scores = tl.dot(query, tl.trans(key_block), input_precision="ieee") * SCALE  # [16, KEYS]
        scores = tl.where((first + tl.arange(0, KEYS) < last)[None, :], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(peak - higher)
        total = total * shrink + tl.sum(weights, 1)
        weights = weights.to(value_block.dtype)
        output = output * shrink[:, None] + tl.dot(weights, value_block, input_precision="ieee")
        peak = higher
        first += KEYS
        key_block = _cached(own_keys, first, last, E, KEYS)
        value_block = _cached(own_values, first, last, E, KEYS)

    at = (row * HEADS + head * GROUP + group) * SPLITS + split  # [16]
    tl.store(partial + at[:, None] * E + e[None, :], output, (group < GROUP)[:, None])
    tl.store(peaks + at, peak, group < GROUP)
    tl.store(totals + at, total, group < GROUP)
    tl.debug_barrier()  # all threads have stored before one of them tells the other programs
    if tl.atomic_add(arrived + row * KV_HEADS + head, 1) == SPLITS - 1:
        tl.store(arrived + row * KV_HEADS + head, 0)
        _merge(partial, peaks, totals, attended, row * HEADS + head * GROUP, GROUP, E, GROUP_BLOCK, SPLITS)


@triton.jit
def add_linear(
    x,  # [B, K]
    weight,  # [N, K]
    hidden,  # [B, N], added to in place
    B: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """hidden += x @ weight.T; a program has ROWS rows of the weight."""
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    first = tl.program_id(0) * ROWS
    tile = _rows_of(weight, first, K, BLOCK, ROWS)
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
    for row in range(B):
        y = tl.sum(tile.to(tl.float32) * _vector(x + row * K, K, BLOCK).to(tl.float32), 1)
        residual = hidden + row * N + first + tl.arange(0, ROWS)
        tl.store(residual, tl.load(residual).to(tl.float32) + y.to(tile.dtype).to(tl.float32))


@triton.jit
def gate_and_up(
    hidden,  # [B, D]
    norm,  # [D]
    gate,  # [N, D]
    up,  # [N, D]
    activated,  # [B, N], written
    B: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """SiLU(gate) * up of the normed hidden states; a program has ROWS rows of both weights."""
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    first = tl.program_id(0) * ROWS
    gate_tile = _rows_of(gate, first, D, BLOCK, ROWS)
    up_tile = _rows_of(up, first, D, BLOCK, ROWS)
    scale = _vector(norm, D, BLOCK)
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
    for row in range(B):
        x = _vector(hidden + row * D, D, BLOCK)
        x = _scaled(x, _inverse_rms(x, D, EPS), scale).to(tl.float32)
        gated = tl.sum(gate_tile.to(tl.float32) * x, 1).to(gate_tile.dtype).to(tl.float32)
        silu = (gated / (1 + tl.exp(-gated))).to(gate_tile.dtype)
        raised = tl.sum(up_tile.to(tl.float32) * x, 1).to(gate_tile.dtype)
        tl.store(activated + row * N + first + tl.arange(0, ROWS), _product(silu, raised))


@triton.jit
def final_norm(
    hidden,  # [B, D]
    norm,  # [D]
    normed,  # [B, D], written
    D: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """RMSNorm of the last hidden states; one program for each row of the batch."""
    row = tl.program_id(0)
    scale = _vector(norm, D, BLOCK)
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
    columns = tl.arange(0, BLOCK)[None, :]
    x = _vector(hidden + row * D, D, BLOCK)
    tl.store(normed + row * D + columns, _scaled(x, _inverse_rms(x, D, EPS), scale), columns < D)


@triton.jit
def _rows_of(weight, first, K: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Rows ``first`` to ``first + ROWS`` of a weight [N, K] -> [ROWS, BLOCK]. No cache need keep them."""
    columns = tl.arange(0, BLOCK)[None, :]
    rows = first + tl.arange(0, ROWS)[:, None]
    return tl.load(weight + rows * K + columns, columns < K, 0.0, eviction_policy="evict_first")


@triton.jit
def _vector(x, K: tl.constexpr, BLOCK: tl.constexpr):
    """[K] -> [1, BLOCK], laid out over the threads like a row of :func:`_rows_of`."""
    columns = tl.arange(0, BLOCK)[None, :]
    return tl.load(x + columns, columns < K, 0.0)


@triton.jit
def _product(a, b):
    """a * b, rounded to their type, as an operation of its own does."""
    return (a.to(tl.float32) * b.to(tl.float32)).to(a.dtype)


@triton.jit
def _inverse_rms(x, K: tl.constexpr, EPS: tl.constexpr):
    """1 / the root mean square of the K columns of x [M, BLOCK] -> [M, 1], float32."""
    x = x.to(tl.float32)
    return tl.rsqrt(tl.sum(x * x, 1) / K + EPS)[:, None]


@triton.jit
def _scaled(x, inverse, weight):
    """The rest of RMSNorm."""
    return _product(weight, (x.to(tl.float32) * inverse).to(weight.dtype))


@triton.jit
def _rotated(heads, norm, cos, sin, wanted, E: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr):
    """The heads that begin at the addresses ``heads`` [M] -> [M, E], normed if NORM, with rotary positions."""
    e = tl.arange(0, E)[None, :]
    partner = (e + E // 2) % E
    x = tl.load(heads[:, None] + e, wanted[:, None], 0.0)
    rotated = tl.load(heads[:, None] + partner, wanted[:, None], 0.0)
    if NORM:
        inverse = _inverse_rms(x, E, EPS)
        x = _scaled(x, inverse, tl.load(norm + e))
        rotated = _scaled(rotated, inverse, tl.load(norm + partner))
    straight = _product(x, tl.load(cos + e)).to(tl.float32)
    crossed = _product(rotated, tl.load(sin + e)).to(tl.float32)
    return tl.where(e < E // 2, straight - crossed, straight + crossed).to(x.dtype)


@triton.jit
def _cached(base, first, last, E: tl.constexpr, KEYS: tl.constexpr):
    """Slots ``first`` to ``first + KEYS`` of one head's keys or values -> [KEYS, E], 0 from ``last`` on."""
    slots = (first + tl.arange(0, KEYS))[:, None]
    return tl.load(base + slots * E + tl.arange(0, E)[None, :], slots < last, 0.0)


@triton.jit
def _merge(
    partial,
    peaks,
    totals,
    attended,
    first,
    GROUP: tl.constexpr,
    E: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """The parts of heads ``first`` to ``first + GROUP`` -> their attention.

    ".cg" reads from L2, where the other programs have written.
    """
    group = tl.arange(0, GROUP_BLOCK)
    e = tl.arange(0, E)
    at = (first + group)[:, None] * SPLITS + tl.arange(0, SPLITS)[None, :]  # [GROUP_BLOCK, SPLITS]
    wanted = (group < GROUP)[:, None]
    output = tl.load(partial + at[:, :, None] * E + e[None, None, :], wanted[:, :, None], 0.0, cache_modifier=".cg")
    peak = tl.load(peaks + at, wanted, 0.0, cache_modifier=".cg")
    total = tl.load(totals + at, wanted, 1.0, cache_modifier=".cg")
    share = tl.exp2(peak - tl.max(peak, 1)[:, None])
    share = share / tl.sum(share * total, 1)[:, None]
    merged = tl.sum(output * share[:, :, None], 1)  # [GROUP_BLOCK, E]
    tl.store(attended + (first + group)[:, None] * E + e[None, :], merged, wanted)

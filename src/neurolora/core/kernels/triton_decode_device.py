"""What runs on the device for a few tokens without gradient: one step of generation.

Room: core, kernels. Imported by `triton_kernels.py` alone, as `triton_device.py` is.
"""

from __future__ import annotations

import triton
import triton.language as tl

from neurolora.core.kernels.triton_device import modulation, ranks, rounded, routing_keys, total


@triton.jit
def product_kernel(
    x_ptr: tl.tensor, P_ptr: tl.tensor, partial_ptr: tl.tensor, tokens: int, rows: int, d: int, x_stride: int,
    P_stride: int, chunk: int, TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """x P' over one chunk of d: partial[s] = x[:, chunk s] P[:, chunk s]', for ROWS rows of P.

    x (tokens, d), P (rows, d), rows of `*_stride`; products in P's dtype; partial float32
    (chunks, tokens, rows).
    """
    split = tl.program_id(1)
    n = tl.arange(0, TOKENS)[:, None]
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[None, :]
    product = tl.full((TOKENS, ROWS), 0.0, dtype=tl.float32)
    for start in range(0, chunk, COLUMNS):
        at = split * chunk + start + tl.arange(0, COLUMNS)
        x_at, P_at = at[None, :], at[:, None]
        x = tl.load(x_ptr + n * x_stride + x_at, mask=(n < tokens) & (x_at < d), other=0.0)
        P = tl.load(P_ptr + row.to(tl.int64) * P_stride + P_at, mask=(row < rows) & (P_at < d), other=0.0)
        product = tl.dot(x.to(P.dtype), P, product, input_precision="ieee")
    tl.store(partial_ptr + (split * tokens + n) * rows + row, product, mask=(n < tokens) & (row < rows))


@triton.jit
def summed(
    partial_ptr: tl.tensor, columns: tl.tensor, inside: tl.tensor, stride: int, splits: int,
    SPLITS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The sum of the chunks' products at `columns` (C): float32 (C), in the same order every time."""
    split = tl.arange(0, SPLITS)[:, None]
    kept = (split < splits) & inside[None, :]
    return total(tl.load(partial_ptr + split * stride + columns[None, :], mask=kept, other=0.0), 0)


@triton.jit
def gelu(u: tl.tensor) -> tl.tensor:
    """The exact GELU, float32."""
    return 0.5 * u * (1.0 + tl.erf(u * 0.7071067811865476))


@triton.jit
def decode_route_kernel(
    partial_ptr: tl.tensor, W2_ptr: tl.tensor, gamma_ptr: tl.tensor, beta_ptr: tl.tensor, bias_ptr: tl.tensor,
    index_ptr: tl.tensor, value_ptr: tl.tensor, tokens: int, rows: int, splits: int, W2_stride: int,
    r: tl.constexpr, g: tl.constexpr, top_k: tl.constexpr, signed: tl.constexpr, shared: tl.constexpr,
    compute: tl.constexpr, R: tl.constexpr, G: tl.constexpr, SPLITS: tl.constexpr,
) -> None:  # fmt: skip
    """One token of one member: the gate (Eq. 3), h' = h m (Eq. 4) and its active ranks, best first (Eq. 5).

    partial from `product_kernel`, whose columns are h of every member, then W1 x (of every member, or
    shared). W2 (members * r, g); gamma, beta, bias (members * r). index int32, value (tokens, members,
    top_k). Rounded to `compute` and to value's dtype where the training path stores a tensor of that dtype.
    """
    dtype: tl.constexpr = value_ptr.dtype.element_ty
    n, member, members = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    rank_at = tl.arange(0, R)
    in_rank, place = rank_at < r, member * r + rank_at
    own, stride = partial_ptr + n * rows, tokens * rows
    h = rounded(rounded(summed(own, place, in_rank, stride, splits, SPLITS), compute), dtype)
    if gamma_ptr is not None:
        m = tl.load(gamma_ptr + place, mask=in_rank, other=0.0).to(tl.float32)
        if W2_ptr is not None:
            logits = tl.full((R,), 0.0, dtype=tl.float32)
            own += members * r
            if not shared:
                own += member * g
            for start in range(0, g, G):
                at = start + tl.arange(0, G)
                u = rounded(rounded(summed(own, at, at < g, stride, splits, SPLITS), compute), dtype)
                bottleneck = rounded(rounded(gelu(u), dtype), compute)
                kept = in_rank[:, None] & (at < g)[None, :]
                W2 = tl.load(W2_ptr + place[:, None] * W2_stride + at[None, :], mask=kept, other=0.0)
                logits += total(rounded(W2, compute) * bottleneck[None, :], 1)
            beta = tl.load(beta_ptr + place, mask=in_rank, other=0.0).to(tl.float32)
            m = modulation(rounded(rounded(logits, compute), dtype), m, beta, dtype)
        h = rounded(h * m, dtype)
    h, columns, inside = h[None, :], rank_at[None, :], in_rank[None, :]
    biases = bias_ptr + member * r if bias_ptr is not None else None
    rank = ranks(routing_keys(h, biases, columns, inside, signed, dtype), columns, r)
    slot, active = (n * members + member) * top_k + rank, (rank < top_k) & inside
    tl.store(index_ptr + slot, tl.broadcast_to(columns, (1, R)), mask=active)
    tl.store(value_ptr + slot, h, mask=active)


@triton.jit
def decode_add_kernel(
    result_ptr: tl.tensor, index_ptr: tl.tensor, value_ptr: tl.tensor, B_ptr: tl.tensor, scaling: float,
    o: int, result_stride: int, active_stride: int, B_stride: int, top_k: tl.constexpr, ACTIVE: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """result += scaling * sum over the active i of B[:, i] h'[i] (Eqs. 1, 6): COLUMNS outputs of one token.

    result (tokens, o), B transposed (r, o), rows of `*_stride`; index, value: top_k of each token. Only the
    active rows of the transposed B are read; the sum is float32.
    """
    n = tl.program_id(0)
    out = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    product = tl.full((COLUMNS,), 0.0, dtype=tl.float32)
    for start in range(0, top_k, ACTIVE):
        at = start + tl.arange(0, ACTIVE)
        i = tl.load(index_ptr + n * active_stride + at, mask=at < top_k, other=0)
        h = tl.load(value_ptr + n * active_stride + at, mask=at < top_k, other=0.0).to(tl.float32)
        kept = (at < top_k)[:, None] & (out < o)[None, :]
        B = tl.load(B_ptr + i[:, None] * B_stride + out[None, :], mask=kept, other=0.0).to(tl.float32)
        product += total(B * h[:, None], 0)
    place = result_ptr + n * result_stride + out
    result = tl.load(place, mask=out < o, other=0.0).to(tl.float32)
    tl.store(place, result + scaling * product, mask=out < o)

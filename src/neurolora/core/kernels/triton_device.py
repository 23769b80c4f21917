"""What runs on the device for the routed half in training: pointwise work and selection in one pass.

Room: core, kernels. Imported by `triton_kernels.py` alone, and only when a kernel is launched: without Triton
this file cannot be imported. Pointwise work is in float32 and rounded to the parameters' dtype wherever
PyTorch would store it, so that the selection sees the values that the readable path would see.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def total(values: tl.tensor, axis: tl.constexpr, keep_dims: tl.constexpr = False) -> tl.tensor:
    """The sum over one axis. `tl.sum` would do, but not interpreted where Triton was imported before that."""
    return tl.reduce(values, axis, tl.standard._sum_combine, keep_dims=keep_dims)


@triton.jit
def rounded(values: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """float32 values as they are after a stay in `dtype`."""
    return values.to(dtype).to(tl.float32)


@triton.jit
def sigmoid(z: tl.tensor) -> tl.tensor:
    """1 / (1 + exp(-z)), float32; exactly 1/2 at 0, so that a gate at its start is one to the bit."""
    return tl.div_rn(1.0, 1.0 + tl.exp(-z))


@triton.jit
def modulation(z: tl.tensor, gamma: tl.tensor, beta: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """m = sigmoid(z) * gamma + beta (Eq. 3), float32, rounded to `dtype` where PyTorch would."""
    return rounded(rounded(sigmoid(z), dtype) * gamma + beta, dtype)


@triton.jit
def routing_keys(
    h_mod: tl.tensor, bias_ptr: tl.tensor, columns: tl.tensor, inside: tl.tensor, signed: tl.constexpr,
    dtype: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """int32 in the order of the routing score of h' (rows, R), float32: NaN above all, -0.0 equal to 0.0.

    bias_ptr: the bias at `columns` (1, R), or None. Bits alone are compared, so that no flushing of tiny
    numbers can make a tie.
    """
    score = h_mod if signed else tl.abs(h_mod)
    if bias_ptr is not None:
        score = rounded(score + tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32), dtype)
    bits = score.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    bits = tl.where(magnitude > 0x7F800000, 0x7FC00000, tl.where(magnitude == 0, 0, bits))
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)  # the bits of a negative float fall as it grows


@triton.jit
def ranks(keys: tl.tensor, columns: tl.tensor, r: tl.constexpr) -> tl.tensor:
    """How many of the r keys of its row come before each (Eq. 5): greater ones, equal ones at a lower index.

    keys int32 (rows, R), columns (1, R) -> int32 (rows, R), of no meaning from column r on.
    """
    rank = tl.full(keys.shape, 0, dtype=tl.int32)
    for j in range(r):
        # one key a row at a time: all pairs at once would not fit into the registers
        key = total(tl.where(columns == j, keys, 0), 1, True)
        rank += ((key > keys) | ((key == keys) & (j < columns))).to(tl.int32)
    return rank


@triton.jit
def route_kernel(
    h_ptr: tl.tensor, logits_ptr: tl.tensor, gamma_ptr: tl.tensor, beta_ptr: tl.tensor, bias_ptr: tl.tensor,
    selected_ptr: tl.tensor, mask_ptr: tl.tensor, m_ptr: tl.tensor, tokens: int, h_stride: int,
    logits_stride: int, r: tl.constexpr, top_k: tl.constexpr, signed: tl.constexpr, given: tl.constexpr,
    R: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """h' = h * m (Eq. 4), its k active ranks (Eq. 5) and h' with zeros elsewhere; ROWS tokens of one member.

    h, logits: rows of `*_stride`, members side by side; gamma, beta, bias (members * r); selected, mask uint8
    and m (tokens, members * r) contiguous. What a kind of gate lacks is None. given: the mask is read, not
    made. m_ptr may be None.
    """
    dtype: tl.constexpr = selected_ptr.dtype.element_ty
    width = tl.num_programs(1) * r
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    columns = tl.arange(0, R)[None, :]
    first, in_rank = tl.program_id(1) * r, columns < r
    place, inside = first + columns, (rows < tokens) & in_rank
    own = rows * width + place
    h_mod = tl.load(h_ptr + rows * h_stride + place, mask=inside, other=0.0).to(tl.float32)
    if gamma_ptr is not None:
        m = tl.load(gamma_ptr + place, mask=in_rank, other=0.0).to(tl.float32)
        if logits_ptr is not None:
            beta = tl.load(beta_ptr + place, mask=in_rank, other=0.0).to(tl.float32)
            z = tl.load(logits_ptr + rows * logits_stride + place, mask=inside, other=0.0).to(tl.float32)
            m = modulation(z, m, beta, dtype)
            if m_ptr is not None:
                tl.store(m_ptr + own, m, mask=inside)
        h_mod = rounded(h_mod * m, dtype)
    if given:
        active = tl.load(mask_ptr + own, mask=inside, other=0) != 0
    else:
        biases = bias_ptr + first if bias_ptr is not None else None
        active = ranks(routing_keys(h_mod, biases, columns, in_rank, signed, dtype), columns, r) < top_k
        tl.store(mask_ptr + own, active.to(tl.uint8), mask=inside)
    tl.store(selected_ptr + own, tl.where(active, h_mod, 0.0), mask=inside)


@triton.jit
def route_backward_kernel(
    d_ptr: tl.tensor, h_ptr: tl.tensor, logits_ptr: tl.tensor, gamma_ptr: tl.tensor, beta_ptr: tl.tensor,
    mask_ptr: tl.tensor, dh_ptr: tl.tensor, dz_ptr: tl.tensor, sums_ptr: tl.tensor, tokens: int,
    d_stride: int, h_stride: int, logits_stride: int, dh_stride: int, dtype: tl.constexpr, r: tl.constexpr,
    R: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """From d, the gradient of h'[S], to those of h and of the gate's logits z; ROWS tokens of one member.

    dh = d m, dm = d h, dz = dm gamma s (1 - s) with s = sigmoid(z), d zero where not active. mask uint8 and
    dz (tokens, members * r) contiguous; the others rows of `*_stride`. sums float32 (2, blocks, members * r):
    over the rows of this block, dm s and dm (a static gate: (1, ...), dm). No gate: only dh is written.
    """
    width = tl.num_programs(1) * r
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    columns = tl.arange(0, R)[None, :]
    in_rank = columns < r
    place, inside = tl.program_id(1) * r + columns, (rows < tokens) & in_rank
    own = rows * width + place
    active = tl.load(mask_ptr + own, mask=inside, other=0) != 0
    d = tl.load(d_ptr + rows * d_stride + place, mask=inside, other=0.0).to(tl.float32)
    d = tl.where(active, d, 0.0)
    dh = d
    if gamma_ptr is not None:
        dm = d * tl.load(h_ptr + rows * h_stride + place, mask=inside, other=0.0).to(tl.float32)
        gamma = tl.load(gamma_ptr + place, mask=in_rank, other=0.0).to(tl.float32)
        sums = sums_ptr + tl.program_id(0) * width + place
        if logits_ptr is None:
            dh = d * gamma
            tl.store(sums, total(dm, 0, True), mask=in_rank)
        else:
            beta = tl.load(beta_ptr + place, mask=in_rank, other=0.0).to(tl.float32)
            z = tl.load(logits_ptr + rows * logits_stride + place, mask=inside, other=0.0).to(tl.float32)
            s = rounded(sigmoid(z), dtype)
            dh = d * modulation(z, gamma, beta, dtype)
            tl.store(dz_ptr + own, dm * gamma * s * (1.0 - s), mask=inside)
            tl.store(sums, total(dm * s, 0, True), mask=in_rank)
            sums += tl.num_programs(0) * width
            tl.store(sums, total(dm, 0, True), mask=in_rank)
    tl.store(dh_ptr + rows * dh_stride + place, dh, mask=inside)

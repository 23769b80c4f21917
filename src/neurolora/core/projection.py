"""The frozen sparse projection A (section 3.1), its 2-bit storage and its fingerprint.

Room: core, maths on tensors alone. The tuner makes A here, and saves and checks it with the rest.
A is a pure function of its arguments: every draw comes from a private generator on the CPU, with its
dtype and device written out, so that the global seed, the default dtype, a `torch.device` context and
the order of construction cannot change a bit of it.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from neurolora.errors import AdapterError, ConfigError, explain

ProjectionKind = Literal["ternary", "gaussian"]
ProjectionScale = Literal["unit", "paper"]

# Two bits an entry, the lowest bits first; 0b10 stands for nothing, so that damage can be seen.
_SHIFTS = (0, 2, 4, 6)
_INVALID_CODE = 2
_MINUS_CODE = 3
_BYTE_ENTRIES = torch.tensor(
    [[(0, 1, 0, -1)[byte >> shift & 3] for shift in _SHIFTS] for byte in range(256)],
    dtype=torch.int8,
    device="cpu",
)


@dataclass(frozen=True)
class Projection:
    """A sparse A (r, d) as it is stored: `A = scale * values`.

    values: int8 signs in {0, +1, -1} for a ternary A, float32 for a gaussian one; shape (r, d), on the CPU.
    scale: one number for the whole matrix.
    """

    values: Tensor
    scale: float

    def dense(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """A as a dense (r, d) tensor; each entry is the true product, rounded to float64, then to `dtype`."""
        return (self.values.to(torch.float64) * self.scale).to(dtype).to(device)

    def stored(self) -> Tensor:
        """The entries as a layer and a file keep them: packed to two bits for a ternary A, else float32."""
        return pack_ternary(self.values) if self.values.dtype == torch.int8 else self.values

    @classmethod
    def from_stored(cls, stored: Tensor, in_features: int, scale: float) -> Projection:
        """The inverse of `stored`. Raises AdapterError for packed entries that are none."""
        return cls(unpack_ternary(stored, in_features) if stored.dtype == torch.uint8 else stored, scale)


def dense_projection(stored: Tensor, in_features: int, scale: float, dtype: torch.dtype) -> Tensor:
    """A (r, d) in `dtype` from its stored entries, on their device: `Projection.dense`, made to be fast.

    Every byte of a packed A is looked up in a table of its four entries. Nothing is checked.
    """
    if stored.dtype != torch.uint8:
        return stored.to(dtype) * scale
    entries = _byte_entries(stored.device).to(dtype) * scale
    return torch.nn.functional.embedding(stored.int(), entries).flatten(1)[:, :in_features]


def write_dense_projection(out: Tensor, stored: Tensor, scale: float) -> None:
    """`dense_projection` into out (r, d), which has adjacent rows."""
    if stored.dtype != torch.uint8 or out.shape[1] % 4:
        out.copy_(dense_projection(stored, out.shape[1], scale, out.dtype))
        return
    entries = _byte_entries(stored.device).to(out.dtype) * scale
    torch.index_select(entries, 0, stored.view(-1).int(), out=out.view(-1, 4))


def _byte_entries(device: torch.device) -> Tensor:
    """The four entries 0, 1, -1 that each byte of a packed A stands for: (256, 4) integers."""
    if device.type == "cpu":
        return _BYTE_ENTRIES
    # made there: a copy from the host would make the device wait
    shifts = torch.arange(0, 8, 2, device=device)
    codes = (torch.arange(256, device=device).unsqueeze(1) >> shifts) & 3
    return (codes & 1) * (1 - (codes & 2))


def private_generator(*parts: object) -> torch.Generator:
    """A CPU generator that depends on nothing but `parts` (their reprs, hashed with sha256)."""
    digest = hashlib.sha256("\x1f".join(repr(part) for part in parts).encode()).digest()
    generator = torch.Generator(device="cpu")
    generator.manual_seed(int.from_bytes(digest[:8], "little"))
    return generator


def make_block_projections(
    blocks: int, out_rows: int, in_features: int, *, name: str, **request: Any
) -> Projection:
    """`make_projection` once for each block, one below the other: A (blocks * r, d).

    The first block is what the module would have without blocks; each other one has its own draw.
    """
    names = block_names(name, blocks)
    made = [make_projection(out_rows, in_features, name=each, **request) for each in names]
    return Projection(torch.cat([one.values for one in made]), made[0].scale)


def block_names(name: str, blocks: int) -> list[str]:
    """What the draws of each block of a module are keyed by: the first's is the module's own name."""
    return [name, *(f"{name}#{block}" for block in range(1, blocks))]


def make_projection(
    out_rows: int,
    in_features: int,
    *,
    kind: ProjectionKind,
    density: float,
    scale: ProjectionScale,
    seed: int,
    name: str,
) -> Projection:
    """Draw A (r, d) for the module `name`.

    ternary: entries i.i.d. 0, +1, -1 with probabilities 1 - density, density/2, density/2 (section 3.1).
    gaussian: exactly p = round(density * d), at least 1, entries N(0, 1) in each row (FlyLoRA's own code).
    scale "unit": both divided by sqrt(density * d), so that h = A x has the standard deviation of x.
    scale "paper": the signs as they are; the gaussian divided by r (std 1/r, FlyLoRA's own code).

    Raises ConfigError when a size is below 1, density outside (0, 1], or a name unknown.
    """
    _check_request(out_rows, in_features, kind, density, scale)
    generator = private_generator("A", int(seed), name, out_rows, in_features, kind, float(density))
    draw = _ternary if kind == "ternary" else _gaussian
    values = draw(out_rows, in_features, float(density), generator)
    return Projection(values, _scale_of(kind, scale, density, out_rows, in_features))


def pack_ternary(signs: Tensor) -> Tensor:
    """Signs int8 (r, d) in {0, +1, -1} as uint8 (r, ceil(d/4)), four entries a byte.

    Codes: 0 -> 0b00, +1 -> 0b01, -1 -> 0b11 (two's complement); the last byte is filled up with zeros.
    Raises AdapterError for another dtype, another number of dimensions, or another value.
    """
    if signs.dtype != torch.int8 or signs.dim() != 2 or bool(((signs < -1) | (signs > 1)).any()):
        raise AdapterError(
            explain(
                "Packing a ternary projection",
                f"the signs are {signs.dtype} of shape {tuple(signs.shape)}, or not all of 0, +1, -1",
                "Give an int8 matrix of signs; a gaussian projection is stored as float32.",
            )
        )
    rows, columns = signs.shape
    codes = torch.nn.functional.pad(signs & 3, (0, -columns % 4)).view(torch.uint8).view(rows, -1, 4)
    packed = codes[..., 0]
    for place in (1, 2, 3):
        packed = packed | (codes[..., place] << _SHIFTS[place])
    return packed.contiguous()


def unpack_ternary(packed: Tensor, in_features: int) -> Tensor:
    """The inverse of `pack_ternary`: uint8 (r, ceil(d/4)) -> int8 (r, d).

    Raises AdapterError when shape or dtype do not fit, a code is 0b10, or the filling is not zero.
    """
    if packed.dtype != torch.uint8 or packed.dim() != 2 or packed.shape[1] != -(-in_features // 4):
        raise AdapterError(
            explain(
                f"Unpacking a ternary projection of {in_features} columns",
                f"the packed tensor is {packed.dtype} of shape {tuple(packed.shape)}",
                f"It must be torch.uint8 of shape (r, {-(-in_features // 4)}): is it another model's?",
            )
        )
    shifts = torch.tensor(_SHIFTS, dtype=torch.uint8, device=packed.device)
    codes = ((packed.unsqueeze(-1) >> shifts) & 3).view(packed.shape[0], packed.shape[1] * 4)
    if bool((codes == _INVALID_CODE).any()) or bool(codes[:, in_features:].any()):
        raise AdapterError(
            explain(
                "Unpacking a ternary projection",
                "it holds codes that stand for no entry",
                "The file is damaged; fetch or save the adapter again.",
            )
        )
    codes = codes[:, :in_features]
    minus = torch.tensor(-1, dtype=torch.int8, device=packed.device)
    return torch.where(codes == _MINUS_CODE, minus, codes.to(torch.int8)).contiguous()


def fingerprint(values: Projection | Tensor, scale: float | None = None) -> str:
    """64 hex digits that stand for A as stored: sha256 of shape, dtype, scale (float64) and the entries.

    Takes a `Projection`, or its values and its scale. Of a dense copy it says nothing: the same A in bf16
    on a GPU has the same fingerprint, because only the stored values are read.
    """
    if isinstance(values, Projection):
        return fingerprint(values.values, values.scale)
    if scale is None:
        raise TypeError("fingerprint of bare values needs their scale too")
    values = values.detach().to("cpu").contiguous()
    header = f"neurolora A {tuple(values.shape)} {values.dtype} ".encode() + struct.pack("<d", scale)
    return hashlib.sha256(header + values.view(torch.uint8).numpy().tobytes()).hexdigest()


def _ternary(rows: int, columns: int, density: float, generator: torch.Generator) -> Tensor:
    """Signs int8: +1 where a uniform draw falls below density/2, -1 between density/2 and density."""
    uniform = torch.rand(rows, columns, generator=generator, dtype=torch.float32, device="cpu")
    below, within = uniform < density / 2, uniform < density
    return 2 * below.to(torch.int8) - within.to(torch.int8)


def _gaussian(rows: int, columns: int, density: float, generator: torch.Generator) -> Tensor:
    """N(0, 1) float32 at p positions of each row: those with the smallest of `columns` uniform draws."""
    kept = max(1, round(density * columns))
    uniform = torch.rand(rows, columns, generator=generator, dtype=torch.float32, device="cpu")
    order = torch.sort(uniform, dim=1, stable=True).indices[:, :kept]
    entries = _normal(rows, kept, generator)
    return (uniform * 0).scatter(1, order, entries)


def _normal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """N(0, 1) by Box and Muller in float64, then rounded: `torch.randn` varies with the CPU's vectors."""
    shape = (2, rows, columns)
    first, second = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
    radius = torch.sqrt(-2.0 * torch.log1p(-first))
    return (radius * torch.cos(2.0 * math.pi * second)).to(torch.float32)


def _scale_of(kind: ProjectionKind, scale: ProjectionScale, density: float, r: int, d: int) -> float:
    if scale == "unit":
        return 1.0 / math.sqrt(density * d)
    return 1.0 if kind == "ternary" else 1.0 / r


def _check_request(rows: int, columns: int, kind: str, density: float, scale: str) -> None:
    problems = [
        (rows < 1 or columns < 1, f"its shape is ({rows}, {columns})", "Both sizes must be at least 1."),
        (not 0 < density <= 1, f"density is {density}", "density is the fraction of non-zeros, in (0, 1]."),
        (kind not in get_args(ProjectionKind), f"projection is {kind!r}", "Use 'ternary' or 'gaussian'."),
        (scale not in get_args(ProjectionScale), f"projection_scale is {scale!r}", "Use 'unit' or 'paper'."),
    ]
    for wrong, found, do in problems:
        if wrong:
            raise ConfigError(explain("Drawing a projection A", found, do))

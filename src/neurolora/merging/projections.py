"""A as it lies in an adapter's file: read and checked, or drawn again where only its seed was saved.

Room: merging. The interference report and `report.inspection` call it; one module's A at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from neurolora.errors import AdapterError, FingerprintMismatchError, explain

if TYPE_CHECKING:
    from neurolora.core.projection import Projection

ENTRIES_A_BYTE = 4


def recorded_fingerprint(weights: Any, key: str) -> str:
    """The fingerprint of A that was stored beside it, 64 hex digits."""
    import torch

    return bytes(weights.get_tensor(key).flatten().to(torch.uint8).tolist()).hex()


def read_projection(weights: Any, name: str, parts: dict[str, str], width: int | None = None) -> Projection:
    """The stored A of a module, of the number of columns whose fingerprint is the one stored beside it.

    A packed A has four entries a byte, so without a known `width` there are four that it could have.
    Raises FingerprintMismatchError if A is none of them.
    """
    import torch

    stored = weights.get_tensor(parts["neurolora_A"])
    scale = float(weights.get_tensor(parts["neurolora_A_scale"]).flatten()[0])
    packed = stored.dtype == torch.uint8
    most = stored.shape[1] * (ENTRIES_A_BYTE if packed else 1)
    widths = [width] if width else range(most, most - ENTRIES_A_BYTE if packed else most - 1, -1)
    candidates = (_unpacked(stored, columns, scale) for columns in widths)
    recorded = recorded_fingerprint(weights, parts["neurolora_A_fingerprint"])
    found, digest = _with_fingerprint((one for one in candidates if one is not None), recorded)
    if found is None:
        raise _mismatch(name, digest, recorded, "The file is damaged: copy or save it again")
    return found


def drawn_projection(config: dict[str, Any], name: str, r: int, width: int, recorded: str) -> Projection:
    """The A that was not saved, from its seed.

    Its name was the module's path without wrappers, and which segments were wrappers the file does not
    tell: every ending of the path is tried. Raises FingerprintMismatchError if none gives the recorded A.
    """
    from neurolora.core.projection import make_projection

    segments = name.split(".")
    drawn = (
        make_projection(
            r,
            width,
            kind=config.get("projection", "ternary"),
            density=config.get("density", 0.25),
            scale=config.get("projection_scale", "unit"),
            seed=config.get("projection_seed", 0),
            name=".".join(segments[start:]),
        )
        for start in range(len(segments))
    )
    found, digest = _with_fingerprint(drawn, recorded)
    if found is None:
        raise _mismatch(name, digest, recorded, "Save the adapter again with save_projection=True")
    return found


def _unpacked(stored: Any, columns: int, scale: float) -> Projection | None:
    """A of this width; None if the stored bytes cannot be one."""
    from neurolora.core.projection import Projection

    try:
        return Projection.from_stored(stored, columns, scale)
    except AdapterError:
        return None


def _with_fingerprint(candidates: Iterable[Projection], recorded: str) -> tuple[Projection | None, str]:
    """The first that has the recorded fingerprint, or None and the last fingerprint that was seen."""
    from neurolora.core.projection import fingerprint

    digest = "nothing that can be read"
    for candidate in candidates:
        digest = fingerprint(candidate)
        if digest == recorded:
            return candidate, digest
    return None, digest


def _mismatch(name: str, found: str, recorded: str, do: str) -> FingerprintMismatchError:
    what = found if " " in found else found[:16]
    return FingerprintMismatchError(
        explain(
            f"checking the projection A of {name}",
            f"its fingerprint is {what}, but {recorded[:16]} is stored beside it",
            do,
        )
    )

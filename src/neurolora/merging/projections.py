"""A of a routed module: stored, trained, or drawn again where only its seed was saved; always checked.

Room: merging. Comparing, merging and `report.inspection` call it; one module's A at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from neurolora.adapter_file import FINGERPRINT, GATE, SCALE, TRAINED_A, UP, A
from neurolora.adapter_reader import AdapterReader
from neurolora.errors import AdapterError, FingerprintMismatchError, explain

if TYPE_CHECKING:
    from neurolora.core.projection import Projection

ENTRIES_A_BYTE = 4


def projection_of(source: AdapterReader, module: str) -> Projection:
    """A (r, d) of one module, with the fingerprint that is stored beside B.

    Raises AdapterError if only the seed of A is there and its width is not known; FingerprintMismatchError
    if A is not what the file says it is.
    """
    from neurolora.core.projection import fingerprint

    parts, recorded = source.modules[module], recorded_fingerprint(source, module)
    if A in parts or TRAINED_A in parts:
        candidates, do = _stored(source, module), "The file is damaged: copy or save it again"
    else:
        candidates, do = _drawn(source, module), "Save the adapter again with save_projection=True"
    digest = "that of nothing that can be read"
    for candidate in candidates:
        digest = fingerprint(candidate)
        if digest == recorded:
            return candidate
        digest = digest[:16]
    found = f"its fingerprint is {digest}, but {recorded[:16]} is stored beside it"
    raise FingerprintMismatchError(
        explain(f"checking the projection A of {module} in {source.folder}", found, do)
    )


def recorded_fingerprint(source: AdapterReader, module: str) -> str:
    """The fingerprint of A that is stored beside a module's B, 64 hex digits."""
    import torch

    stored = source.get_tensor(source.modules[module][FINGERPRINT])
    return bytes(stored.flatten().to(torch.uint8).tolist()).hex()


def known_width(source: AdapterReader, module: str) -> int | None:
    """in_features where the module has a gate of its own that tells it."""
    part = f"{GATE}W1"
    return source.shape_of(module, part)[1] if part in source.modules[module] else None


def _stored(source: AdapterReader, module: str) -> Iterator[Projection]:
    """What the stored A may be: four entries are in a byte, so a packed one may have four widths."""
    import torch

    from neurolora.core.projection import Projection

    parts = source.modules[module]
    if A not in parts:
        yield Projection(source.get_tensor(parts[TRAINED_A]), 1.0)
        return
    stored, scale = source.get_tensor(parts[A]), float(source.get_tensor(parts[SCALE]).flatten()[0])
    if stored.dtype != torch.uint8:
        yield Projection(stored, scale)
        return
    width, most = known_width(source, module), stored.shape[-1:].numel() * ENTRIES_A_BYTE
    for columns in [width] if width else range(most, most - ENTRIES_A_BYTE, -1):
        with suppress(AdapterError):  # bytes that cannot be an A of this width
            yield Projection.from_stored(stored, columns, scale)


def _drawn(source: AdapterReader, module: str) -> Iterator[Projection]:
    """The A's that the seed may have given.

    A's name was the module's path without wrappers, and which segments were wrappers the file does not
    tell: every ending of the path is tried.
    """
    from neurolora.core.projection import make_block_projections

    width, config = known_width(source, module), source.config
    if width is None:
        found = "only the seed of A was saved, and without a gate of its own its width is not known"
        do = "Save the adapter again with save_projection=True"
        raise AdapterError(explain(f"reading the projection A of {module} in {source.folder}", found, do))
    blocks, segments = config.get("blocks", 1), module.split(".")
    for start in range(len(segments)):
        yield make_block_projections(
            blocks,
            source.shape_of(module, UP)[1] // blocks,
            width,
            kind=config.get("projection", "ternary"),
            density=config.get("density", 0.25),
            scale=config.get("projection_scale", "unit"),
            seed=config.get("projection_seed", 0),
            name=".".join(segments[start:]),
        )

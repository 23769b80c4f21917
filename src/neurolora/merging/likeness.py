"""What two adapters were made with: whether their A, base, tokenizer and heads are the same.

Room: merging. Each function compares parents with the first of them, reads what it needs tensor by tensor,
and says in plain words what differs, with both values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurolora.adapter_file import SCALE, TRAINED_A, A
from neurolora.adapter_reader import AdapterReader
from neurolora.errors import FingerprintMismatchError
from neurolora.merging.projections import projection_of
from neurolora.provenance import fingerprint_file, fingerprint_json
from neurolora.tuner.fingerprint import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE, SHARE_THAT_MAY_DIFFER

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
#: Keys of these files that say how a tokenizer was loaded, cut or padded in a run, not what its tokens are.
OF_LOADING = frozenset({
    "_commit_hash", "_name_or_path", "cache_dir", "is_local", "local_files_only", "name_or_path", "padding",
    "processor_class", "special_tokens_map_file", "tokenizer_file", "transformers_version", "truncation",
})  # fmt: skip
SHOWN = 16  # letters of a fingerprint
LONGEST = 40  # letters of a value


def is_projection(key: str) -> bool:
    """Whether a tensor is A, its scale or its fingerprint; of A a file may hold the seed alone."""
    return ".neurolora_A" in key


def is_what_it_says(source: AdapterReader, module: str) -> bool:
    """Whether a stored A has the fingerprint stored beside it; True where only the seed was saved."""
    parts = source.modules[module]
    if A not in parts and TRAINED_A not in parts:
        return True
    try:
        projection_of(source, module)
    except FingerprintMismatchError:
        return False
    return True


def same_stored_projection(source: AdapterReader, other: AdapterReader, module: str) -> bool:
    """Whether two files hold the same bytes of A and its scale."""
    first, second = _stored(source, module), _stored(other, module)
    if first is None or second is None:
        return False
    return first[1] == second[1] and same_bytes(first[0], second[0])


def _stored(source: AdapterReader, module: str) -> tuple[Tensor, float] | None:
    parts = source.modules[module]
    key = parts.get(A) or parts.get(TRAINED_A)
    return (source.get_tensor(key), float(source.get_tensor(parts[SCALE]).flatten()[0])) if key else None


def same_bytes(first: Tensor, second: Tensor) -> bool:
    """Equal in shape, dtype and every bit."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    return torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))


def base_difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """In which way two saved fingerprints are those of two bases; None if of one, by the tuner's tolerance.

    A key or a tensor that only one side has is no difference.
    """
    if first.get("digest") == second.get("digest"):
        return None
    named = f"base {first.get('digest')} and {second.get('digest')}"
    old, new = first.get("architecture") or {}, second.get("architecture") or {}
    changed = {key: (old[key], new[key]) for key in sorted(set(old) & set(new)) if old[key] != new[key]}
    if changed:
        return f"{named}, which differ in {changed}"
    old, new = first.get("sample") or {}, second.get("sample") or {}
    pairs = [pair for key in set(old) & set(new) for pair in zip(old[key], new[key], strict=False)]
    differing = sum(not _close(*pair) for pair in pairs)
    if differing > SHARE_THAT_MAY_DIFFER * len(pairs):
        return f"{named}, of one architecture with other weights"
    return None


def _close(old: float, new: float) -> bool:
    return abs(old - new) <= max(ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE * max(abs(old), abs(new)))


def tokenizer_differences(folders: Sequence[Path]) -> list[str]:
    """Tokenizer files that do not mean the same in all folders that have them, with what differs."""
    problems = []
    for name in TOKENIZER_FILES:
        digests = {folder: fingerprint_file(folder / name) for folder in folders if (folder / name).is_file()}
        first = next(iter(digests), None)
        for folder, digest in digests.items():
            if first is not None and digest != digests[first]:
                difference = _file_difference(first / name, folder / name, digests[first], digest)
                problems += [f"{name} of {first} and {folder}: {difference}"] if difference else []
    return problems


def _file_difference(first: Path, other: Path, digest: str, other_digest: str) -> str | None:
    """What two JSON files say differently, both values told; None if nothing that tells tokens apart."""
    one, two = (_json_object(path) for path in (first, other))
    if one is None or two is None:
        return f"fingerprints {digest[:SHOWN]} and {other_digest[:SHOWN]}"
    keys = [key for key in sorted({*one, *two} - OF_LOADING) if one.get(key) != two.get(key)]
    shown = [f"{key} is {_shown(one.get(key))} and {_shown(two.get(key))}" for key in keys]
    return ", ".join(shown) or None


def _json_object(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _shown(value: Any) -> str:
    """A short value itself, of a long one its fingerprint."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else fingerprint_json(value)[:SHOWN]


def head_differences(first: AdapterReader, other: AdapterReader) -> list[str]:
    """Tensors beside the adapter (modules_to_save) that one lacks, or that are not the same in both."""
    lacking = sorted(set(first.others) ^ set(other.others))
    shared = [key for key in first.others if key in set(other.others)]
    differing = [key for key in shared if not same_bytes(first.get_tensor(key), other.get_tensor(key))]
    return [f"{key} is in one of them only" for key in lacking] + [f"{key} differs" for key in differing]

"""The fingerprint of the code that a cell's numbers depend on: our files, and the versions of libraries.

Room: studies. It reads the package's own sources. Comments, docstrings and layout do not count, and neither
do files that only show or count things.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

from neurolora.provenance import package_versions

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "lm-eval",
    "tokenizers",
    "numpy",
    "numba",
    "triton",
)
_FLOOR = ("adapter_reader.py", "adapter_file.py", "studies/work.py")
_TRAINING = ("core", "tuner", "tasks", "world", "training", *_FLOOR)
_SCORING = (*_TRAINING, "evaluation", "continual/scoring.py")
#: Kind of cell -> the rooms that its numbers come from.
ROOMS = {
    "base": _SCORING,
    "train": (*_TRAINING, "report/inspection.py"),
    "score": _SCORING,
    "merge": (*_TRAINING, "evaluation", "merging", "continual/scoring.py"),
    "stream": (*_TRAINING, "evaluation", "merging", "continual"),
}
#: Files of these rooms that no score depends on, but where a kind of cell uses them after all.
USED = {"stream": frozenset({"tuner/statistics.py"})}  # `protect` weighs its loss by them
SHOWING = frozenset(
    f"{room}/{name}.py"
    for room, names in {
        "training": ("progress", "plan", "memory", "names", "flags", "metrics", "peak"),
        "tuner": ("statistics",),
        "core": ("accounting",),
        "evaluation": ("comparison", "foreign", "accuracy_estimate"),
        "tasks": ("naming", "saved", "unlabelled"),
    }.items()
    for name in names
)


@cache
def code_fingerprint(kind: str) -> str:
    """`code_on_disk` when this process first asked: that of the code which it runs."""
    return code_on_disk(kind)


def code_on_disk(kind: str) -> str:
    """SHA-256 over the syntax trees of a kind of cell's files, and the libraries' versions, in hex."""
    versions = package_versions()
    files = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in _files(kind))
    return _fingerprint(repr([versions[name] for name in LIBRARIES]), files)


@cache
def _fingerprint(versions: str, files: tuple[tuple[Path, int, int], ...]) -> str:
    """Times and sizes are asked for so that files which nobody has written to are not parsed again."""
    digest = hashlib.sha256(versions.encode())
    for path, _, _ in files:
        name = path.relative_to(PACKAGE).as_posix()
        digest.update(f"{name}\n{_meaning(path.read_text(encoding='utf-8'))}\n".encode())
    return digest.hexdigest()


def _files(kind: str) -> list[Path]:
    found: list[Path] = []
    for room in ROOMS[kind]:
        place = PACKAGE / room
        found += [place] if place.is_file() else sorted(place.rglob("*.py"))
    left_out = SHOWING - USED.get(kind, frozenset())
    return [path for path in found if path.relative_to(PACKAGE).as_posix() not in left_out]


def _meaning(source: str) -> str:
    """The syntax tree without docstrings and places: equal for code that does the same line by line."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree, include_attributes=False)

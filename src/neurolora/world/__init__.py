"""The embedded default: a fictional world with three tasks, its text, and a small model that has read it.

Room: world. Tasks, evaluation, the commands and the tests may call it. Pure Python; it reads only the
bundled folder, and never the network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from neurolora.errors import ConfigError, explain
from neurolora.world.passage import passage_rows
from neurolora.world.recall import recall_rows
from neurolora.world.splits import SPLITS, Row, check_split
from neurolora.world.sums import sums_rows
from neurolora.world.text import generate_text

MODEL_ALIAS = "world"
#: What model cards call it: neither its alias nor its path is a name on the hub.
MODEL_IN_WORDS = "the model bundled with neurolora"
_MAKERS: dict[str, Callable[[str, int], list[Row]]] = {
    "world-recall": recall_rows,
    "world-passage": passage_rows,
    "world-sums": sums_rows,
}
WORLD_TASKS = tuple(_MAKERS)

__all__ = [
    "MODEL_ALIAS",
    "MODEL_IN_WORDS",
    "SPLITS",
    "WORLD_TASKS",
    "bundled_model_path",
    "generate_rows",
    "generate_text",
    "is_bundled_model",
    "resolve_model_name",
]


def generate_rows(task: str, split: str, seed: int = 0) -> list[Row]:
    """Canonical rows of a world task; `seed` names the world (the bundled model has read world 0).

    The same arguments give the same rows in any process; the three splits share no content.
    Raises `ConfigError` for an unknown task or split.
    """
    if task not in _MAKERS:
        raise ConfigError(explain(f"task {task!r} of the world", "no such task", f"Use one of {WORLD_TASKS}"))
    check_split(split)
    return _MAKERS[task](split, seed)


def bundled_model_path() -> Path:
    """The folder with the small pre-trained model and its tokenizer."""
    return Path(__file__).parent / "bundled"


def is_bundled_model(name: str | None) -> bool:
    """Whether a base model's name means the bundled one: its alias, or its path in any installation."""
    if not name or name == MODEL_ALIAS:
        return name == MODEL_ALIAS
    own = bundled_model_path().parts[-3:]
    return Path(name).is_absolute() and Path(name).parts[-3:] == own


def resolve_model_name(name: str) -> str:
    """The path behind the alias `world`; any other name comes back as it is."""
    return str(bundled_model_path()) if name == MODEL_ALIAS else name

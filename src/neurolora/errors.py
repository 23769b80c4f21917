"""The errors of the whole house: each says what was asked, what was found and what to do.

Room: the floor. Everybody may import this file; it imports nothing of ours.
Every kind is also a standard-library error, so `except ValueError` keeps working for users.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class NeuroLoraError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(NeuroLoraError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class TargetError(ConfigError):
    """No module, or a module of an unsupported kind, was named as a target."""


class DataError(NeuroLoraError, ValueError):
    """A data file or one of its rows cannot be used."""


class AdapterError(NeuroLoraError, ValueError):
    """An adapter's files are incomplete, damaged, or do not fit the model."""


class FingerprintMismatchError(AdapterError):
    """Two things that must be the same (a projection A, a base model) are not."""


class UnsupportedOperationError(NeuroLoraError, NotImplementedError):
    """Something that the method cannot do by its nature, such as folding into W0."""


class TrainingError(NeuroLoraError, RuntimeError):
    """Training had to stop: NaN in the loss, a checkpoint that cannot be resumed."""


class DivergedError(TrainingError):
    """The loss or a gradient became NaN or infinite: with the same settings it would again."""


class OutputError(NeuroLoraError, OSError):
    """A result could not be written; nothing that was there before has been touched."""


def explain(asked: str, found: str, do: str) -> str:
    """One message in the house's order: what was asked, what was found, what to do."""
    return f"{asked}: {found}. {do}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing when no known name is like `name`."""
    close = difflib.get_close_matches(str(name).replace("-", "_"), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def itemised(problems: Sequence[str]) -> str:
    """`2 problems` and a line for each: what was found, where there may be several."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return count + "".join(f"\n  - {problem}" for problem in problems)

"""Where the commands write: one JSON document on stdout, everything for people on stderr.

Room: cli. Any command may call it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from neurolora.errors import ConfigError, explain

if TYPE_CHECKING:
    import typer
    from rich.console import Console
    from rich.progress import Progress


PIPE_WIDTH = 160


def messages() -> Console:
    """A console on stderr for progress, notes and warnings; it breaks no path in two."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def results() -> Console:
    """A console on stdout for tables that are a result; wide enough for them in a file or pipe."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def progress_bars(*, remaining: bool = False, disable: bool = False) -> Progress:
    """Bars on stderr that count, with the time that has passed, or that remains; gone when they are done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    clock = Remaining() if remaining else Elapsed()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), clock)
    return Progress(*columns, console=messages(), transient=True, disable=disable)


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the parameter stands on the command line, be it with the value that it has anyway."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_given(context: typer.Context, names: Sequence[str], asked: str, found: str) -> None:
    """Raises ConfigError for those of the parameters that stand on the command line. asked: beside what."""
    given = ", ".join(f"--{name.replace('_', '-')}" for name in names if is_given(context, name))
    if given:
        raise ConfigError(explain(f"{asked} with {given}", found, f"Leave out {given}"))


def print_json(value: Any) -> None:
    """Print one JSON document on stdout. NaN and infinities, which JSON does not know, become null."""
    sys.stdout.write(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """`value` with tuples as lists, keys and paths as strings, and numbers that JSON can write."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)

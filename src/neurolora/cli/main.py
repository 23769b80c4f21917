"""The command `neurolora`: a table of commands, each loaded only when it is used.

Room: cli, the top. Nobody imports it but the entry point and tests. It turns the house's errors into
one message on stderr and an exit code; what a command does is the business of its own file.

A command file `neurolora/cli/<module>.py` holds one typer-annotated function, and may hold
`CONTEXT_SETTINGS`, a dict that is handed to the command (for example to let unknown flags through).
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from neurolora.errors import (
    AdapterError,
    ConfigError,
    DataError,
    NeuroLoraError,
    OutputError,
    TrainingError,
    UnsupportedOperationError,
)

PROGRAM = "neurolora"
FAILED = 1
#: How help is read: rich's own markup would take `[default: 1]` for a style and drop it.
MARKUP: Literal["markdown"] = "markdown"
INTERRUPTED = 130
#: They warn whoever imports them of a kernel that nobody has asked for.
CHATTY = ("bitsandbytes.backends.cpu.ops",)


@dataclass(frozen=True)
class CommandRow:
    """One command: its name, the file and function that hold it, and its line in the help.

    In place of a function the file may hold a dict of them: the command's own commands by name.
    """

    name: str
    module: str
    function: str
    summary: str


COMMANDS = (
    CommandRow("train", "neurolora.cli.train", "train_command", "Fine-tune a model with a routed adapter."),
    CommandRow("eval", "neurolora.cli.evaluate", "evaluate_command", "Score a model or an adapter on tasks."),
    CommandRow("generate", "neurolora.cli.generate", "generate_command", "Continue prompts with an adapter."),
    CommandRow(
        "estimate",
        "neurolora.cli.estimate",
        "estimate_command",
        "Estimate an adapter's accuracy on data without labels.",
    ),
    CommandRow("inspect", "neurolora.cli.inspect", "inspect_command", "Show what an adapter folder holds."),
    CommandRow("merge", "neurolora.cli.merge", "merge_command", "Merge adapters into one, without training."),
    CommandRow(
        "reproduce",
        "neurolora.cli.reproduce",
        "reproduce_command",
        "Run a table of the paper: train, score, compare.",
    ),
    CommandRow(
        "continual",
        "neurolora.cli.continual",
        "continual_command",
        "Learn task after task, and measure what is kept.",
    ),
    CommandRow("fly", "neurolora.cli.fly", "FLY_COMMANDS", "Learn class after class on frozen features."),
    CommandRow("bench", "neurolora.cli.bench", "bench_command", "Measure speed and memory beside LoRA."),
    CommandRow("demo", "neurolora.cli.demo", "demo_command", "Run the main job on the embedded default."),
)

#: Error kind -> exit code, the most special kind first.
EXIT_CODES: tuple[tuple[type[NeuroLoraError], int], ...] = (
    (ConfigError, 2),
    (UnsupportedOperationError, 2),
    (DataError, 3),
    (AdapterError, 4),
    (TrainingError, 5),
    (OutputError, 6),
    (NeuroLoraError, FAILED),
)

EPILOG = (
    "Exit codes: 0 done; 1 the run failed; 2 wrong usage or config; 3 bad data; 4 bad adapter or one that "
    "does not fit; 5 training stopped (a NaN, a checkpoint that cannot be resumed); 6 an output could not "
    "be written; 130 interrupted."
)


def hyphenate(name: str) -> str:
    """`batch_size` and `batch-size` are one name to the command line."""
    return name.replace("_", "-")


CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": hyphenate,
}


class LazyGroup(TyperGroup):
    """A group whose help needs no command file: each is imported when it is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for row in COMMANDS:
            self.add_command(TyperCommand(row.name, help=row.summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command by name as usual, then put the real one in the place of its help line."""
        name, placeholder, rest = super().resolve_command(ctx, args)
        row = next((row for row in COMMANDS if row.name == name), None)
        return name, placeholder if row is None else load_command(row), rest


def load_command(row: CommandRow) -> Any:
    """Import the command's file and make a click command of its function, or a group of its functions."""
    module = importlib.import_module(row.module)
    settings = CONTEXT_SETTINGS | getattr(module, "CONTEXT_SETTINGS", {})
    found = getattr(module, row.function)
    options: dict[str, Any] = {"context_settings": settings, "rich_markup_mode": MARKUP}
    if isinstance(found, dict):
        options["no_args_is_help"] = True
    several = found if isinstance(found, dict) else {row.name: found}
    single = typer.Typer(name=row.name, help=row.summary, add_completion=False, **options)
    for name, function in several.items():
        single.command(name=name, context_settings=settings)(function)
    return typer.main.get_command(single)


app = typer.Typer(
    cls=LazyGroup,
    rich_markup_mode=MARKUP,
    no_args_is_help=True,
    context_settings=CONTEXT_SETTINGS,
    epilog=EPILOG,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from neurolora import __version__

        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


VersionFlag = Annotated[
    bool, typer.Option("--version", help="Show the version and stop.", callback=_show_version, is_eager=True)
]
DebugFlag = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error (also: NEUROLORA_DEBUG=1).")
]


@app.callback()
def root(version: VersionFlag = False, debug: DebugFlag = False) -> None:
    """Routed low-rank adapters (NeuroLoRA and FlyLoRA): train, evaluate, use, inspect and merge them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is the exit code. No error leaves it as a traceback, unless asked."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        code = _run(arguments)
    except Exception as error:
        if wants_traceback(arguments):
            raise
        _say(describe(error))
        return exit_code_of(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        _say("interrupted")
    return code or _flush_output()


def _run(arguments: list[str]) -> int:
    """Click's own run: it shows usage errors itself and always leaves by SystemExit."""
    try:
        typer.main.get_command(app).main(args=arguments, prog_name=PROGRAM)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0


def _flush_output() -> int:
    """Write out what is buffered; a reader that has gone away (`| head`) is no error worth a traceback."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return 0


def exit_code_of(error: Exception) -> int:
    """The documented exit code of an error; a full disk counts as an output error whoever met it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return next(code for kind, code in EXIT_CODES if kind is OutputError)
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), FAILED)


def describe(error: Exception) -> str:
    """Our own errors say everything themselves; of any other, its kind and where to see more."""
    if isinstance(error, NeuroLoraError):
        return f"error: {error}"
    kind = type(error).__name__
    return f"unexpected {kind}: {error}\nFor the traceback: {PROGRAM} --debug ... or NEUROLORA_DEBUG=1"


def wants_traceback(arguments: Sequence[str]) -> bool:
    """Asked for by the environment, or by `--debug` before the command's name."""
    if os.environ.get("NEUROLORA_DEBUG", "") not in ("", "0"):
        return True
    for argument in arguments:
        if not argument.startswith("-"):
            return False
        if argument == "--debug":
            return True
    return False


def _say(message: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"{PROGRAM}: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

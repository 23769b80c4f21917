"""`neurolora fly train|eval`: class after class on frozen features, without forgetting.

Room: cli. It reads options and prints; the work is done in `neurolora.fly`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurolora.cli.console import print_json, progress_bars, refuse_given, results
from neurolora.errors import ConfigError, explain

if TYPE_CHECKING:
    from neurolora.fly.backbone import BackboneSettings
    from neurolora.fly.data import LabelledSource
    from neurolora.fly.folder import RunFacts
    from neurolora.fly.run import FlyTraining
    from neurolora.fly.stream import StreamResult

Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="Labelled texts (file, folder or hub name), or with --images a folder of SPLIT/CLASS/*.png.",
    ),
]
OtherData = Annotated[str | None, typer.Option("--data", help="Other data than the run's own.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Folder to write.")]
BackboneName = Annotated[
    str | None, typer.Option("--backbone", help="Folder or hub name of an encoder, frozen.")
]
Images = Annotated[bool, typer.Option("--images", help="The items are images, not texts.")]
Pooling = Annotated[
    str | None, typer.Option("--pooling", help="mean (texts), cls (images) or pooler.", show_default=False)
]
MaxLength = Annotated[int, typer.Option("--max-length", help="Tokens of a text; longer ones are cut.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Items a forward pass of the backbone.")]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, ... [default: a GPU if there is one]")
]
Column = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="FIELD=NAME", help="Other column names: sentence=text, label=category."),
]
Limit = Annotated[int | None, typer.Option("--limit", help="At most so many rows of each split.")]
Validation = Annotated[float, typer.Option("--test-fraction", help="Held out where there is no test split.")]
PerStep = Annotated[
    int | None, typer.Option("--classes-per-step", help="New classes a step. [default: all at once]")
]
ClassSeed = Annotated[
    int | None, typer.Option("--class-seed", help="Shuffles the classes. [default: by name]")
]
Cells = Annotated[int, typer.Option("--n-components", help="Kenyon cells; memory grows with their square.")]
FanIn = Annotated[
    str, typer.Option("--fan-in", help="Features that a cell reads: a count (12) or a share (0.39).")
]
Level = Annotated[str, typer.Option("--coding-level", help="Cells that win: a count (500) or a share (0.3).")]
ReadoutName = Annotated[str, typer.Option("--readout", help="ridge (Fly-CL) or associative (Fly Model).")]
Alpha = Annotated[str, typer.Option("--alpha", help="The ridge penalty, or gcv to choose it.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the expansion, and of what --limit draws.")]
StartFrom = Annotated[
    Path | None,
    typer.Option("--start-from", metavar="RUN", help="Go on learning from an earlier run's folder."),
]
Cache = Annotated[
    Path | None, typer.Option("--cache-dir", help="Where features are kept. [default: the user's cache]")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor write features on disk.")]
Split = Annotated[str, typer.Option("--split", help="train, validation or test.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `fly train` has written.")]


#: What an earlier run has decided for those that go on from it: the encoder's features, the classifier, and
#: the seed, by which --limit draws.
DECIDED = ("pooling", "max_length", "n_components", "fan_in", "coding_level", "readout", "alpha", "seed")


def train_command(
    context: typer.Context,
    data: Data,
    output: Output,
    backbone: BackboneName = None,
    images: Images = False,
    pooling: Pooling = None,
    max_length: MaxLength = 128,
    batch_size: BatchSize = 32,
    device: Device = None,
    column: Column = None,
    limit: Limit = None,
    test_fraction: Validation = 0.0,
    classes_per_step: PerStep = None,
    class_seed: ClassSeed = None,
    n_components: Cells = 10_000,
    fan_in: FanIn = "0.39",
    coding_level: Level = "0.3",
    readout: ReadoutName = "ridge",
    alpha: Alpha = "gcv",
    seed: Seed = 0,
    start_from: StartFrom = None,
    cache_dir: Cache = None,
    no_cache: NoCache = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Learn classes step by step on a frozen encoder's features, and score all seen classes after each.

    Nothing of earlier steps is stored or forgotten: the classifier keeps sums. New classes may come at any
    time, also later: --start-from, which scores the earlier runs' test rows too. Features are computed once
    and kept on disk.

    Example: `neurolora fly train --backbone sentence-transformers/all-MiniLM-L6-v2 --data ag_news
    --column sentence=text --classes-per-step 1 -o runs/fly`.
    """
    from neurolora.fly.run import FlyRun, train_fly

    earlier = _earlier(context, start_from)
    kind = _kind(images, start_from, earlier)
    own_seed = seed if earlier is None else earlier.data.seed
    settings = {"kind": kind, "pooling": pooling, "max_length": max_length, "batch_size": batch_size}
    run = FlyRun(
        data=_source(data, kind, column, limit=limit, seed=own_seed, test_fraction=test_fraction),
        backbone=_backbone(backbone, earlier, settings | {"device": device}),
        classifier={
            "n_components": n_components, "fan_in": _share("--fan-in", fan_in),
            "coding_level": _share("--coding-level", coding_level), "readout": readout,
            "alpha": _alpha(alpha), "random_state": seed,
        },
        classes_per_step=classes_per_step,
        class_seed=class_seed,
        start_from=start_from,
        cache=_cache(cache_dir, no_cache),
    )  # fmt: skip
    with _bars() as progress:
        found = train_fly(run, output, overwrite=overwrite, progress=progress)
    _tell_training(found, output, as_json)


def _tell_training(found: FlyTraining, output: Path, as_json: bool) -> None:
    """The stream step by step, what could not be scored, and where it lies."""
    if as_json:
        print_json({"output": str(output), **found.to_dict()})
        return
    stream = found.stream
    results().print(_stream_table(stream))
    told = f"average over steps {100 * stream.average:.1f}%, last {100 * stream.last:.1f}%"
    notes = _not_scored(stream) + _not_there(found.missing) + _not_learned(found.left_out)
    results().print(f"{told}{notes}\nfolder  {output}", markup=False)


def eval_command(
    run: Run,
    data: OtherData = None,
    split: Split = "test",
    column: Column = None,
    limit: Limit = None,
    device: Device = None,
    cache_dir: Cache = None,
    no_cache: NoCache = False,
    as_json: AsJson = False,
) -> None:
    """Score a run on a split of its own data and of the runs that it goes on from, or of other data."""
    from neurolora.fly.folder import read_run
    from neurolora.fly.run import evaluate_fly

    if data is None and (column or limit):
        do = "Give --data too, or leave them out"
        raise ConfigError(explain("fly eval --column or --limit", "they say how other data are read", do))
    kind = read_run(run).backbone.kind if data else "text"
    source = _source(data, kind, column, limit=limit) if data else None
    cache = _cache(cache_dir, no_cache)
    with _bars() as progress:
        found = evaluate_fly(run, source, split=split, device=device, cache=cache, progress=progress)
    if as_json:
        print_json(found.to_dict())
        return
    from neurolora.cli.tables import plain_table

    rows = [(name, 100 * share) for name, share in found.classes.items()]
    results().print(plain_table(f"{run} on {split}, in percent", ("class", "right"), rows))
    told = f"accuracy {100 * found.accuracy:.1f} ± {100 * found.stderr:.1f}% of {found.rows} rows"
    results().print(told + _not_there(found.missing), markup=False)


#: What stands behind `neurolora fly`.
FLY_COMMANDS = {"train": train_command, "eval": eval_command}


def _source(data: str, kind: str, column: list[str] | None, **options: Any) -> LabelledSource:
    from neurolora.fly.data import LabelledSource

    columns = {}
    for pair in column or []:
        field, equals, name = pair.partition("=")
        if not (field and equals and name):
            raise ConfigError(explain(f"--column {pair}", "it is no pair", "Write it as sentence=text"))
        columns[field] = name
    return LabelledSource(data, kind=kind, columns=columns, **options)


def _backbone(name: str | None, earlier: RunFacts | None, settings: dict[str, Any]) -> BackboneSettings:
    """The encoder that was named; where a run is gone on with, the one of that run."""
    from neurolora.fly.backbone import BackboneSettings

    if earlier is None:
        if name is None:
            do = "Give --backbone FOLDER_OR_NAME, or --start-from RUN"
            raise ConfigError(explain("fly train", "no backbone is named", do))
        return BackboneSettings(name, **settings)
    own = earlier.backbone
    if name is not None and name != own.name:
        found = f"the run was made with {own.name}"
        raise ConfigError(explain(f"fly train --backbone {name} --start-from", found, "Leave --backbone out"))
    return replace(own, device=settings["device"])


def _earlier(context: typer.Context, start_from: Path | None) -> RunFacts | None:
    """The run that is gone on with. Raises ConfigError for a flag that it has decided on."""
    from neurolora.fly.folder import read_run

    if start_from is None:
        return None
    found = "the run that it goes on from has decided that"
    refuse_given(context, DECIDED, "fly train --start-from", found)
    return read_run(start_from)


def _kind(images: bool, start_from: Path | None, earlier: RunFacts | None) -> str:
    """What the items are; for those who go on, what they were. Raises ConfigError where the two differ."""
    if earlier is None:
        return "image" if images else "text"
    own = earlier.backbone.kind
    if images and own != "image":
        do = "Leave --images out, or start anew with an encoder of images"
        raise ConfigError(explain("fly train --images --start-from", f"{start_from} learned {own}s", do))
    return own


def _alpha(given: str) -> float | str:
    try:
        return float(given)
    except ValueError:
        return given


def _share(flag: str, given: str) -> int | float:
    """A count where it is written as one, else a fraction: 1 is one, 1.0 is all. Raises ConfigError."""
    for kind in (int, float):
        try:
            return kind(given)
        except ValueError:
            continue
    do = "Give a count such as 12, or a share such as 0.39"
    raise ConfigError(explain(f"{flag} {given}", "it is no number", do))


def _cache(folder: Path | None, no_cache: bool) -> Path | None:
    from neurolora.fly.features import default_cache

    return None if no_cache else folder or default_cache()


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for each thing that goes on."""
    tasks: dict[str, Any] = {}
    with progress_bars(remaining=True) as bars:

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield tell


def _stream_table(found: StreamResult) -> Any:
    from neurolora.cli.tables import plain_table

    before = found.earlier or (None,) * (len(found.classes) + 1)
    rows: list[tuple[Any, ...]] = []
    if found.earlier:
        rows.append(
            (0, f"(earlier: {_some(found.known)})", 100 * found.earlier[0], 100 * found.earlier[0], None)
        )
    for step, (classes, accuracy, earlier, seconds) in enumerate(
        zip(found.classes, found.accuracy, before[1:], found.seconds, strict=True), start=1
    ):
        rows.append((step, _some(classes), 100 * accuracy, earlier and 100 * earlier, seconds))
    seen = "seen with test rows" if found.untested else "all seen"
    columns = ("step", "classes", f"right of {seen}, %", "of the earlier, %", "learned in, s")
    return plain_table("Class-incremental stream", columns, rows)


def _some(classes: Sequence[Any]) -> str:
    return ", ".join(map(str, classes[:4])) + (", ..." if len(classes) > 4 else "")


def _not_scored(found: StreamResult) -> str:
    """A line about classes that were learned before and that nothing tells the accuracy of, or nothing."""
    return f"\nnot scored, for want of test rows: {_some(found.untested)}" if found.untested else ""


def _not_learned(rows: int) -> str:
    """A line about rows that an earlier run has, or nothing."""
    return f"\nnot learned again: {rows} rows that an earlier run has, to train or to test on" if rows else ""


def _not_there(missing: Sequence[str]) -> str:
    """A line for each of the earlier runs' data that are gone."""
    return "".join(f"\ndata of an earlier run are not there: {one}" for one in missing)

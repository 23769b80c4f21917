"""`neurolora reproduce`: a table of the paper by one command.

Room: cli. Calls `studies`, and the report for the pages.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from neurolora.cli.console import messages, print_json, progress_bars, results

if TYPE_CHECKING:
    from neurolora.studies import Book
    from neurolora.studies.spec import Scale, Study

Name = Annotated[
    str, typer.Argument(metavar="STUDY", help="table1, table2, table3, table4, k, lambda, gate, or all.")
]
ScaleName = Annotated[
    str,
    typer.Option(
        "--scale", help="miniature (the bundled world, two cores), stories, small (one GPU), paper."
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="One seed and few rows: a look, in minutes.")]
Model = Annotated[str | None, typer.Option("--model", help="Folder or hub name, in place of the scale's.")]
Seeds = Annotated[str | None, typer.Option("--seeds", help="In place of the scale's: 0,1,2.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any key of the scale: eval.limit=100; may be repeated."),
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Cells at once.  [default: a core each; 1 on a GPU]")
]
Work = Annotated[Path, typer.Option("--work-dir", help="Where the cells are kept, for this and later runs.")]
Results = Annotated[
    Path | None,
    typer.Option("--results-dir", help="Where results go.  [default: studies/ of a checkout, else work-dir]"),
]
Folder = Annotated[Path | None, typer.Option("--studies", help="Folder of studies, for your own.")]
AcceptOlder = Annotated[
    bool, typer.Option("--accept-older", help="Take cells that other code has made; the result says so.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Count cells, parameters, steps, memory, what is done; run nothing.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results on stdout.")]

WORK = Path("runs/studies")


def reproduce_command(
    study: Name,
    scale: ScaleName = "miniature",
    quick: Quick = False,
    model: Model = None,
    seeds: Seeds = None,
    changes: Changes = None,
    jobs: Jobs = None,
    work_dir: Work = WORK,
    results_dir: Results = None,
    studies: Folder = None,
    accept_older: AcceptOlder = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run a table or curve of the paper: search learning rates, train, score, compare, write the pages.

    Every cell is kept by the fingerprint of its settings, data, model and code: stopped and given again, the
    command goes on; after a change only what it touches is run again. Exit codes: 0 done; 2 wrong settings; 3
    bad data; 4 bad adapter; 5 training failed; 6 the output could not be written.
    """
    from neurolora.studies import default_folder

    folder = studies or default_folder()
    chosen, at = _chosen(folder, study, scale, quick, _laid_over(model, seeds, changes or []))
    if dry_run:
        _print_plans(chosen, at, work_dir, accept_older, as_json)
        return
    places = _places(folder, work_dir, results_dir, at)
    _run(chosen, at, places, jobs, accept_older, as_json)


def _laid_over(model: str | None, seeds: str | None, given: list[str]) -> dict[str, Any]:
    """The flags as a part of a scale's file. Raises ConfigError for one that is no KEY=VALUE."""
    import yaml

    from neurolora.errors import ConfigError, explain

    found: dict[str, Any] = {}
    flags = [f"model.model_name_or_path={model}"] if model else []
    flags += [f"seeds=[{seeds}]"] if seeds else []
    for flag in [*flags, *given]:
        key, is_given, value = flag.partition("=")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            read = value
        *sections, last = key.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else None
        if not (is_given and last and isinstance(place, dict)):
            do = "Write a key of the scale's file and its value: eval.limit=100"
            raise ConfigError(explain("--set", f"{flag!r} is no KEY=VALUE", do))
        place[last] = read
    return found


def _chosen(
    folder: Path, study: str, scale: str, quick: bool, changes: dict[str, Any]
) -> tuple[list[Study], Scale]:
    """The studies that were named, and the scale."""
    from neurolora.studies import load_scale, load_study, study_names

    names = study_names(folder) if study == "all" else [study]
    found = [load_study(folder, name) for name in names]
    return found, load_scale(folder, scale, quick=quick, changes=changes)


class Places(NamedTuple):
    """Where cells and results are kept, and where the pages and the README with its part of them lie."""

    cells: Path
    results: Path
    pages: Path
    readme: Path | None = None


def _places(studies: Path, work_dir: Path, results_dir: Path | None, scale: Scale) -> Places:
    """A checkout keeps the results of its scales as they are beside the specs, and shows them in its docs.

    What was run with changes, or quickly, or by an installed package, lies in the work-dir.
    """
    cells, root = work_dir / "cells", studies.parent
    is_checkout = (root / "pyproject.toml").is_file() and (root / "docs").is_dir()
    if results_dir is None and is_checkout and scale.label == scale.id:
        readme = root / "README.md"
        return Places(cells, studies, root / "docs", readme if readme.is_file() else None)
    output = results_dir or work_dir / "results"
    return Places(cells, output, output)


def _run(
    chosen: list[Study], scale: Scale, places: Places, jobs: int | None, older: bool, as_json: bool
) -> None:
    from neurolora.report.studies import require_marks
    from neurolora.studies import Book, require_fitting, require_same_settings
    from neurolora.studies.workers import quiet_libraries

    quiet_libraries()
    require_fitting(chosen, scale)
    require_same_settings(places.results, chosen, scale)
    if places.readme is not None:
        require_marks(places.readme)
    with progress_bars() as bars:
        book = Book(places.cells, jobs or _default_jobs(), older, _shown_in(bars))
        done, pages, failed = _all_that_go(chosen, scale, places, book)
    if failed is not None:
        raise failed
    if as_json:
        print_json(done)
        return
    _print_results(done)
    results().print("\n".join(str(page) for page in pages), markup=False)


def _all_that_go(
    chosen: list[Study], scale: Scale, places: Places, book: Book
) -> tuple[list[dict[str, Any]], list[Path], Exception | None]:
    """The results of the studies, their pages, and the first error.

    Hours of others do not wait for one that fails, and pages are written after each, so that they say what
    the results say whenever the command is stopped. Raises OutputError at once: others would meet it too.
    """
    from neurolora.errors import NeuroLoraError, OutputError
    from neurolora.studies import reproduce, write_result

    done: list[dict[str, Any]] = []
    pages: list[Path] = []
    failed: Exception | None = None
    for study in chosen:
        try:
            result = reproduce(study, scale, book)
            told = str(write_result(places.results, study, scale, result))
            done.append(result)
            waiting = {each.id for each in chosen} - {each["study"] for each in done}
            pages = _show(result, scale, places, waiting)
        except OutputError:
            raise
        except NeuroLoraError as error:
            failed, told = failed or error, f"failed: {error}"
        messages().print(f"{study.id}: {told}", markup=False)
    return done, pages, failed


def _show(result: dict[str, Any], scale: Scale, places: Places, waiting: set[str]) -> list[Path]:
    """The pages of all stored results that have this one's settings; others are due to be run again.

    waiting: studies that this command has still to run; a damaged result of one is as good as none.
    """
    from neurolora.errors import DataError
    from neurolora.report.studies import read_results, settings_of, write_pages
    from neurolora.studies import stored_results

    found: list[dict[str, Any]] = []
    for path in stored_results(places.results, scale):
        try:
            found += read_results([path])
        except DataError:
            if path.parent.name not in waiting:
                raise
    alike = [each for each in found if settings_of(each) == settings_of(result)]
    return write_pages(alike, places.pages, places.readme)


def _shown_in(bars: Any) -> Any:
    """Progress of a book as one bar for each thing that it does."""
    tasks: dict[str, Any] = {}

    def show(what: str, done: int, of: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=of)
        bars.update(tasks[what], completed=done, total=of)

    return show


def _default_jobs() -> int:
    """One on a GPU, else a core each."""
    import torch

    from neurolora.studies.workers import threads_for

    return 1 if torch.cuda.is_available() else threads_for(1)


def _print_results(done: list[dict[str, Any]]) -> None:
    from neurolora.cli.tables import plain_table
    from neurolora.report.study_facts import claims, hypotheses, scores

    for result in done:
        for title, table in (
            (result["title"], scores(result)),
            ("", claims(result)),
            ("", hypotheses(result)),
        ):
            if table.rows:
                rows: list[list[str | None]] = [list(row) for row in table.rows]
                results().print(plain_table(title, table.columns, rows))


def _print_plans(
    chosen: list[Study], scale: Scale, work_dir: Path, accept_older: bool, as_json: bool
) -> None:
    from neurolora.cli.tables import plain_table
    from neurolora.studies import plan_study, take_stock

    cells = work_dir / "cells"
    plans = [
        {**plan_study(study, scale), "done": take_stock(study, scale, cells, accept_older)}
        for study in chosen
    ]
    if as_json:
        print_json(plans)
        return
    columns = ["", "task", "trainable", "% of base", "rows", "steps", "GB a process, at most about"]
    for study, plan in zip(chosen, plans, strict=True):
        rows: list[list[str | None]] = [
            [
                row["method"],
                row["task"],
                f"{row['trainable']:,}",
                f"{row['percent']:.3f}",
                f"{row['examples']:,}",
                f"{row['steps']:,}",
                f"{row['memory']['total'] / 1e9:.1f}",
            ]
            for row in plan["rows"]
        ]
        results().print(plain_table(study.title, columns, rows))
        counted = ", ".join(f"{number} {what}" for what, number in plan["cells"].items())
        results().print(f"{counted}, on {plan['processes']} process(es) each", markup=False)
        done = "; ".join(f"{part['what']}: {part['done']} of {part['of']}" for part in plan["done"])
        results().print(f"done in {cells}: {done or 'nothing known'}\n", markup=False)
        for note in plan["notes"]:
            messages().print(note, markup=False)

"""`neurolora estimate`: the accuracy of an adapter on data without labels.

Room: cli. It reads options, loads, calls `neurolora.evaluation`, prints and writes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurolora.cli.console import messages, print_json, progress_bars, refuse_given, results
from neurolora.errors import ConfigError, DataError, FingerprintMismatchError, OutputError, explain
from neurolora.files import write_json

if TYPE_CHECKING:
    from neurolora.estimation import Estimate
    from neurolora.evaluation import Calibration
    from neurolora.tasks import TaskRequest

#: What a saved calibration has.
PARTS = {"estimator", "sets", "what", "rows", "request", "model"}
#: What a saved calibration has decided on.
DECIDED = (
    "calibrate",
    "dataset_name",
    "split",
    "rows",
    "measure",
    "size",
    "perturbations",
    "strengths",
    "seed",
)

Adapter = Annotated[str, typer.Argument(help="Folder or hub name of an adapter, or of a plain classifier.")]
Data = Annotated[
    Path, typer.Option("--data", metavar="FILE", help="Unlabelled rows: .jsonl, .json, .csv, .parquet.")
]
Calibrate = Annotated[
    str | None,
    typer.Option("--calibrate", metavar="TASK", help="Labelled task. [default: its own]"),
]
DatasetName = Annotated[
    str | None, typer.Option("--dataset-name", help="Where the labelled task's data are, if not its own.")
]
Split = Annotated[str, typer.Option("--split", help="Labelled rows to calibrate on; test is refused.")]
Rows = Annotated[int, typer.Option("--rows", min=2, help="Labelled rows, at most.")]
MeasureName = Annotated[
    str,
    typer.Option(
        "--measure",
        help="mde, average_confidence, confidence_difference, atc_confidence, atc_entropy, mean_entropy or "
        "entropy_difference.",
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size",
        min=2,
        help="Rows by which sets are measured. [default: as many as new and labelled both have]",
    ),
]
Perturbations = Annotated[
    str | None,
    typer.Option("--perturbations", help="Comma-separated. [default: typos,dropped_words,swapped_words]"),
]
Strengths = Annotated[
    str | None, typer.Option("--strengths", help="Comma-separated, in (0, 1]. [default: 0.05,0.1,0.2,0.4]")
]
Seed = Annotated[int, typer.Option("--seed", help="Of the perturbations and subsamples.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Rows a forward pass.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="Of the base: auto, float32, bfloat16, float16.")]
BaseModel = Annotated[str | None, typer.Option("--base-model", help="In place of the adapter's own base.")]
Save = Annotated[
    Path | None,
    typer.Option("--save", metavar="FILE", help="Write the calibration, to be used again."),
]
Use = Annotated[
    Path | None,
    typer.Option("--calibration", metavar="FILE", help="One that --save has written."),
]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page that shows the fit.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def estimate_command(
    context: typer.Context,
    adapter: Adapter,
    data: Data,
    calibrate: Calibrate = None,
    dataset_name: DatasetName = None,
    split: Split = "validation",
    rows: Rows = 500,
    measure: MeasureName = "average_confidence",
    size: Size = None,
    perturbations: Perturbations = None,
    strengths: Strengths = None,
    seed: Seed = 0,
    batch_size: BatchSize = 32,
    device: Device = None,
    dtype: Dtype = None,
    base_model: BaseModel = None,
    save: Save = None,
    calibration: Use = None,
    html: Html = None,
    as_json: AsJson = False,
) -> None:
    """Estimate the accuracy of an adapter on rows without labels, with a 95% interval.

    A line from a measure of the model's outputs (by default its mean confidence) to accuracy is fitted on
    labelled rows of the adapter's task, as they are and perturbed. It holds for data that differ from these
    as the perturbations do; outside the calibrated range there is a warning.

    Example: `neurolora estimate runs/mmlu --data new_questions.jsonl --html fit.html`.
    """
    from neurolora.estimation import AccuracyEstimator
    from neurolora.evaluation import load_for_inference
    from neurolora.tasks import load_unlabelled

    AccuracyEstimator(measure, seed=seed).check_settings(takes="logits")  # before a model is loaded
    if calibration is not None:
        refuse_given(context, DECIDED, "estimate --calibration", "the calibration has decided that")
    _check_split(split, is_used=calibration is None)
    saved = None if calibration is None else _read(calibration)
    options = {"measure": measure, "seed": seed, "size": size, **_noise(perturbations, strengths)}
    loaded = load_for_inference(adapter, base_model=base_model, dtype=dtype, device=device)
    if saved is not None:
        document, request, known = saved
        _require_same_model(document, loaded.model, calibration)
        asked = load_unlabelled(request, data)
    else:
        labelled, request = _labelled(_request(loaded.task, calibrate, dataset_name), split, rows, seed)
        asked = load_unlabelled(request, data)
        _require_size(size, len(asked), data)
        known = _calibrate(loaded, request, labelled, {**options, "batch_size": batch_size})
        document = _document(known, request, loaded.model)
    unsaved = None if save is None else _save(save, document)
    with messages().status(f"running the model over {len(asked)} rows"):
        found = _estimate(loaded, request, asked, known, batch_size)
    _tell(document, found, len(asked), as_json)
    if html is not None:
        _write_page(document, found, data, len(asked), html)
    if unsaved is not None:
        raise unsaved


def _check_split(split: str, *, is_used: bool) -> None:
    """Raises ConfigError for test rows; warns of rows that the model was trained on, if they are used."""
    if split == "test":
        do = "Calibrate on validation or train rows"
        raise ConfigError(explain("estimate --split test", "test rows are for scores alone", do))
    if split == "train" and is_used:
        told = "WARNING: on rows that a model has learned from its accuracy is no guide to others"
        messages().print(told, markup=False)


def _require_size(size: int | None, rows: int, data: Path) -> None:
    """Raises DataError, before the model runs, for fewer rows than sets are to be measured by."""
    if size is not None and rows < size:
        found = f"{data} has {rows} rows"
        raise DataError(explain(f"estimate --size {size}", found, f"Give at least {size} rows"))


def _write_page(document: dict[str, Any], found: Estimate, data: Path, rows: int, html: Path) -> None:
    from neurolora.report.estimation import write_estimate_page

    write_estimate_page(document, found, str(data), rows, html)
    messages().print(f"wrote {html}", markup=False)


def _save(path: Path, document: dict[str, Any]) -> OutputError | None:
    """Write the calibration, before what may yet fail; an error is for the end: it loses no estimate."""
    try:
        write_json(path, document)
    except OutputError as error:
        return error
    return None


def _request(saved: Any, calibrate: str | None, dataset_name: str | None) -> TaskRequest:
    from neurolora.tasks import TaskRequest

    if calibrate is not None and (saved is None or saved.request.task != calibrate):
        return TaskRequest(task=calibrate, dataset_name=dataset_name)
    if saved is None:
        do = "Name a labelled task with --calibrate"
        raise ConfigError(explain("estimate", "no task is saved with the adapter", do))
    request: TaskRequest = saved.request
    return dataclasses.replace(request, dataset_name=dataset_name) if dataset_name else request


def _labelled(request: TaskRequest, split: str, count: int, seed: int) -> tuple[list[Any], TaskRequest]:
    """Labelled rows, and the request with its labels written down."""
    from neurolora.tasks import load_rows, pin_labels

    found = load_rows(dataclasses.replace(request, limit=count, seed=seed), split)
    return found, dataclasses.replace(pin_labels(request, found), limit=None)


def _noise(perturbations: str | None, strengths: str | None) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    if perturbations is not None:
        chosen["perturbations"] = [name.strip() for name in perturbations.split(",") if name.strip()]
    if strengths is not None:
        try:
            chosen["strengths"] = [float(one) for one in strengths.split(",")]
        except ValueError as error:
            asked = f"estimate --strengths {strengths}"
            raise ConfigError(explain(asked, str(error), "Write numbers, as in 0.1,0.3")) from error
    return chosen


def _calibrate(loaded: Any, request: TaskRequest, rows: list[Any], options: dict[str, Any]) -> Calibration:
    from neurolora.evaluation import calibrate

    with _bar() as progress:
        return calibrate(loaded.model, loaded.tokenizer, request, rows, progress=progress, **options)


def _document(found: Calibration, request: TaskRequest, model: Any) -> dict[str, Any]:
    """The calibration, of which task and of which model, as plain JSON values."""
    from neurolora.evaluation import identity_of
    from neurolora.provenance import environment

    return {
        "estimator": found.estimator.state_dict(),
        "sets": [one._asdict() for one in found.sets],
        "what": found.what,
        "rows": found.rows,
        "request": request.to_dict(),
        "model": identity_of(model),
        "environment": environment(),
    }


def _read(path: Path) -> tuple[dict[str, Any], TaskRequest, Calibration]:
    """A file of `_document`, the request and the calibration in it. Raises DataError."""
    from neurolora.estimation import AccuracyEstimator
    from neurolora.evaluation import Calibration
    from neurolora.evaluation.accuracy_estimate import CalibrationSet
    from neurolora.tasks import TaskRequest

    asked, do = f"reading the calibration {path}", "Give a file that --save has written, or calibrate again"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(explain(asked, str(error), do)) from error
    if not isinstance(document, dict) or not set(document) >= PARTS:
        missing = PARTS - set(document) if isinstance(document, dict) else PARTS
        raise DataError(explain(asked, f"it holds no calibration: no {', '.join(sorted(missing))}", do))
    try:
        sets = tuple(CalibrationSet(**one) for one in document["sets"])
        estimator = AccuracyEstimator.from_state(document["estimator"])
        request = TaskRequest.from_dict(document["request"])
        known = Calibration(estimator, sets, str(document["what"]), int(document["rows"]))
    except (TypeError, ValueError) as error:
        raise DataError(explain(asked, f"it is damaged ({error})", do)) from error
    if len(sets) != len(estimator.values_):
        found = f"{len(sets)} sets, and an estimator of {len(estimator.values_)}"
        raise DataError(explain(asked, found, do))
    return document, request, known


def _require_same_model(document: dict[str, Any], model: Any, path: Path | None) -> None:
    """Raises FingerprintMismatchError for another model, DataError for a damaged file."""
    from neurolora.evaluation import identity_difference

    asked = f"estimate --calibration {path}"
    try:
        difference = identity_difference(document["model"], model)
    except (KeyError, TypeError, AttributeError) as error:
        found = f"what it says of its model is damaged ({type(error).__name__}: {error})"
        raise DataError(explain(asked, found, "Calibrate again")) from error
    if difference:
        do = "Calibrate on this model, or give the one that it is of"
        raise FingerprintMismatchError(explain(asked, difference, do))


def _estimate(
    loaded: Any, request: TaskRequest, rows: list[Any], known: Calibration, batch_size: int
) -> Estimate:
    from neurolora.evaluation import estimate_accuracy

    return estimate_accuracy(loaded.model, loaded.tokenizer, request, rows, known, batch_size)


def _tell(document: dict[str, Any], found: Estimate, rows: int, as_json: bool) -> None:
    if as_json:
        told = dataclasses.asdict(found) | {"outside": found.outside, "rows": rows}
        print_json(told | {"calibration": document})
        return
    accuracy, low, high = (100 * value for value in (found.accuracy, found.low, found.high))
    measure = document["estimator"]["measure"]
    results().print(
        f"accuracy {accuracy:.1f}%  (95% interval {low:.1f} to {high:.1f})\n"
        f"{measure} {found.value:.4f} of {rows} rows; calibrated on {len(document['sets'])} versions of "
        f"{document['rows']} rows of {document['request']['task']} ({document['what']})",
        markup=False,
    )
    if found.outside:
        results().print(warning(found), markup=False)


def warning(found: Estimate) -> str:
    """What to say of an estimate outside the calibrated range."""
    side = "below" if found.beyond < 0 else "above"
    return (
        f"WARNING: the measure lies {abs(found.beyond):.2f} of the calibrated range's width {side} it: no "
        "calibration set was like these data. Calibrate with stronger perturbations, or do not rely on this."
    )


@contextmanager
def _bar() -> Iterator[Any]:
    with progress_bars(remaining=True) as bars:
        task = bars.add_task("calibrating", total=None)
        yield lambda what, done, total: bars.update(task, description=what, completed=done, total=total)

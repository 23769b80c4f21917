"""From a request to a merged adapter folder: open, check, assemble, write aside, rename.

Room: merging, its door. Called by the command `merge`, by studies and by benchmarks.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from neurolora.adapter_file import CONFIG, ROUTED, WEIGHTS, known_as
from neurolora.adapter_reader import AdapterReader
from neurolora.errors import OutputError, explain
from neurolora.files import atomic_folder, refuse_full_folder, restore_folder, write_json, write_text
from neurolora.merging.arithmetic import Coefficients
from neurolora.merging.by_tensor import Assembled, Job, Progress, ignore
from neurolora.merging.card import CARD, merge_card
from neurolora.merging.checks import Verdict, examine
from neurolora.merging.knobs import KNOBS
from neurolora.merging.methods import Method, remarks, require_sound
from neurolora.merging.request import MergeRequest, make_parents
from neurolora.merging.sources import open_adapters
from neurolora.provenance import fingerprint_file, package_versions
from neurolora.version import __version__

PROVENANCE = "merge.json"
#: Of the first parent that has one: what a user of the adapter needs to make tokens.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class ParentFacts:
    """One parent: its folder or hub name, its share, the digest of its tensor file, its A and base."""

    path: str
    weight: float
    density: float
    sha256: str
    projection_fingerprint: str | None
    base_fingerprint: str | None


@dataclass(frozen=True)
class MergePlan:
    """What would be merged, and what the checks say; `verdict.require()` raises if it cannot be."""

    recipe: dict[str, Any]
    verdict: Verdict
    modules: int
    tensors: int


@dataclass(frozen=True)
class MergeResult:
    """What has been merged. recipe: in mergekit's layout. forced, notes: sentences for people."""

    output: str
    recipe: dict[str, Any]
    parents: tuple[ParentFacts, ...]
    forced: tuple[str, ...]
    notes: tuple[str, ...]
    tensors: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `merge --json` prints them."""
        return asdict(self)


def merge_adapters(
    adapters: Sequence[Path | str],
    output: Path | str,
    *,
    method: str = "linear",
    weights: Sequence[float] | None = None,
    density: float | Sequence[float] | None = None,
    lambda_: float | None = None,
    normalize: bool | None = None,
    seed: int | None = None,
    t: float | None = None,
    gates: str = "average",
    dtype: str | None = None,
    base_model: str | None = None,
    force: Iterable[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MergeResult:
    """Merge adapter folders into the folder `output`, by a row of `METHODS`; see `merge_request`.

    weights: one each, 1 by default. density: one for all or one each. What is None is the method's default.
    """
    request = MergeRequest(
        make_parents([str(path) for path in adapters], weights, density),
        method=method,
        lambda_=lambda_,
        normalize=normalize,
        seed=seed,
        t=t,
        gates=gates,
        dtype=dtype,
        base_model=base_model,
    )
    return merge_request(request, output, force=force, overwrite=overwrite, progress=progress)


def merge_request(
    request: MergeRequest,
    output: Path | str,
    *,
    force: Iterable[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MergeResult:
    """Make the merged adapter: a folder that PEFT loads, with a model card and its provenance.

    Nothing is written before all parents have passed their checks, and `output` appears whole or not at all.
    `force` names checks that are overridden. A gate is averaged (`by_tensor.gate_weights`), A is copied.

    Raises:
        ConfigError: the request, or a name in `force`, makes no sense.
        AdapterError: a parent cannot be read, or parents do not fit together (all of it in one message).
        OutputError: `output` cannot be written, or is there and `overwrite` is off.
    """
    began = time.perf_counter()
    row = require_sound(request)
    _refuse_output(request, Path(output), overwrite)
    with ExitStack() as stack:
        sources = open_adapters([parent.path for parent in request.parents], stack)
        verdict = _examined(row, request, sources, force)
        verdict.require()
        job = Job(sources, request, coefficients(row, request), verdict, progress or ignore)
        made = row.way(sources).assemble(job)
        parents = _parent_facts(job)
        result = MergeResult(
            output=str(output),
            recipe=request.to_recipe(),
            parents=parents,
            forced=verdict.overridden,
            notes=(*verdict.notes, *made.notes),
            tensors=len(made.tensors),
            seconds=0.0,
        )
        with atomic_folder(output, overwrite=overwrite) as folder:
            _write(folder, made, result, sources)
    return replace(result, seconds=time.perf_counter() - began)


def examine_merge(request: MergeRequest, *, force: Iterable[str] = (), values: bool = True) -> MergePlan:
    """What `merge_request` would do, and what its checks say, without writing anything.

    With `values` all tensors are read, to find NaN and infinities.

    Raises as `merge_request` does for what cannot be read at all; what only does not fit is in the verdict.
    """
    row = require_sound(request)
    with ExitStack() as stack:
        sources = open_adapters([parent.path for parent in request.parents], stack)
        verdict = _examined(row, request, sources, force)
        if values:
            for source in sources:
                for key in source.entries:
                    source.get_tensor(key)
        first = sources[0]
        return MergePlan(request.to_recipe(), verdict, len(first.modules), len(first.entries))


def _examined(
    row: Method, request: MergeRequest, sources: Sequence[AdapterReader], force: Iterable[str]
) -> Verdict:
    """What the checks say of the parents, and what there is to say of the request."""
    found = examine(sources, row.way(sources).checks, force)
    return replace(found, notes=(*remarks(request), *found.notes))


def coefficients(row: Method, request: MergeRequest) -> Coefficients:
    """The request's numbers, with the defaults of the row for what it leaves out."""

    def value(name: str, given: Any) -> Any:
        return KNOBS[name].default if given is None else given

    return Coefficients(
        weights=tuple(float(value("weight", parent.weight)) for parent in request.parents),
        densities=tuple(float(value("density", parent.density)) for parent in request.parents),
        lambda_=float(value("lambda", request.lambda_)),
        normalize=row.normalize if request.normalize is None else request.normalize,
        seed=int(value("seed", request.seed)),
        t=float(value("t", request.t)),
    )


def _refuse_output(request: MergeRequest, output: Path, overwrite: bool) -> None:
    restore_folder(output)
    refuse_full_folder(output, overwrite=overwrite)
    for parent in request.parents:
        own = Path(parent.path).resolve()
        if output.resolve() in (own, *own.parents):
            found = f"the adapter {parent.path} lies there"
            raise OutputError(explain(f"writing {output}", found, "Give another folder"))


def _parent_facts(job: Job) -> tuple[ParentFacts, ...]:
    shares = zip(job.sources, job.numbers.weights, job.numbers.densities, strict=True)
    return tuple(
        ParentFacts(
            path=known_as(source.folder),
            weight=weight,
            density=density,
            sha256=fingerprint_file(source.path),
            projection_fingerprint=source.config.get("projection_fingerprint"),
            base_fingerprint=(source.config.get("base_fingerprint") or {}).get("digest"),
        )
        for source, weight, density in shares
    )


def _write(folder: Path, made: Assembled, result: MergeResult, sources: Sequence[AdapterReader]) -> None:
    """All files of the merged adapter, into a folder that nobody sees yet."""
    from safetensors.torch import save_file

    save_file(made.tensors, folder / WEIGHTS, metadata={"format": "pt"})
    ours = made.config["peft_type"] == ROUTED  # PEFT warns of a field that its own methods do not know
    config = made.config | ({"neurolora_version": __version__} if ours else {})
    write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True))
    provenance = result.to_dict() | {"versions": package_versions()}
    for of_this_run in ("output", "seconds"):  # the same merge gives the same files
        del provenance[of_this_run]
    write_json(folder / PROVENANCE, provenance)
    write_text(
        folder / CARD, merge_card(result.recipe, provenance, config, Path(result.output).resolve().name)
    )
    for name in TOKENIZER_FILES:
        having = [source.folder / name for source in sources if (source.folder / name).is_file()]
        if having:
            shutil.copyfile(having[0], folder / name)

"""`neurolora merge CONFIG.yaml OUT`, or `neurolora merge A B ... -o OUT`: several adapters into one.

Room: cli. It reads options and prints; the merging is done in `neurolora.merging`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurolora.cli.console import messages, print_json, progress_bars, results
from neurolora.cli.inspect import find_folder
from neurolora.errors import ConfigError, explain
from neurolora.files import write_json

if TYPE_CHECKING:
    from neurolora.merging import MergePlan, MergeRequest, MergeResult

YAML = (".yaml", ".yml")
FORM = "neurolora merge CONFIG.yaml OUT, or neurolora merge A B ... -o OUT"

What = Annotated[
    list[str],
    typer.Argument(metavar="CONFIG.yaml OUT | ADAPTER...", help="A recipe and a folder, or adapters."),
]
Output = Annotated[Path | None, typer.Option("-o", "--output", metavar="OUT", help="Folder to write.")]
MethodName = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="linear (default), task_arithmetic, ties, dare_linear, dare_ties, magnitude_prune, slerp or "
        "concat.",
    ),
]
Weight = Annotated[
    list[float] | None, typer.Option("--weight", help="Of an adapter; once for each, in their order.")
]
Density = Annotated[
    list[float] | None,
    typer.Option(
        "--density", help="Share of entries that stay; once for all, or once for each. [default: 1]"
    ),
]
Lambda = Annotated[float | None, typer.Option("--lambda", help="Factor of the merged update. [default: 1]")]
Normalize = Annotated[
    bool | None,
    typer.Option(
        "--normalize/--no-normalize", help="Divide by the sum of the weights. [default: for linear]"
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of what DARE drops. [default: 0]")]
Place = Annotated[
    float | None, typer.Option("--t", help="Slerp: 0 is the first, 1 the second. [default: 0.5]")
]
Gates = Annotated[
    str,
    typer.Option(
        "--gates", help="average: the mean of each tensor; widen: the mean of their logits, a wider gate."
    ),
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16. [default: the first adapter's]")
]
Force = Annotated[
    list[str] | None,
    typer.Option(
        "--force",
        metavar="CHECK",
        help="Override a check: top_k, routing, base, tokenizer or heads (leaves them out); repeatable.",
    ),
]
Search = Annotated[
    str | None,
    typer.Option(
        "--search",
        help="Choose the weights first: by `validation` rows with labels; without, by `entropy` or `mde`.",
    ),
]
SearchRows = Annotated[int, typer.Option("--search-rows", min=1, help="Rows of each task for --search.")]
SearchBudget = Annotated[int, typer.Option("--search-budget", min=1, help="Merges that --search may try.")]
Oracle = Annotated[
    bool, typer.Option("--search-oracle", help="Search by labels too, to see what is missed without them.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, show the recipe, write nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in OUT.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def merge_command(
    what: What,
    output: Output = None,
    method: MethodName = None,
    weight: Weight = None,
    density: Density = None,
    lambda_: Lambda = None,
    normalize: Normalize = None,
    seed: Seed = None,
    t: Place = None,
    gates: Gates = "average",
    dtype: Dtype = None,
    force: Force = None,
    search: Search = None,
    search_rows: SearchRows = 200,
    search_budget: SearchBudget = 30,
    search_oracle: Oracle = False,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Merge adapters into one, without training and without loading the base.

    The recipe is a YAML file in mergekit's layout (merge_method, models with weight and density, parameters,
    dtype). The adapters must have the same A, base, tokenizer, modules, ranks and kind of gate; otherwise
    nothing is written, and every difference is named. B is merged by the method, gates are averaged, A stays.
    Adapters of different A go side by side: --method concat. Of plain LoRA the true deltas are merged.

    Examples: `neurolora merge recipe.yaml merged`; `neurolora merge runs/a runs/b -o merged --method ties
    --density 0.5 --weight 0.7 --weight 0.3`; add `--dry-run` to see first what would be merged.
    """
    from neurolora.merging import examine_merge

    flags: dict[str, Any] = {
        "method": method, "weight": weight, "density": density, "lambda": lambda_, "normalize": normalize,
        "seed": seed, "t": t, "dtype": dtype, "gates": None if gates == "average" else gates,
    }  # fmt: skip
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    request, out = read_request(what, output, given)
    request = replace(request, parents=tuple(_found(parent) for parent in request.parents))
    if dry_run:
        with messages().status("checking the adapters"):
            plan = examine_merge(request, force=force or ())
        print_json(_plan_values(plan)) if as_json else _show_plan(plan, out)
        plan.verdict.require()
        return
    found = None
    if search is not None:
        from neurolora.cli.merge_search import search_and_show

        options = {"rows": search_rows, "budget": search_budget, "oracle": search_oracle}
        request, found = search_and_show(request, search, force or [], quiet=as_json, **options)
    result = _with_progress(request, out, force or [], overwrite)
    if found is not None:
        write_json(out / "search.json", found.to_dict())
    if as_json:
        print_json(result.to_dict() | ({"search": found.to_dict()} if found else {}))
    else:
        _show_result(result)


def read_request(what: list[str], output: Path | None, flags: dict[str, Any]) -> tuple[MergeRequest, Path]:
    """The merge that the arguments mean, and its folder. Raises ConfigError."""
    from neurolora.merging import load_recipe

    if Path(what[0]).suffix.lower() not in YAML:
        return _from_flags(what, output, flags)
    targets = [*what[1:], *([str(output)] if output is not None else [])]
    if len(targets) != 1:
        found = f"{len(targets)} folders to write"
        raise ConfigError(explain(f"merge {what[0]}", found, f"The forms are {FORM}"))
    if flags:
        found = f"{', '.join(f'--{name}' for name in flags)} beside a recipe"
        raise ConfigError(explain(f"merge {what[0]}", found, "Write it into the recipe"))
    return load_recipe(what[0]), Path(targets[0])


def _from_flags(what: list[str], output: Path | None, flags: dict[str, Any]) -> tuple[MergeRequest, Path]:
    from neurolora.merging import MergeRequest
    from neurolora.merging.request import make_parents

    if output is None:
        raise ConfigError(explain("merge", "there is no folder to write", f"The forms are {FORM}"))
    density = flags.get("density")
    shared = density[0] if density and len(density) == 1 else density
    request = MergeRequest(
        make_parents(what, flags.get("weight"), shared),
        method=flags.get("method", "linear").replace("-", "_"),
        lambda_=flags.get("lambda"),
        normalize=flags.get("normalize"),
        seed=flags.get("seed"),
        t=flags.get("t"),
        gates=flags.get("gates", "average"),
        dtype=flags.get("dtype"),
    )
    return request, output


def _found(parent: Any) -> Any:
    """The parent with the folder that its name means, here or on the hub."""
    return replace(parent, path=str(find_folder(parent.path)))


def _with_progress(request: MergeRequest, out: Path, force: list[str], overwrite: bool) -> MergeResult:
    """Merge with a bar on stderr that counts tensors."""
    from neurolora.merging import merge_request

    with progress_bars() as bar:
        task = bar.add_task(f"merging {len(request.parents)} adapters", total=None)
        return merge_request(
            request,
            out,
            force=force,
            overwrite=overwrite,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _plan_values(plan: MergePlan) -> dict[str, Any]:
    verdict = plan.verdict
    return {
        "recipe": plan.recipe,
        "modules": plan.modules,
        "tensors": plan.tensors,
        "fits": not verdict.problems,
        "problems": verdict.problems,
        "forced": verdict.overridden,
        "notes": verdict.notes,
    }


def _show_plan(plan: MergePlan, out: Path) -> None:
    import yaml

    console = results()
    console.print(yaml.safe_dump(plan.recipe, sort_keys=False).rstrip(), markup=False)
    verdict = plan.verdict
    _show_remarks(verdict.overridden, verdict.notes)
    if not verdict.problems:
        count = len(plan.recipe["models"])
        console.print(
            f"{count} adapters of {plan.modules} modules fit together; would write {out}", markup=False
        )


def _show_result(result: MergeResult) -> None:
    _show_remarks(result.forced, result.notes)
    line = f"wrote {result.output}: {result.tensors} tensors of {len(result.parents)} adapters"
    results().print(f"{line} by {result.recipe['merge_method']}, {result.seconds:.1f} s", markup=False)


def _show_remarks(forced: tuple[str, ...], notes: tuple[str, ...]) -> None:
    console = messages()
    for line in forced:
        console.print(f"Overridden: {line}", style="yellow", markup=False)
    for line in notes:
        console.print(f"Note: {line}", style="yellow", markup=False)

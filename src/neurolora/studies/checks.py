"""Everything that can be wrong with studies at a scale, found before the first cell is run.

Room: studies; called by whoever runs or plans studies.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from neurolora.errors import ConfigError, explain, itemised
from neurolora.studies.results import setting_of
from neurolora.studies.single import any_training
from neurolora.studies.spec import Row, Scale, StreamRow, Study

MERGEABLE = ("lora", "dora", "flylora", "neurolora")


def require_fitting(studies: Sequence[Study], scale: Scale) -> None:
    """Raises ConfigError with what the scale lacks for these studies, and what is wrong with their rows."""
    problems = [f"{study.id}: {problem}" for study in studies for problem in _problems(study, scale)]
    if problems:
        told = itemised(list(dict.fromkeys(problems)))
        raise ConfigError(explain(f"studies at the scale {scale.id}", told, "Correct the study or the scale"))


def _problems(study: Study, scale: Scale) -> list[str]:
    rows = study.trained
    found = [f"the scale has no task {name}" for name in study.tasks if name not in scale.tasks]
    methods = dict.fromkeys(str(row.adapter.get("method")) for row in rows.values())
    found += [
        f"the scale has no first learning rate of {name}" for name in methods if name not in scale.rates
    ]
    if found:
        return found
    found += [problem for label, row in rows.items() for problem in _training(label, row, study, scale)]
    for label, stream in study.stream_rows.items():
        found += _strategy(label, stream, study.methods[stream.of].adapter["method"])
    found += _merges(study)
    if study.kind != "single" and len(study.tasks) < 2:
        found.append(f"a study of {study.kind} needs two tasks or more")
    return found


def _merges(study: Study) -> list[str]:
    """The ways to merge are known, with such numbers, and the rows are adapters that can be merged."""
    from neurolora.merging.methods import find_problems
    from neurolora.merging.request import MergeRequest, Parent

    found = []
    for label, way in study.merges.items():
        parents = tuple(Parent(task, density=way.density) for task in study.tasks)
        for lambda_ in way.lambdas:
            request = MergeRequest(parents, way.method, lambda_=lambda_, gates=way.gates)
            found += [f"{label}: {problem.text}" for problem in find_problems(request)]
    if study.kind == "merging":
        methods = {label: row.adapter["method"] for label, row in study.rows.items()}
        found += [
            f"{label}: {method} cannot be merged, only {', '.join(MERGEABLE)}"
            for label, method in methods.items()
            if method not in MERGEABLE
        ]
    return found


def _training(label: str, row: Row, study: Study, scale: Scale) -> list[str]:
    """The training config of a row is built once."""
    try:
        any_training(scale, row, study.tasks[0]).build_adapter()
        if study.curve is not None:
            setting_of(row.adapter, study.curve.setting)
    except ConfigError as error:
        return [f"{label}: {str(error).replace(' (flag)', '')}"]
    return []


def _strategy(label: str, row: StreamRow, method: str) -> list[str]:
    """The strategy is known, works with the method, and has such settings."""
    from neurolora.continual import STRATEGIES

    if row.strategy not in STRATEGIES:
        return [f"{label}: there is no strategy {row.strategy!r}; there are {', '.join(STRATEGIES)}"]
    known = STRATEGIES[row.strategy]
    if method not in known.methods:
        return [f"{label}: {row.strategy} works with {', '.join(known.methods)}, not with {method}"]
    first = {name: values[0] for name, values in row.search.items()}
    try:
        known.knobs.model_validate({**row.settings, **first})
    except ValidationError as error:
        return [f"{label}: {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
    return []

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


def require_fitting(studies: Sequence[Study], scale: Scale) -> None:
    """Raises ConfigError with what the scale lacks for these studies, and what is wrong with their rows."""
    problems = [f"{study.id}: {problem}" for study in studies for problem in _problems(study, scale)]
    if problems:
        told = itemised(list(dict.fromkeys(problems)))
        raise ConfigError(explain(f"studies at the scale {scale.id}", told, "Correct the study or the scale"))


def _problems(study: Study, scale: Scale) -> list[str]:
    rows = study.rows or {row.of: study.methods[row.of] for row in study.stream_rows.values()}
    found = [f"the scale has no task {name}" for name in study.tasks if name not in scale.tasks]
    methods = dict.fromkeys(str(row.adapter.get("method")) for row in rows.values())
    found += [
        f"the scale has no first learning rate of {name}" for name in methods if name not in scale.rates
    ]
    if found:
        return found
    found += [problem for label, row in rows.items() for problem in _training(label, row, study, scale)]
    found += [problem for label, stream in study.stream_rows.items() for problem in _strategy(label, stream)]
    if study.kind != "single" and len(study.tasks) < 2:
        found.append(f"a study of {study.kind} needs two tasks or more")
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


def _strategy(label: str, row: StreamRow) -> list[str]:
    """The strategy is known, and so are its settings."""
    from neurolora.continual import STRATEGIES

    if row.strategy not in STRATEGIES:
        return [f"{label}: there is no strategy {row.strategy!r}; there are {', '.join(STRATEGIES)}"]
    first = {name: values[0] for name, values in row.search.items() if values}
    try:
        STRATEGIES[row.strategy].knobs.model_validate({**row.settings, **first})
    except ValidationError as error:
        return [f"{label}: {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
    return []

"""Finding and reading studies, scales and methods: folders of YAML.

Room: studies. A checkout has them in `studies/` beside `src/`; an installed package carries a copy.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from neurolora.errors import ConfigError, did_you_mean, explain, itemised
from neurolora.provenance import fingerprint_json
from neurolora.studies.spec import Scale, Study
from neurolora.yaml_lines import read_yaml

Model = TypeVar("Model", bound=BaseModel)
SPEC, METHODS, SCALES = "spec.yaml", "methods.yaml", "scales"
NAMING = frozenset({"id", "label", "quick"})
#: The studies in the order in which `all` runs them: later ones use what earlier ones have trained.
ORDER = ("table1", "table2", "table3", "table4", "k", "lambda", "gate")


def default_folder() -> Path:
    """`studies/` of the checkout that this file lies in, else the copy inside the package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1] / "studies"
    return checkout if (checkout / METHODS).is_file() else package / "studies" / "specs"


def study_names(folder: Path) -> list[str]:
    """The studies in a folder: ours in their order, then others by name. ConfigError if there are none."""
    found = sorted(path.parent.name for path in folder.glob(f"*/{SPEC}"))
    if not found:
        do = f"Give a folder with NAME/{SPEC} in it"
        raise ConfigError(explain(f"looking for studies in {folder}", "there are none", do))
    return [*(name for name in ORDER if name in found), *(name for name in found if name not in ORDER)]


def load_study(folder: Path, name: str) -> Study:
    """One study, its methods filled in. Raises ConfigError with everything that is wrong with it."""
    if name not in study_names(folder):
        known = study_names(folder)
        found = f"there is no study {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}"
        raise ConfigError(explain(f"reading a study in {folder}", found, "Name one of them, or `all`"))
    path = folder / name / SPEC
    values, _ = read_yaml(path)
    methods, _ = read_yaml(folder / METHODS)
    study = _parse(Study, path, {**_with_methods(path, values, methods), "id": name})
    problems = _problems(study)
    if problems:
        raise ConfigError(explain(f"reading the study {path}", itemised(problems), "Correct each of them"))
    return study


def load_scale(
    folder: Path, name: str, *, quick: bool = False, changes: dict[str, Any] | None = None
) -> Scale:
    """One scale. quick: with the file's smaller sizes. changes: laid over it, section by section."""
    known = sorted(path.stem for path in (folder / SCALES).glob("*.yaml"))
    if name not in known:
        found = f"there is no scale {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}"
        raise ConfigError(explain(f"reading a scale in {folder}", found, "Name one of them"))
    if named := sorted(NAMING & set(changes or {})):
        do = "Write a scale of your own for results of another name"
        raise ConfigError(explain("changing a scale", f"{', '.join(named)} is what tells results apart", do))
    path = folder / SCALES / f"{name}.yaml"
    values, _ = read_yaml(path)
    smaller = _section(path, "quick", values.pop("quick", {}))
    for laid in (smaller if quick else {}, changes or {}):
        values = _laid_over(values, laid)
    scale = _parse(Scale, path, {**values, "id": name, "label": name, "quick": quick})
    if "model_name_or_path" not in scale.model:
        do = "Give one with --model, a folder or a name on the hub"
        raise ConfigError(explain(f"the scale {name}", "it names no model", do))
    label = "-".join([name, *(["quick"] if quick else []), *_told(changes or {})])
    return scale.model_copy(update={"label": label, "train": _with_paths(scale.train, path.parent)})


def _told(changes: dict[str, Any]) -> list[str]:
    """What was changed, as parts of a file's name: the model's own name, a fingerprint of the rest."""
    rest = {key: value for key, value in changes.items() if key != "model"}
    model = dict(changes.get("model", {}))
    named = model.pop("model_name_or_path", None)
    parts = [re.sub(r"[^A-Za-z0-9.]+", "_", Path(str(named)).name)] if named else []
    rest |= {"model": model} if model else {}
    return parts + ([fingerprint_json(rest)[:6]] if rest else [])


def _with_methods(path: Path, values: dict[str, Any], methods: dict[str, Any]) -> dict[str, Any]:
    """`methods: [a, b]` as rows; the rows of a study of streams under their own name."""
    values = dict(values)
    named = values.pop("methods", [])
    if not (isinstance(named, list) and all(isinstance(name, str) for name in named)):
        raise _not_as_it_should(path, "methods", "a list of names")
    unknown = [name for name in named if name not in methods]
    if unknown:
        found = f"methods without a row in {METHODS}: {', '.join(unknown)}"
        raise ConfigError(explain(f"reading the study {path}", found, f"There are {', '.join(methods)}"))
    rows = _section(path, "rows", values.pop("rows", {}))
    if values.get("kind") == "streams":
        return {**values, "methods": methods, "stream_rows": rows}
    return {**values, "methods": methods, "rows": {**{name: methods[name] for name in named}, **rows}}


def _section(path: Path, name: str, value: Any) -> dict[str, Any]:
    """A section of a file. Raises ConfigError where something else stands there."""
    if not isinstance(value, dict):
        raise _not_as_it_should(path, name, "a section with keys under it")
    return value


def _not_as_it_should(path: Path, name: str, wanted: str) -> ConfigError:
    return ConfigError(explain(f"reading {path}", f"`{name}` is not {wanted}", "Correct it, or leave it out"))


def _laid_over(values: Any, other: Any) -> dict[str, Any]:
    """`other` over `values`; sections are laid over each other key by key."""
    both = {
        key: _laid_over(values[key], item)
        if isinstance(item, dict) and isinstance(values.get(key), dict)
        else item
        for key, item in other.items()
    }
    return {**values, **both}


def _with_paths(train: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A DeepSpeed config is named beside the scale's file."""
    named = train.get("deepspeed")
    if not isinstance(named, str) or not (folder / named).is_file():
        return train
    return {**train, "deepspeed": str(folder / named)}


def _problems(study: Study) -> list[str]:
    """What the models cannot see: rows, columns and methods that are named and not there."""
    rows, columns = study.names, study.columns
    found = ["there are no rows"] if not rows else []
    said = [(name, "against") for name in study.against] + [(name, "paper") for name in study.paper]
    sayings = [*study.claims, *study.hypotheses]
    said += [(c.gains_over, f"the claim {c.say!r}") for c in sayings if c.gains_over is not None]
    places = [
        (*place, f"the claim {claim.say!r}") for claim in sayings for place in (claim.better, claim.than)
    ]
    places += [(row, column, "paper") for row, values in study.paper.items() for column in values]
    said += [(row, where) for row, _, where in places]
    found += [f"{where} names the row {row!r}, which is not there" for row, where in said if row not in rows]
    found += [
        f"{where} names the column {column!r}, which is not there"
        for _, column, where in places
        if column not in columns
    ]
    methods = [row.of for row in study.stream_rows.values()]
    found += [f"there is no method {name!r} in {METHODS}" for name in methods if name not in study.methods]
    return list(dict.fromkeys(found))


def _parse(model: type[Model], path: Path, values: dict[str, Any]) -> Model:
    try:
        json.dumps(values)
        return model.model_validate(values)
    except TypeError as error:  # YAML makes dates and sets; fingerprints and results are JSON
        do = "Write text, numbers, lists and sections alone; a date is text in quotes"
        raise ConfigError(explain(f"reading {path}", str(error), do)) from None
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise ConfigError(explain(f"reading {path}", itemised(problems), "Correct each of them")) from None

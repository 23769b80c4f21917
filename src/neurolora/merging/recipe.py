"""A merge as a YAML file in mergekit's layout.

Room: merging. `load_recipe` is the door: every problem of the file is in one ConfigError, with its line.

    merge_method: ties
    models:
      - model: runs/gsm8k
        parameters: {weight: 1.0, density: 0.5}
      - model: runs/mmlu
    parameters: {lambda: 0.8, density: 0.7}
    dtype: float32

`weight` and `density` in the common `parameters` are for models that do not say their own.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from neurolora.errors import ConfigError, did_you_mean
from neurolora.merging.methods import find_problems, message
from neurolora.merging.request import MergeRequest, Parent
from neurolora.yaml_lines import read_yaml

Place = tuple[str | int, ...]


class _Section(BaseModel):
    """Frozen, nothing unknown, and no text in the place of a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class ModelParameters(_Section):
    """The numbers of one adapter."""

    weight: float | None = None
    density: float | None = None


class ModelEntry(_Section):
    """One adapter."""

    model: str = Field(min_length=1)
    parameters: ModelParameters = ModelParameters()


class CommonParameters(ModelParameters):
    """The numbers of the merge, and those of all adapters that do not say their own."""

    lambda_: float | None = Field(None, alias="lambda")
    normalize: bool | None = None
    seed: int | None = None
    t: float | None = None
    gates: str = "average"


class Recipe(_Section):
    """The whole file."""

    merge_method: str
    base_model: str | None = None
    models: list[ModelEntry] = Field(min_length=1)
    parameters: CommonParameters = CommonParameters.model_validate({})
    dtype: str | None = None

    def to_request(self) -> MergeRequest:
        """The same as plain values."""
        common = self.parameters
        return MergeRequest(
            parents=tuple(_parent(entry, common) for entry in self.models),
            method=self.merge_method,
            lambda_=common.lambda_,
            normalize=common.normalize,
            seed=common.seed,
            t=common.t,
            gates=common.gates,
            dtype=self.dtype,
            base_model=self.base_model,
        )


def _parent(entry: ModelEntry, common: CommonParameters) -> Parent:
    own = entry.parameters
    weight = common.weight if own.weight is None else own.weight
    density = common.density if own.density is None else own.density
    return Parent(entry.model, weight, density)


def load_recipe(path: Path | str) -> MergeRequest:
    """Read and check a recipe; paths in it are as the process sees them. Raises ConfigError."""
    values, lines = read_yaml(path)
    recipe, problems = _read(values, lines)
    if recipe is not None:
        request = recipe.to_request()
        found = [f"{one.place}{_at(lines, one.place)}: {one.text}" for one in find_problems(request)]
        problems += [line for line in found if not _is_told(line, problems)]
        if not problems:
            return request
    raise ConfigError(message(f"reading the recipe {path}", problems))


def _read(values: dict[str, Any], lines: dict[str, int]) -> tuple[Recipe | None, list[str]]:
    """The recipe, and what is wrong with it; without its wrong parts, None if it cannot be read without."""
    try:
        return Recipe.model_validate(values), []
    except ValidationError as error:
        items = error.errors()
    problems = [_tell(item, lines) for item in items]
    rest = copy.deepcopy(values)
    for item in items:
        _remove(rest, item["loc"])
    try:
        return Recipe.model_validate(rest), problems
    except ValidationError:
        return None, problems


def _tell(item: Any, lines: dict[str, int]) -> str:
    """One of pydantic's problems in our words, with the line of the file."""
    location: Place = item["loc"]
    place = ".".join(map(str, location))
    where = f"{place}{_at(lines, place)}"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key{did_you_mean(str(location[-1]), _known(location[:-1]))}"
    if item["type"] == "missing":
        return f"{where}: needed, but not given"
    return f"{where}: {item['msg']}, found {item['input']!r}"


def _known(parent: Place) -> list[str]:
    """The keys that there are below a place."""
    below: dict[int | None, type[BaseModel]] = {2: ModelEntry, 3: ModelParameters, 1: CommonParameters}
    section = below.get(len(parent), Recipe)
    return [field.alias or name for name, field in section.model_fields.items()]


def _remove(values: Any, location: Place) -> None:
    """Take the wrong part out, so that the rest can be checked too."""
    *path, last = location
    for part in path:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(values, dict):
        values.pop(last, None)


def _at(lines: dict[str, int], place: str) -> str:
    """` (line N)` of a place, or of the nearest one above it that the file has."""
    while place:
        if place in lines:
            return f" (line {lines[place]})"
        place = place.rpartition(".")[0]
    return ""


def _is_told(line: str, problems: list[str]) -> bool:
    """Whether another problem of the same place is told already."""
    return any(problem.split(":")[0] == line.split(":")[0] for problem in problems)

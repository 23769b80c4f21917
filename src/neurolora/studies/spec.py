"""What a study is, and at what scale: the YAML of `studies/` as frozen models.

Room: studies. Built by `library.py`, which reads the files; nothing here touches a file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from neurolora.checks import twice

Label = tuple[str, str]  # a row and a column of the study's table
Seed = Annotated[int, Field(ge=0)]


class _Section(BaseModel):
    """Frozen, and nothing unknown gets in."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class Row(_Section):
    """One row of a table of single tasks: a method, or a variant of one. adapter, train: config sections.

    gate_rate: in place of the scale's.
    """

    name: str
    adapter: dict[str, Any]
    train: dict[str, Any] = {}
    gate_rate: float | None = Field(None, gt=0)


class StreamRow(_Section):
    """One strategy on a stream. of: the method that it trains. search: values tried for each setting."""

    name: str
    strategy: str
    of: str
    settings: dict[str, Any] = {}
    search: dict[str, Annotated[list[float], Field(min_length=1)]] = {}


class Merge(_Section):
    """One way to merge: method, density and gates of `merge_adapters`. lambdas: the scales that are tried."""

    name: str
    method: str
    lambdas: list[float] = Field(min_length=1)
    density: float | None = None
    gates: str = "average"


class Claim(_Section):
    """A sentence of the paper as a comparison of two places of the table, where more is better.

    gains_over: a row; each place then counts by how much it is above that row in the same column.
    """

    say: str
    better: Label
    than: Label
    gains_over: str | None = None


class Curve(_Section):
    """The setting of the adapter that a study varies, drawn along an axis."""

    setting: str
    label: str


class Study(_Section):
    """One table or curve. kind: `single` tasks, `merging` or `streams`; each uses the fields it needs.

    tasks: roles, which a scale fills. rows, stream_rows: of the table. methods: all of `methods.yaml`.
    against: the rows that every other is tested against. paper: the printed figures, by row and column.
    claims: what the paper says, in words or by the order of its figures. hypotheses: what we ask ourselves.
    """

    id: str
    title: str
    about: str
    kind: Literal["single", "merging", "streams"]
    tasks: list[str] = Field(min_length=1)
    rows: dict[str, Row] = {}
    stream_rows: dict[str, StreamRow] = {}
    methods: dict[str, Row] = {}
    merges: dict[str, Merge] = {}
    against: list[str] = []
    curve: Curve | None = None
    paper: dict[str, dict[str, float]] = {}
    claims: list[Claim] = []
    hypotheses: list[Claim] = []

    @field_validator("tasks", "against")
    @classmethod
    def _each_once(cls, named: list[str]) -> list[str]:
        """A task named twice would have each seed count twice."""
        if repeated := twice(named):
            raise ValueError(f"{', '.join(repeated)}: named twice")
        return named

    @property
    def columns(self) -> list[str]:
        """The ids of the table's columns; `percent` of trainable parameters stands among the costs."""
        if self.kind == "merging":
            return ["alone", *(f"{merge}{end}" for merge in self.merges for end in ("", "_kept", "_gained"))]
        if self.kind == "streams":
            return [*self.tasks, "average", "bwt", "learning"]
        return [*self.tasks, *(["average"] if len(self.tasks) > 1 else []), "percent"]

    @property
    def trained(self) -> dict[str, Row]:
        """The rows that are trained: its own, or the methods of its strategies."""
        return self.rows or {row.of: self.methods[row.of] for row in self.stream_rows.values()}

    @property
    def names(self) -> dict[str, str]:
        """What each row is called in the table."""
        own = {label: row.name for label, row in self.rows.items()}
        return own | {label: row.name for label, row in self.stream_rows.items()}


class ScaleTask(_Section):
    """What stands for one of the paper's tasks. data: the section of a training config.

    rows: how many a dry run counts where the data are not at hand.
    """

    name: str
    data: dict[str, Any]
    metric: Literal["accuracy", "answer_probability"] = "accuracy"
    rows: int | None = Field(None, gt=0)


class Search(_Section):
    """How settings are chosen, on validation rows, by the mean over seeds that no table counts.

    A learning rate starts where the scale says; its neighbours are `factor` away, and the search goes on
    while the best one lies at an end, up to `most` rates. limit: validation rows of each task.
    """

    seeds: list[Seed] = Field([100], min_length=1)
    factor: float = Field(3.0, gt=1)
    most: int = Field(5, ge=1, description="1: no search; else at least 3, the first and its neighbours")
    limit: int | None = Field(None, gt=0)

    @field_validator("most")
    @classmethod
    def _both_sides(cls, most: int) -> int:
        if most == 2:
            raise ValueError("a search needs 3 rates or more; 1 means that there is none")
        return most


class ScaleEvaluation(_Section):
    """How results are scored: test rows of each task, rows at once."""

    limit: int | None = Field(None, gt=0)
    batch_size: int = Field(16, gt=0)


class Scale(_Section):
    """Model, tasks, sizes. rates: where each method's search starts; gate_rate: the gate's, as a part of it.

    processes: above 1, each training run is launched by torchrun on so many. dimensions: the model's config
    for a dry run without the model. output: which checkpoints a run keeps, to go on from. label: the name of
    its results; the file's own only if nothing was changed. note: what a reader of its results should know.
    """

    id: str
    label: str
    about: str
    note: str = ""
    model: dict[str, Any]
    tasks: dict[str, ScaleTask]
    train: dict[str, Any]
    rates: dict[str, Annotated[float, Field(gt=0)]]
    gate_rate: float = Field(gt=0)
    seeds: list[Seed] = Field(min_length=1)
    data: dict[str, Any] = {}
    search: Search = Field(default_factory=lambda: Search.model_validate({}))
    eval: ScaleEvaluation = Field(default_factory=lambda: ScaleEvaluation.model_validate({}))
    processes: int = Field(1, ge=1)
    dimensions: dict[str, Any] | None = None
    output: dict[str, Any] = {}
    quick: bool = False

    @model_validator(mode="after")
    def _honest(self) -> Scale:
        """Each seed once, and none of those on which choices are made; rates come from the search."""
        for name, seeds in (("seeds", self.seeds), ("search.seeds", self.search.seeds)):
            if twice(seeds):
                raise ValueError(f"{name}: {seeds} names one twice")
        if both := sorted({*self.seeds} & {*self.search.seeds}):
            raise ValueError(f"seeds: on {both[0]} choices are made (search.seeds); it cannot count too")
        taken = {"learning_rate", "gate_learning_rate", "seed"} & set(self.train)
        if taken:
            raise ValueError(f"train: {', '.join(sorted(taken))}: rates and seeds are set by the study")
        return self

"""Labelled items for streams: texts by the house's own readers, images from folders.

Room: fly. Reads files (texts also from the hub); computes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neurolora.errors import ConfigError, DataError, explain
from neurolora.fly.expansion import Array
from neurolora.provenance import fingerprint_file

Row = tuple[str, str]  # a text, or the fingerprint of an image's file, and its class
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class LabelledSource:
    """Where labelled items are. name: for texts a file, folder or hub name as in `TaskRequest`, for images a
    folder of `SPLIT/CLASS/*.png` (or .jpg, ...). config, columns, limit, seed, validation_fraction,
    test_fraction: of texts, as in `TaskRequest`; limit and seed serve images too.
    """

    name: str
    kind: str = "text"
    config: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    seed: int = 0
    validation_fraction: float = 0.0
    test_fraction: float = 0.0

    def check(self) -> None:
        """Raises ConfigError for what does not go together."""
        if self.kind == "image" and (self.columns or self.validation_fraction or self.test_fraction):
            found = "columns and fractions to hold out are of texts"
            do = "Leave them out: the splits of images are folders"
            raise ConfigError(explain(f"the images of {self.name}", found, do))

    def placed(self) -> LabelledSource:
        """The same with the whole path, where it is a local one: to be found from any folder."""
        path = Path(self.name).expanduser()
        return replace(self, name=str(path.resolve())) if path.exists() else self


def load_labelled(source: LabelledSource, split: str) -> tuple[list[Any], Array]:
    """The items (texts, or paths) of a split and their classes' names (n,). Raises DataError, ConfigError."""
    items, labels = _texts(source, split) if source.kind == "text" else _images(source, split)
    return items, np.array(labels)


class Gathered(NamedTuple):
    """A split of several sources: items and classes of each that is there, and what is not there."""

    parts: list[tuple[list[Any], Array]]
    missing: tuple[str, ...]


def load_several(sources: Sequence[LabelledSource], split: str) -> Gathered:
    """The split of each source, the one that was learned last first; what is there twice is taken once.

    A test row is left out where a source before it in time, further on in `sources`, was learned with it.
    missing: for each source but the first that cannot be read, its name and why. Raises DataError and
    ConfigError for the first.
    """
    parts, missing, there = [], [], set[Row]()
    learned = [rows_of([source], "train") if split == "test" else set() for source in sources[1:]]
    for place, source in enumerate(sources):
        try:
            items, labels = load_labelled(source, split)
        except (DataError, ConfigError) as error:
            if place == 0:
                raise
            missing.append(f"{source.name} ({error})")
            continue
        taken = there.union(*learned[place:])
        pairs = _pairs(items, labels)
        new = [row for row, pair in enumerate(pairs) if pair not in taken]
        there.update(pairs)
        if new:
            parts.append(([items[row] for row in new], labels[new]))
    return Gathered(parts, tuple(missing))


def new_rows(
    items: Sequence[Any], labels: Array, earlier: Sequence[LabelledSource]
) -> tuple[list[Any], Array]:
    """The rows that no earlier source has, to train or to test on: twice learned they would count twice, and
    a test row that is learned tells nothing any more.

    Raises DataError if none is left.
    """
    there = rows_of(earlier, "train") | rows_of(earlier, "test")
    new = [row for row, pair in enumerate(_pairs(items, labels)) if pair not in there]
    if not new:
        found = f"an earlier run has all {len(items)} rows already, to train or to test on"
        raise DataError(explain("going on from an earlier run", found, "Give rows that are new"))
    return [items[row] for row in new], labels[new]


def rows_of(sources: Sequence[LabelledSource], split: str) -> set[Row]:
    """All rows of a split of these, as what is in them; what cannot be read is passed by."""
    found = set[Row]()
    for source in sources:
        with contextlib.suppress(DataError, ConfigError):
            found.update(_pairs(*load_labelled(source, split)))
    return found


def _pairs(items: Sequence[Any], labels: Array) -> list[Row]:
    """Each item by what is in it, and its class."""
    keys = (fingerprint_file(item) if isinstance(item, Path) else item for item in items)
    return list(zip(keys, labels.tolist(), strict=True))


def _texts(source: LabelledSource, split: str) -> tuple[list[str], list[str]]:
    from neurolora.tasks import TaskRequest, load_rows

    request = TaskRequest(
        task="text",
        dataset_name=source.name,
        dataset_config=source.config,
        columns=source.columns,
        limit=source.limit,
        seed=source.seed,
        validation_fraction=source.validation_fraction,
        test_fraction=source.test_fraction,
    )
    rows = load_rows(request, split, least_labels=1)  # more may have come before
    return [row["sentence"] for row in rows], [row["labels"][row["label"]] for row in rows]


def _images(source: LabelledSource, split: str) -> tuple[list[Path], list[str]]:
    folder = Path(source.name).expanduser().resolve() / split
    asked = f"reading the images of {folder}"
    if not folder.is_dir():
        raise DataError(explain(asked, "no such folder", "Put a folder a class into FOLDER/train and /test"))
    found = [
        (path, home.name)
        for home in sorted(path for path in folder.iterdir() if path.is_dir())
        for path in sorted(home.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not found:
        do = f"Put a folder a class there, with {', '.join(sorted(SUFFIXES))} in it"
        raise DataError(explain(asked, "there is no image in a folder of its own class", do))
    if source.limit is not None and source.limit < len(found):
        chosen = np.random.default_rng(source.seed).permutation(len(found))[: source.limit]
        found = [found[place] for place in sorted(chosen)]
    return [path for path, _ in found], [label for _, label in found]

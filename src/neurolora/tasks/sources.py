"""Where raw rows come from: a local file, a local folder, or the hub; found first, read on demand.

Room: tasks. `registry` calls it; it reads the given paths and, for a hub name, `datasets` (network, cache).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurolora.errors import DataError, explain
from neurolora.tasks.files import SUFFIXES, parquet_labels, read_json
from neurolora.tasks.naming import listed, nearest
from neurolora.tasks.records import Record, kind_of
from neurolora.tasks.splits import UNNAMED, USUAL_NAMES

NOT_ROWS = ("labels.json", "pid_splits.json", "captions.json", "dataset_info.json", "dataset_infos.json")


@dataclass(frozen=True)
class Source:
    """The raw splits of one set of data: what they are called, and how to read each.

    `labels`: the names of a class-label column, where the data have them (column -> names).
    """

    name: str
    splits: Mapping[str, Callable[[], list[Record]]]
    labels: Callable[[str], tuple[str, ...] | None]


def looks_local(name: str) -> bool:
    """Whether a name that does not exist was meant as a path and not as the hub's `owner/name`."""
    path = Path(name)
    return (
        name.startswith((".", "~", "/"))
        or "\\" in name
        or name.count("/") > 1
        or path.suffix.lower() in SUFFIXES
        or path.is_absolute()
    )


def local_source(
    path: Path,
    read: Callable[[Path], list[Record]],
    names: Mapping[str, tuple[str, ...]] = USUAL_NAMES,
    config: str | None = None,
    split_column: str | None = None,
) -> Source:
    """A file or folder: its data files grouped by the split that their names say.

    A folder written by `Dataset.save_to_disk`, or laid out as on the hub
    (`CONFIG/train-00000-of-00001.parquet`), is read too. With `split_column`, rows that have this column go
    where it says.
    """
    if not path.exists():
        raise DataError(explain(f"reading {path}", "there is no such file or folder", "Check the path"))
    if path.is_dir() and ((path / "dataset_dict.json").exists() or (path / "state.json").exists()):
        return _saved_datasets(path)
    grouped = group_files(path, names, config, every_file=split_column is not None)
    labels = _label_finder(path, [file for files in grouped.values() for file in files])
    if split_column is not None:
        records = {split: _read_all(files, read) for split, files in grouped.items()}
        return Source(str(path), _by_column(records, split_column), labels)
    readers = {split: _reader(files, read) for split, files in grouped.items()}
    return Source(str(path), readers, labels)


def group_files(
    path: Path, names: Mapping[str, tuple[str, ...]], config: str | None = None, every_file: bool = False
) -> dict[str, list[Path]]:
    """Raw split -> its files, sorted. Raises `DataError` if a folder has no data file.

    Files whose name says no split count only when there is no other, or with `every_file`.
    """
    if path.is_file():
        return {split_of_file(path, names): [path]}
    base = path / config if config and (path / config).is_dir() else path
    files = sorted(file for file in base.glob("**/*") if _is_data(file, base))
    if config and base == path:
        files = _of_config(files, config, path)
    if not files:
        found = f"the folder has no data file ({', '.join(SUFFIXES)})"
        raise DataError(explain(f"reading {path}", found, "Name a folder with such files, or one file"))
    grouped: dict[str, list[Path]] = {}
    for file in files:
        grouped.setdefault(split_of_file(file, names, base), []).append(file)
    unnamed = grouped.get(UNNAMED, [])
    if every_file:
        return grouped
    if len(grouped) > 1:
        grouped.pop(UNNAMED, None)  # beside named splits, a file of another name is not one
    elif len(unnamed) > 1:
        found = f"no file name says its split: {listed(file.name for file in unnamed)}"
        raise DataError(
            explain(f"reading {path}", found, "Name them train, validation, test, or name one file")
        )
    return grouped


def split_of_file(file: Path, names: Mapping[str, tuple[str, ...]], base: Path | None = None) -> str:
    """The split that a file's folder says (`dev/x.csv`), else its name (`test.json`, `anatomy_test.csv`,
    `test-00000-of-00001.parquet`), else `UNNAMED`. The folder comes first: MMLU has
    auxiliary_train/mc_test.csv.
    """
    words = sorted((word for all_of in names.values() for word in all_of if word), key=len, reverse=True)
    folders = file.relative_to(base).parts[:-1] if base is not None else ()
    said = next((part.lower() for part in reversed(folders) if part.lower() in words), None)
    if said is not None:
        return said
    stem = file.stem.lower()
    ends = (word for word in words if stem == word or stem.endswith(tuple(f"{mark}{word}" for mark in "_-.")))
    begins = (word for word in words if stem.startswith(tuple(f"{word}{mark}" for mark in "_-.")))
    return next(ends, None) or next(begins, UNNAMED)


def hub_source(name: str, config: str | None) -> Source:
    """A data set on the hub, through `datasets.load_dataset`. Raises `DataError` if it cannot be had."""
    import datasets

    asked = f"loading {name!r}{f' (config {config!r})' if config else ''} from the hub"
    try:
        loaded = datasets.load_dataset(name, config)
    except Exception as error:  # the hub, the network, the cache and the files all have their own kinds
        reason = (str(error).strip().splitlines() or [""])[0]
        do = (
            "Check the name, the configuration and the network; there is no local file or folder of that name"
        )
        raise DataError(explain(asked, f"{type(error).__name__}: {reason}", do)) from error
    return _from_datasets(name if config is None else f"{name}/{config}", loaded)


def _saved_datasets(path: Path) -> Source:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # arrow, json and the file system all have their own kinds
        found = (str(error).strip().splitlines() or [type(error).__name__])[0]
        do = "Write it again with save_to_disk"
        raise DataError(explain(f"reading {path} as a saved data set", found, do)) from error
    return _from_datasets(str(path), loaded)


def _from_datasets(name: str, loaded: Any) -> Source:
    """Splits of a `DatasetDict` (or one `Dataset`), rows as arrow has them: images are not decoded."""
    parts = dict(loaded) if hasattr(loaded, "keys") else {str(loaded.split or UNNAMED): loaded}

    def reader(split: str) -> Callable[[], list[Record]]:
        def read() -> list[Record]:
            rows = parts[split].with_format("arrow")[:].to_pylist()
            return [Record(values, f"{name}/{split}", f"row {n}") for n, values in enumerate(rows, 1)]

        return read

    def labels(column: str) -> tuple[str, ...] | None:
        names = (getattr(part.features.get(column), "names", None) for part in parts.values())
        return next((tuple(one) for one in names if one), None)

    return Source(name, {split: reader(split) for split in parts}, labels)


def _reader(files: list[Path], read: Callable[[Path], list[Record]]) -> Callable[[], list[Record]]:
    return lambda: _read_all(files, read)


def _read_all(files: list[Path], read: Callable[[Path], list[Record]]) -> list[Record]:
    return [record for file in files for record in read(file)]


def _by_column(records: Mapping[str, list[Record]], column: str) -> dict[str, Callable[[], list[Record]]]:
    """Regroup rows by what their own `column` says; a row without it stays with its file's split."""
    grouped: dict[str, list[Record]] = {}
    for split, rows in records.items():
        for record in rows:
            own = record.values.get(column, split)
            if not isinstance(own, str):
                raise record.fail(column, f"it is {kind_of(own)}", "Write train, val or test")
            grouped.setdefault(own, []).append(record)

    def reader(split: str) -> Callable[[], list[Record]]:
        return lambda: grouped[split]

    return {split: reader(split) for split in grouped}


def _is_data(file: Path, base: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(base).parts)
    return file.is_file() and file.suffix.lower() in SUFFIXES and file.name not in NOT_ROWS and not hidden


def _of_config(files: list[Path], config: str, folder: Path) -> list[Path]:
    """Files that belong to one configuration by name (`anatomy_test.csv`), or all for `all` and `main`."""
    own = [file for file in files if file.stem == config or file.stem.startswith(f"{config}_")]
    if own or config in ("all", "main", "default"):
        return own or files
    found = f"there is no folder and no file of that name; the files are {listed(f.name for f in files)}"
    hint = nearest(config, (file.stem for file in files))
    raise DataError(
        explain(f"dataset_config {config!r} in {folder}", found, f"{hint}Leave it out to read all")
    )


def _label_finder(path: Path, files: list[Path]) -> Callable[[str], tuple[str, ...] | None]:
    """Label names from `labels.json` beside the data, or from the metadata of a Parquet file."""
    beside = (path if path.is_dir() else path.parent) / "labels.json"

    def find(column: str) -> tuple[str, ...] | None:
        if beside.exists():
            return _labels_json(beside)
        parquet = next((file for file in files if file.suffix.lower() == ".parquet"), None)
        return parquet_labels(parquet, column) if parquet is not None else None

    return find


def _labels_json(path: Path) -> tuple[str, ...]:
    names = read_json(path)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) < 2:
        raise DataError(
            explain(f"reading {path}", "it is not a list of names", 'Write ["name 0", "name 1", ...]')
        )
    if len(set(names)) != len(names):
        raise DataError(explain(f"reading {path}", "a name stands twice", "Give each label its own name"))
    return tuple(names)


def with_columns(records: list[Record], columns: Mapping[str, str]) -> list[Record]:
    """The same records, which find their fields under the user's names."""
    return [dataclasses.replace(record, columns=columns) for record in records] if columns else records

"""A stream that is killed anywhere and started again gives the same bits, and does nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("killed_streams.py")
PLACES = (
    "inside the first task",
    "inside the second task",
    "trained, not published",
    "published, not remembered",
    "remembered, not noted",
    "in scoring",
    "scored, not cleaned",
    "between tasks",
    "in the state's file",
    "at the end",
)
#: Strategies with a memory of tensors, of rows, with an adapter that grows, and those that begin a task by
#: looking at the weights, which must be the task's first ones also where it is gone on with.
ROWS = (
    ("ewc", "lora", {"samples": 4}),
    ("replay", "neurolora", {"rows": 4}),
    ("grow", "neurolora", {}),
    ("o-lora", "lora", {"norm_weight": 0.01}),
    ("protect", "neurolora", {"samples": 4, "weight": 10.0}),
    ("lwf", "neurolora", {}),
)
LOOKING = ("protect", "lwf")


@pytest.fixture(scope="module", params=ROWS, ids=[row[0] for row in ROWS])
def base(
    request: pytest.FixtureRequest, tiny_stream: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    strategy, method, settings = request.param
    base = tmp_path_factory.mktemp(strategy)
    path = tiny_stream.write_stream(base, [tiny_stream.entry(strategy, method, **settings)])
    plans = {"whole": [], "often": list(PLACES if strategy not in LOOKING else PLACES[1:2])}
    if strategy == "replay":  # each of these leaves the rest of the stream to one process
        plans |= {f"at-{i}": [PLACES[i]] for i in (1, 3, 6)}
    (base / "plans.json").write_text(json.dumps(plans))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(path), str(base / "plans.json")],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return base


def runs(base: Path) -> list[Path]:
    return [
        path for path in sorted(base.iterdir()) if path.name.startswith(("at-", "often")) and path.is_dir()
    ]


@pytest.mark.slow
def test_the_matrix_is_the_same(base: Path) -> None:
    whole = json.loads((base / "whole" / "results.json").read_text())
    for folder in runs(base):
        found = json.loads((folder / "results.json").read_text())
        assert found["cells"][0]["scores"] == whole["cells"][0]["scores"], folder.name
        assert found["rows"] == whole["rows"], folder.name
        assert (folder / "R.csv").read_text() == (base / "whole" / "R.csv").read_text(), folder.name


@pytest.mark.slow
def test_every_adapter_is_the_same_to_the_bit(base: Path) -> None:
    files = sorted((base / "whole").rglob("*.safetensors"))
    assert len(files) >= 4
    for folder in runs(base):
        names = [path.relative_to(base / "whole") for path in files]
        assert names == [path.relative_to(folder) for path in sorted(folder.rglob("*.safetensors"))], (
            folder.name
        )
        for name in names:
            first, second = load_file(base / "whole" / name), load_file(folder / name)
            assert first.keys() == second.keys()
            assert all(bool((first[key] == second[key]).all()) for key in first), (folder.name, name)


@pytest.mark.slow
def test_nothing_is_done_twice(base: Path) -> None:
    """What is on disk is not made again; a step after the last checkpoint, or a score, that was lost with its
    process is."""
    whole = (base / "whole.events").read_text().splitlines()
    assert len(whole) == 3 * 6 + 3 + 9
    for folder in runs(base):
        events = folder.with_suffix(".events").read_text().splitlines()
        trained = [event for event in events if event.startswith("trained")]
        assert trained == [event for event in whole if event.startswith("trained")], folder.name
        steps = [event for event in events if event.startswith("step")]
        kills = sum(place.startswith("inside") for place in PLACES) if folder.name == "often" else 1
        assert len(steps) <= 3 * 6 + kills, folder.name  # a checkpoint is saved after every second step
        lost = len(PLACES) if folder.name == "often" else 1
        assert len(events) - len(steps) <= 3 + 9 + lost, folder.name
        assert set(events) == set(whole), folder.name


@pytest.mark.slow
def test_no_rubbish_is_left(base: Path) -> None:
    for folder in runs(base):
        assert not list(folder.rglob("checkpoint-*")), folder.name
        memories = list(folder.glob("cells/*/*/memory/*"))
        assert [path.name for path in memories] == ["after-2"], folder.name

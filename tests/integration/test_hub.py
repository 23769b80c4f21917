"""Names instead of folders: a base and adapters that lie on a hub, from training to a merged adapter.

huggingface_hub reads its address once, on import, so the commands run in a process of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

COMMANDS = """
import json, sys
from neurolora.cli.main import main
for words in json.loads(sys.argv[1]):
    code = main(words)
    if code:
        raise SystemExit(code)
"""


def run(hub: str, cache: Path, *commands: list[str]) -> subprocess.CompletedProcess[str]:
    """The commands one after another in one process whose hub is at this address."""
    settings = {"HF_ENDPOINT": hub, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMMANDS, json.dumps(commands)],
        env={**os.environ, **settings, "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def trained(base: Path, name: str, tiny_llama: ModuleType) -> list[str]:
    """The command that trains an adapter on the hub's base and puts it into the hub's folder."""
    changes = {"model_name_or_path": "some/base", "output_dir": str(base / "hub" / "some" / name)}
    short = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "projection_seed": 7}
    settings = tiny_llama.settings(base, **changes, **short, seed=len(name))
    path = base / f"{name}.json"
    path.write_text(json.dumps(settings))
    return ["train", str(path)]


@pytest.fixture
def base(tmp_path: Path, tiny_llama: ModuleType) -> Path:
    tiny_llama.make_model(tmp_path / "hub" / "some" / "base")
    tiny_llama.make_rows(tmp_path / "data")
    return tmp_path


def test_a_base_and_adapters_from_a_hub_are_trained_inspected_merged_and_used(
    base: Path, tiny_llama: ModuleType, local_hub: ModuleType
) -> None:
    hub, cache, merged = base / "hub", base / "cache", base / "merged"
    with local_hub.serve(hub) as address:
        done = run(address, cache, trained(base, "a", tiny_llama), trained(base, "bb", tiny_llama))
        assert done.returncode == 0, done.stderr
        shutil.rmtree(cache)
        pair = ["some/a", "some/bb"]
        done = run(
            address, cache,
            ["inspect", *pair, "--html", str(base / "pair.html")],
            ["merge", *pair, "-o", str(merged), "--method", "ties", "--density", "0.5"],
            ["eval", str(merged), "--against-parents", "--split", "validation"],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert json.loads((merged / "adapter_config.json").read_text())["base_model_name_or_path"] == "some/base"
    assert local_hub.COMMIT[:12] not in done.stdout + (base / "pair.html").read_text()
    card = (merged / "README.md").read_text()
    assert "base_model: some/base" in card
    assert "some/a" in card
    assert str(cache) not in card


def test_a_name_that_the_hub_does_not_have_is_one_clear_error(base: Path, local_hub: ModuleType) -> None:
    with local_hub.serve(base / "hub") as address:
        done = run(address, base / "cache", ["merge", "some/a", "some/nobody", "-o", str(base / "merged")])
    assert done.returncode == 4, done.stderr
    assert "some/" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (base / "merged").exists()

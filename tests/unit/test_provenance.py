"""Fingerprints are content hashes; the environment is plain JSON, offline and device-free."""

from __future__ import annotations

import hashlib
import json
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from neurolora import provenance
from neurolora.errors import DataError


def test_environment_is_json_and_names_the_versions_in_use() -> None:
    import torch

    found = json.loads(json.dumps(provenance.environment()))
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["python"] == platform.python_version()
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] in ("cpu", "cuda")
    assert found["cpu_count"] >= 1


def test_a_package_that_was_nowhere_is_left_out() -> None:
    one = provenance.environment()
    other = {**one, "versions": {**one["versions"], "numba": "0.1", "triton": None}}
    del one["versions"]["triton"]  # a record of before it was asked for
    one["versions"]["numba"] = None
    found = provenance.made_by([one, other])["versions"]
    assert (found["numba"], "triton" in found, len(found["torch"])) == (["0.1"], False, 1)


def test_environment_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    provenance.environment()


def test_importing_provenance_imports_no_torch() -> None:
    code = "import sys, neurolora.provenance as p; assert 'torch' not in sys.modules"
    bare = f"import sys, types; {_stub_package()}{code}"
    subprocess.run([sys.executable, "-c", bare], check=True)


def _stub_package() -> str:
    """An empty `neurolora` at the same place, so that only this room's own imports are seen."""
    root = Path(provenance.__file__).parent
    return f"m = types.ModuleType('neurolora'); m.__path__ = [{str(root)!r}]; sys.modules['neurolora'] = m; "


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_git_state_follows_the_checkout(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("1")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "one")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    assert provenance.git_state(package) == {"commit": commit, "dirty": False}
    (tmp_path / "result.json").write_text("{}")
    assert provenance.git_state(package) == {"commit": commit, "dirty": True}
    assert provenance.git_state(package, only_folder=True) == {"commit": commit, "dirty": False}
    (package / "a.py").write_text("2")
    assert provenance.git_state(package, only_folder=True) == {"commit": commit, "dirty": True}


def test_git_state_of_an_untracked_package_inside_a_checkout_is_none(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "one")
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "b.py").write_text("1")
    assert provenance.git_state(installed) is None


def test_git_state_without_git_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state(tmp_path) is None


def test_fingerprint_file_is_the_sha256_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * (2 * provenance._BLOCK // 256) + b"tail"
    (tmp_path / "f").write_bytes(content)
    assert provenance.fingerprint_file(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_fingerprint_of_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing-here"):
        provenance.fingerprint_file(tmp_path / "nothing-here")


def test_fingerprint_json_ignores_key_order_and_sees_values() -> None:
    one = provenance.fingerprint_json({"a": 1, "b": [1, {"c": "ä"}]})
    assert one == provenance.fingerprint_json({"b": (1, {"c": "ä"}), "a": 1})
    assert one != provenance.fingerprint_json({"a": 1, "b": [1, {"c": "a"}]})


def test_fingerprint_rows_sees_order_and_boundaries() -> None:
    rows = [{"a": "1"}, {"a": "2"}]
    assert provenance.fingerprint_rows(rows) == provenance.fingerprint_rows(iter(rows))
    assert provenance.fingerprint_rows(rows) != provenance.fingerprint_rows(rows[::-1])
    assert provenance.fingerprint_rows(rows) != provenance.fingerprint_rows(rows[:1])

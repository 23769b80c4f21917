"""A folder that is overwritten: killed or failing at each step, the old or the new one is whole."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from neurolora import files
from neurolora.errors import OutputError
from neurolora.files import atomic_folder, restore_folder

OLD = {"a.txt": "old", "b.txt": "old"}
NEW = {"a.txt": "new", "c.txt": "new"}
#: Renames of one overwriting: the old folder aside, the new one in its place, the old one to the waste.
STEPS = 3


def fill(folder, contents):
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        (folder / name).write_text(text)
    return folder


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def overwrite(target, new=None):
    with atomic_folder(target, overwrite=True) as folder:
        fill(folder, NEW if new is None else new)


@pytest.fixture
def out(tmp_path):
    return fill(tmp_path / "out", OLD)


def killed(out, kill_at):
    """Overwrite `out` in a process that kills itself: (rename, before or after it), or half way in rmtree."""
    code = f"""
        import os, shutil, signal
        from pathlib import Path
        from neurolora.files import atomic_folder

        real, calls = os.replace, 0

        def die():
            os.kill(os.getpid(), signal.SIGKILL)

        def replace(source, target):
            global calls
            calls += 1
            if (calls, "before") == {kill_at!r}:
                die()
            real(source, target)
            if (calls, "after") == {kill_at!r}:
                die()

        def rmtree(folder, **options):
            next(Path(folder).iterdir()).unlink()
            die()

        os.replace = replace
        if {kill_at!r} == "rmtree":
            shutil.rmtree = rmtree
        with atomic_folder({str(out)!r}, overwrite=True) as folder:
            for name, text in {NEW!r}.items():
                (folder / name).write_text(text)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL


KILLS = [(step, moment) for step in range(1, STEPS + 1) for moment in ("before", "after")]


def test_the_steps_are_as_many_as_are_tried(out, monkeypatch):
    calls = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda *ends: (calls.append(ends), real(*ends)))
    overwrite(out)
    assert len(calls) == STEPS
    assert contents(out) == NEW
    assert names(out.parent) == ["out"]


@pytest.mark.parametrize("kill_at", [*KILLS, "rmtree"])
def test_a_killed_process_leaves_a_whole_folder_and_the_next_writer_puts_it_right(out, kill_at):
    killed(out, kill_at)
    asides = list(out.parent.glob(".out.*.replaced"))
    assert all(contents(aside) == OLD for aside in asides)
    expected = OLD if kill_at in KILLS[:3] else NEW
    if out.exists():
        assert contents(out) == expected
    else:
        assert len(asides) == 1, "it is nowhere"

    with pytest.raises(OutputError, match="not empty"), atomic_folder(out):
        pytest.fail("the block was entered")
    assert contents(out) == expected
    assert not list(out.parent.glob(".out.*.replaced"))
    if kill_at in KILLS[1:5]:  # else the process had no second folder under a name, or was past it
        assert names(out.parent) == ["out"]
    overwrite(out, {"d.txt": "newest"})
    assert contents(out) == {"d.txt": "newest"}


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", range(1, STEPS))
def test_a_rename_that_fails_leaves_what_was_there(out, monkeypatch, step, error):
    fail_at(monkeypatch, step, error)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        overwrite(out)
    assert contents(out) == OLD
    assert names(out.parent) == ["out"]


def test_an_old_folder_that_cannot_be_removed_is_left_to_the_next(out, monkeypatch):
    fail_at(monkeypatch, STEPS, OSError(13, "Permission denied"))
    overwrite(out)
    assert contents(out) == NEW
    assert len(names(out.parent)) == 2
    restore_folder(out)
    assert names(out.parent) == ["out"]


def fail_at(monkeypatch, step, error):
    calls = []
    real = os.replace

    def replace(*ends):
        calls.append(ends)
        if len(calls) == step:
            raise error
        real(*ends)

    monkeypatch.setattr(os, "replace", replace)


def test_somebody_who_restores_at_the_same_time_costs_no_folder(out, monkeypatch):
    real = os.replace
    calls = []

    def replace(*ends):
        calls.append(ends)
        if len(calls) == 2:
            restore_folder(out)
        real(*ends)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OutputError):
        overwrite(out)
    assert contents(out) == OLD
    assert names(out.parent) == ["out"]


def test_only_the_own_name_is_restored(tmp_path):
    for name in (".out.v2.ab12cd34.replaced", ".outer.ab12cd34.replaced", "out.ab12cd34.replaced"):
        fill(tmp_path / name, OLD)
    before = names(tmp_path)
    restore_folder(tmp_path / "out")
    restore_folder(tmp_path / "absent" / "out")
    assert names(tmp_path) == before
    restore_folder(tmp_path / "out.v2")
    assert contents(tmp_path / "out.v2") == OLD


def test_an_empty_folder_does_not_hide_the_old_one_and_a_file_is_let_be(tmp_path):
    fill(tmp_path / ".out.ab12cd34.replaced", OLD)
    (tmp_path / "out").write_text("mine")
    restore_folder(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
    (tmp_path / "out").unlink()
    (tmp_path / "out").mkdir()
    restore_folder(tmp_path / "out")
    assert contents(tmp_path / "out") == OLD


def test_of_two_old_folders_the_newest_comes_back(tmp_path):
    for name, when in (("aaaaaaaa", 1), ("bbbbbbbb", 3), ("cccccccc", 2)):
        folder = fill(tmp_path / f".out.{name}.replaced", {"name": name})
        os.utime(folder, (when, when))
    restore_folder(tmp_path / "out")
    assert contents(tmp_path / "out") == {"name": "bbbbbbbb"}
    assert names(tmp_path) == ["out"]


def test_a_link_is_followed(out, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(out, target_is_directory=True)
    overwrite(link)
    assert link.is_symlink()
    assert contents(out) == NEW
    assert names(tmp_path) == ["link", "out"]


def test_what_is_removed_last_has_lost_its_name(out, monkeypatch):
    seen = []
    real = shutil.rmtree
    monkeypatch.setattr(
        files.shutil, "rmtree", lambda folder, **options: (seen.append(folder.name), real(folder, **options))
    )
    overwrite(out)
    assert seen
    assert all(name.endswith(".part") for name in seen)


def test_what_killed_processes_left_unfinished_goes_and_nothing_else(tmp_path):
    inside = tmp_path / "cell" / "memory"
    inside.mkdir(parents=True)
    (inside / ".after-0.x1y2.part").mkdir()
    (inside / ".after-0.x1y2.part" / "memory.safetensors").write_bytes(b"half")
    (tmp_path / "cell" / ".state.json.k3.part").write_text("half")
    (inside / ".after-1.z9.replaced").mkdir()  # perhaps the only whole one: for `restore_folder`
    (inside / ".after-1.z9.part").mkdir()
    (inside / "notes.part").write_text("somebody's")
    files.clear_unfinished(tmp_path / "cell")
    left = sorted(path.relative_to(tmp_path / "cell").as_posix() for path in (tmp_path / "cell").rglob("*"))
    assert left == ["memory", "memory/.after-1.z9.part", "memory/.after-1.z9.replaced", "memory/notes.part"]

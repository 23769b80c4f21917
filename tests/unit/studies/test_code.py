"""The code's fingerprint: what changes numbers changes it, what only reads differently does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurolora.studies import code

SOURCE = '"""A file."""\n\n\ndef f(x):\n    """Twice."""\n    return 2 * x  # two\n'


@pytest.mark.parametrize(
    "same",
    [
        "def f(x):\n    return 2 * x\n",
        SOURCE.replace("Twice", "Two times").replace("# two", "# it doubles"),
        SOURCE.replace("return 2 * x", "return (\n        2 * x\n    )"),
    ],
)
def test_words_and_layout_mean_nothing(same: str) -> None:
    assert code._meaning(same) == code._meaning(SOURCE)


@pytest.mark.parametrize("other", [SOURCE.replace("2 *", "3 *"), SOURCE.replace("(x)", "(x, y=0)")])
def test_what_is_done_means_something(other: str) -> None:
    assert code._meaning(other) != code._meaning(SOURCE)


def test_every_room_and_every_file_that_is_left_out_is_there() -> None:
    for rooms in code.ROOMS.values():
        assert all((code.PACKAGE / room).exists() for room in rooms)
    assert all((code.PACKAGE / name).is_file() for name in code.SHOWING)


def test_each_kind_has_the_rooms_that_it_runs(tmp_path: Path) -> None:
    names = {kind: {path.name for path in code._files(kind)} for kind in code.ROOMS}
    assert "trainer.py" in names["train"]
    assert "merge.py" in names["merge"] - names["train"]
    assert "ewc.py" in names["stream"] - names["merge"]
    assert "harness.py" in names["score"] - names["train"]
    assert "progress.py" not in names["train"]
    counting = code.PACKAGE / "tuner" / "statistics.py"
    assert [kind for kind in code.ROOMS if counting in code._files(kind)] == ["stream"]  # `protect` needs it
    of = {kind: code.code_fingerprint(kind) for kind in code.ROOMS}
    assert of["base"] == of["score"]  # loading and scoring, both of them
    assert len(set(of.values())) == len(code.ROOMS) - 1


def test_another_version_of_a_library_is_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code.code_fingerprint("train")
    code.code_fingerprint.cache_clear()
    monkeypatch.setattr(code, "package_versions", lambda: dict.fromkeys(code.LIBRARIES, "0"))
    assert code.code_fingerprint("train") != before
    code.code_fingerprint.cache_clear()


def test_the_code_on_disk_may_have_left_the_code_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text(SOURCE)
    monkeypatch.setattr(code, "PACKAGE", tmp_path)
    monkeypatch.setattr(code, "ROOMS", {"train": ("a.py",)})
    code.code_fingerprint.cache_clear()
    before = code.code_fingerprint("train")
    (tmp_path / "a.py").write_text(SOURCE.replace("# two", "# it doubles"))
    assert code.code_on_disk("train") == before
    (tmp_path / "a.py").write_text(SOURCE.replace("2 *", "30 *"))
    assert code.code_on_disk("train") != before
    assert code.code_fingerprint("train") == before
    code.code_fingerprint.cache_clear()

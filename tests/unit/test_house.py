"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import neurolora

SOURCE = Path(neurolora.__file__).parent
PEFT_INTERNALS = ("peft.tuners", "peft.utils.peft_types", "peft.mapping", "peft.utils.save_and_load")


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def files_of_rooms() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py"))


def test_only_the_tuner_reaches_into_pefts_internals() -> None:
    trespassers = [
        f"{path.relative_to(SOURCE)}: {name}"
        for path in files_of_rooms()
        if path.parent.name != "tuner"
        for name in imported_names(path)
        if name.startswith(PEFT_INTERNALS)
    ]
    assert trespassers == []


def test_only_registration_touches_the_enum() -> None:
    users = [p.name for p in files_of_rooms() if "peft.utils.peft_types" in imported_names(p)]
    assert users == ["registration.py"]


def test_nothing_unpickles() -> None:
    text = {path: path.read_text(encoding="utf-8") for path in files_of_rooms()}
    unsafe = ("import pickle", "weights_only=False")
    assert [path.name for path, source in text.items() if any(word in source for word in unsafe)] == []


def test_every_file_says_which_room_it_is() -> None:
    silent = [
        str(path.relative_to(SOURCE))
        for path in files_of_rooms()
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_importing_neurolora_is_light_and_loading_peft_registers_the_method() -> None:
    code = (
        "import sys, neurolora; "
        "assert not {'torch', 'peft', 'transformers'} & set(sys.modules), 'importing neurolora is heavy'; "
        "import peft; assert 'NEUROLORA' in list(peft.PeftType); "
        "from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as m; "
        "assert m['NEUROLORA'].__name__ == 'NeuroLoraConfig'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

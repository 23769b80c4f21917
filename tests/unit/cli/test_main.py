import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import neurolora
from neurolora import errors
from neurolora.cli import main as cli
from neurolora.cli.main import COMMANDS, CommandRow, describe, exit_code_of, main, wants_traceback

FAKE = '''
import sys
from typing import Annotated
import typer

def fake_command(
    name: Annotated[str, typer.Argument()] = "",
    batch_size: Annotated[int, typer.Option("--batch-size")] = 1,
    num_fewshot: Annotated[int, typer.Option("--num_fewshot")] = 0,
) -> None:
    """A long help that only `fake --help` shows."""
    if name == "print":
        print(batch_size, num_fewshot)
    if name == "lines":
        for i in range(100_000):
            print(i)
    if name == "few lines":
        print("one")
    if name == "wait":
        print("ready", flush=True)
        import time
        time.sleep(60)
    if name == "crash":
        raise RuntimeError("boom [bold]")
    if name == "interrupt":
        raise KeyboardInterrupt
    if name == "full":
        raise OSError(28, "No space left on device")
    if name:
        from neurolora import errors
        kind = getattr(errors, name, None)
        if kind:
            raise kind("asked: found. do [this]")
'''

FAKE_ROW = CommandRow("fake", "fake_command_file", "fake_command", "Short.")


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A command `fake` in the table, in a file of its own."""
    (tmp_path / "fake_command_file.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        cli, "COMMANDS", (*COMMANDS, CommandRow("fake", "fake_command_file", "fake_command", "Short."))
    )
    monkeypatch.delenv("NEUROLORA_DEBUG", raising=False)
    yield tmp_path
    sys.modules.pop("fake_command_file", None)


def start(fake, *arguments, **settings):
    """The same command line in a process of its own."""
    code = (
        "import sys; from neurolora.cli import main as cli; "
        "cli.COMMANDS += (cli.CommandRow('fake', 'fake_command_file', 'fake_command', 'Short.'),); "
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(fake), "PYTHONUNBUFFERED": ""}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **settings,
    )  # fmt: skip


def test_help_names_every_command_and_every_exit_code(capsys):
    assert main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for row in COMMANDS:
        assert row.name in shown
        assert row.summary in shown
    for code in {*(code for _, code in cli.EXIT_CODES), 0, 130}:
        assert f"{code} " in shown[shown.index("Exit codes") :]


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from neurolora.cli.main import main; main(['--help']); main(['--version']); "
        "heavy = {'torch', 'peft', 'transformers', 'matplotlib', 'numpy', 'datasets', 'lm_eval'}; "
        "heavy &= set(sys.modules); "
        "commands = [m for m in sys.modules if m.startswith('neurolora.cli.')]; "
        "print(sorted(heavy), commands, file=sys.stderr)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[] ['neurolora.cli.main']"
    assert time.perf_counter() - started < 10  # about 0.3 s on an idle machine


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"neurolora {neurolora.__version__}\n"


def test_no_command_shows_the_help_and_fails(capsys):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert "inspect" in captured.out + captured.err


def test_the_entry_point_is_main():
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="neurolora")
    assert script.load() is main


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_every_command_in_the_table_exists(row, capsys):
    if not (Path(cli.__file__).parent / f"{row.module.rpartition('.')[2]}.py").is_file():
        pytest.skip(f"{row.module} is not written yet")
    assert main([row.name, "--help"]) == 0
    assert "Usage: neurolora" in capsys.readouterr().out


@pytest.mark.parametrize("spelling", [("--batch-size", "--num-fewshot"), ("--batch_size", "--num_fewshot")])
def test_hyphens_and_underscores_are_one(fake, capsys, spelling):
    assert main(["fake", "print", spelling[0], "3", f"{spelling[1]}=4"]) == 0
    assert capsys.readouterr().out == "3 4\n"


def test_a_command_shows_its_own_long_help(fake, capsys):
    assert main(["fake", "-h"]) == 0
    assert "A long help" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "near"),
    [(["fake", "--batch_siz", "2"], "--batch-size"), (["--versoin"], "--version"), (["insepct"], "inspect")],
)
def test_a_misspelled_name_gets_the_nearest(fake, capsys, arguments, near):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert near in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("NeuroLoraError", 1),
        ("ConfigError", 2),
        ("TargetError", 2),
        ("UnsupportedOperationError", 2),
        ("DataError", 3),
        ("AdapterError", 4),
        ("FingerprintMismatchError", 4),
        ("TrainingError", 5),
        ("OutputError", 6),
    ],
)
def test_every_kind_of_error_has_its_code_and_one_message(fake, capsys, kind, code):
    assert main(["fake", kind]) == code
    captured = capsys.readouterr()
    assert captured.err == "neurolora: error: asked: found. do [this]\n"
    assert captured.out == ""


def test_no_kind_of_error_is_without_a_code():
    named = vars(errors).values()
    kinds = [kind for kind in named if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 8
    for kind in kinds:
        assert exit_code_of(kind("x")) in range(1, 7)


def test_a_full_disk_is_an_output_error_whoever_met_it(fake):
    assert main(["fake", "full"]) == 6
    assert exit_code_of(OSError(errno.ENOENT, "no such file")) == 1


def test_an_unexpected_error_is_short_and_says_how_to_see_more(fake, capsys):
    assert main(["fake", "crash"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("neurolora: unexpected RuntimeError: boom [bold]\n")
    assert "--debug" in message
    assert "Traceback" not in message


def test_debug_shows_the_traceback(fake, monkeypatch):
    with pytest.raises(RuntimeError, match="boom"):
        main(["--debug", "fake", "crash"])
    monkeypatch.setenv("NEUROLORA_DEBUG", "1")
    with pytest.raises(errors.DataError):
        main(["fake", "DataError"])
    process = start(fake, "fake", "crash")
    _, shown = process.communicate()
    assert process.returncode == 1
    assert "Traceback" in shown


@pytest.mark.parametrize(
    ("value", "arguments", "wanted"),
    [
        ("", ["--debug", "train"], True),
        ("", ["train", "--debug"], False),
        ("", [], False),
        ("0", ["train"], False),
        ("1", ["train"], True),
    ],
)
def test_when_a_traceback_is_wanted(monkeypatch, value, arguments, wanted):
    monkeypatch.setenv("NEUROLORA_DEBUG", value)
    assert wants_traceback(arguments) is wanted


def test_an_interrupt_inside_a_command_is_130(fake, capsys):
    assert main(["fake", "interrupt"]) == 130
    assert capsys.readouterr().err.strip() == "neurolora: interrupted"


def heed_interrupts():
    """A job in the background is told to ignore SIGINT, and so are its children, the tests' among them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_control_c_ends_without_a_traceback(fake):
    process = start(fake, "fake", "wait", preexec_fn=heed_interrupts)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in shown
    assert "interrupted" in shown


@pytest.mark.parametrize("what", ["lines", "few lines"])
def test_a_reader_that_goes_away_is_no_traceback(fake, what):
    process = start(fake, "fake", what)
    process.stdout.close()
    shown = process.stderr.read()
    assert process.wait(timeout=30) == 1
    assert shown == ""


def test_our_own_errors_say_everything_themselves():
    assert describe(errors.DataError("all")) == "error: all"


def test_help_keeps_what_stands_in_brackets(capsys):
    assert main(["merge", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "[default: the first adapter's]" in shown


def test_a_command_may_have_commands_of_its_own(capsys):
    assert main(["fly"]) in (0, 2)
    assert "train" in capsys.readouterr().out
    assert main(["fly", "train"]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["fly", "swim"]) == 2

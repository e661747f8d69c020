"""The Makefile finds a Python that will do; where there is none it says so in one line, with the remedy."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """The only folder on the PATH: what the recipe calls, and the Pythons that a test puts there."""
    folder = tmp_path / "commands"
    folder.mkdir()
    for name in ("grep", "rm"):
        (folder / name).symlink_to(shutil.which(name) or name)
    return folder


@pytest.fixture
def make(repository: Path, tmp_path: Path, commands: Path) -> Make:
    """Runs make in a folder that holds nothing but the Makefile."""
    shutil.copy(repository / "Makefile", tmp_path)
    program = shutil.which("make") or "make"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [program, "--no-print-directory", *arguments]
        return subprocess.run(command, cwd=tmp_path, env={"PATH": str(commands)}, capture_output=True, text=True)

    return run


def put(path: Path, script: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


RUNNING = f'exec {sys.executable} "$@"'


@pytest.mark.parametrize("found", ["python3.13", "python3.12", "python3.11", "python3"])
def test_the_newest_python_that_runs_makes_the_environment(make: Make, commands: Path, found: str) -> None:
    """Newer ones are there, but do not run, lack a module or are too new."""
    wanting = ["echo no such version; exit 127", "printf 3.12; exit 1", "printf '3.14 runs'"]
    names = ["python3.13", "python3.12", "python3.11", "python3"]
    for name, script in zip(names[: names.index(found)], wanting, strict=False):
        put(commands / name, script)
    for name in names[names.index(found) :]:
        put(commands / name, RUNNING)
    process = make("--dry-run", ".venv/bin/python")
    assert process.returncode == 0, process.stderr
    assert f'"{found}" -m venv .venv' in process.stdout


def test_python_by_name_goes_before_the_newest(make: Make, commands: Path) -> None:
    put(commands / "python3.13", RUNNING)
    named = put(commands / "mine", RUNNING)
    assert f'"{named}" -m venv .venv' in make("--dry-run", ".venv/bin/python", f"PYTHON={named}").stdout


def refusal(process: subprocess.CompletedProcess[str]) -> str:
    """The one line beside make's own."""
    assert process.returncode == 2
    (line,) = [line for line in process.stderr.splitlines() if not line.startswith("make: ")]
    return line


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("printf '3.10 runs'", "is Python 3.10"),
        ("printf 2.7; exit 1", "is Python 2.7"),
        ("printf '3.14 runs'", "is Python 3.14"),
        ("printf 3.12; exit 1", "lacks venv, ensurepip or ssl (Debian: apt-get install python3.12-venv)"),
        ("echo 'no such version' >&2; exit 127", "does not run as a Python"),
        ("exit 0", "does not run as a Python"),
        ('echo "$@"', "does not run as a Python"),
    ],
)
def test_a_python_that_will_not_do_is_refused(make: Make, commands: Path, tmp_path: Path, script, said) -> None:
    named = put(commands / "mine", script)
    line = refusal(make("install", f"PYTHON={named}"))
    assert line.startswith(f"{named} {said}: name a Python 3.11, 3.12 or 3.13 by PYTHON=...")
    assert not (tmp_path / ".venv").exists()


def test_no_python_at_all(make: Make, tmp_path: Path) -> None:
    assert refusal(make("install")).startswith("no Python 3.11, 3.12 or 3.13 on the PATH runs and has venv")
    assert refusal(make("install", "PYTHON=/no/such/python")).startswith("/no/such/python does not run as a Python: ")
    assert refusal(make("install", f"PYTHON={tmp_path}")).startswith(f"{tmp_path} does not run as a Python: ")


def test_an_environment_is_kept_unless_another_python_is_asked_for(make: Make, commands: Path, tmp_path: Path) -> None:
    """What somebody installed into it is not thrown away unasked."""
    put(commands / "python3.13", "printf '3.13 runs'")
    put(tmp_path / ".venv" / "bin" / "python", RUNNING)
    for same in ((), (f"PYTHON={sys.executable}",)):
        process = make(".venv/bin/python", *same)
        assert process.returncode == 0, process.stderr
    line = refusal(make("install", "PYTHON=python3.13"))
    assert line == ".venv does not run, or was made by another Python than python3.13: remove it (rm -r .venv)"
    put(tmp_path / ".venv" / "bin" / "python", "exit 127")
    assert refusal(make("install")) == line

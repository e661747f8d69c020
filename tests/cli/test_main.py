"""The command line before any configuration: help, commands, flags, exit codes."""

import subprocess
import sys

import pytest

from mrt5_jax.cli import main as cli
from mrt5_jax.errors import PREEMPTED_EXIT_CODE, Preempted, UserError


def test_help_shows_every_command_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in text
        assert command.help in text
        assert command.example in text
        assert command.example.startswith(f"mrt5 {name}")


def test_without_a_command_the_help_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: mrt5 COMMAND")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_a_command_has_its_flags_and_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: mrt5 {name}")
    assert cli.COMMANDS[name].example in text


def test_help_imports_neither_jax_nor_tensorflow() -> None:
    """It answers at once; each command's own help too, train's for all."""
    script = (
        "import sys; from mrt5_jax.cli.main import main; main(['--help']); main(['train', '--help']); "
        "print([name for name in ('jax', 'flax', 'tensorflow', 'seqio', 'torch') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "[]"


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "mrt5_jax", "--version"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout == "mrt5 0.1.0\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], ["trian", "did you mean train?"]),
        (["zebra"], ["no command zebra", "--help"]),
        (["train", "--gin_fil=runs/quickstart.gin"], ["--gin_fil", "did you mean --gin_file?"]),
        (["train", "--gin_file"], ["--gin_file", "expected one argument"]),
        (["train", "stray"], ["takes no stray"]),
        (["train"], ["--gin_file is missing"]),
        (["convert", "--gin.SEED=1", "hf-import", "a", "b"], ["convert takes no gin flags", "--gin.SEED=1"]),
    ],
)
def test_a_mistake_in_the_flags_is_one_line(refused, argv: list[str], words: list[str]) -> None:
    message = refused(*argv)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (UserError("no such thing"), 2, "mrt5: no such thing\n"),
        (Preempted("saved at step 3"), PREEMPTED_EXIT_CODE, "mrt5: saved at step 3\n"),
        (KeyboardInterrupt(), 130, "mrt5: interrupted\n"),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
    message: str,
) -> None:
    def run(argv: list[str]) -> int:
        raise raised

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main([]) == code
    assert capsys.readouterr().err == message


def test_a_bug_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str]) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "_run", run)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main([])

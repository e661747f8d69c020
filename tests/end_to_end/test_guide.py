"""What docs/adding.md shows of a rule of one's own does what it says, as files and commands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .test_documented_commands import SMALLER

SHOWN = "Wh·ch ·f th·s· byt·s st·y?"


@pytest.mark.slow
def test_a_rule_of_ones_own_is_tried_trained_evaluated_and_inspected(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command in a process of its own, as on a terminal."""
    guide = (repository / "docs/adding.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:python)?\n(.*?)^```", guide, re.M | re.S)[:3]
    assert f"prints `{SHOWN}`" in guide
    monkeypatch.chdir(tmp_path)
    Path("no_vowels.py").write_text(blocks[0], encoding="utf-8")
    Path("no_vowels.gin").write_text(blocks[1], encoding="utf-8")
    Path("corpus").mkdir()
    Path("corpus/en.txt").write_text("Bytes are read one by one; most say little that others do not.\n" * 60)

    def output(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert output("no_vowels.py") == f"{SHOWN}\n"
    train, evaluate, inspect = (line.replace('"', "").split() for line in blocks[2].splitlines())
    output("-m", "mrt5_jax", *train[1:], *SMALLER["train"])
    output("-m", "mrt5_jax", *evaluate[1:], *SMALLER["eval"])
    name = inspect.index("--text=Which")
    text, marks = output("-m", "mrt5_jax", *inspect[1:name], " ".join(inspect[name:])).splitlines()[:2]
    assert text.startswith("Which of these bytes stay?")
    deleted = {place for place, mark in enumerate(SHOWN) if mark == "·"}
    assert {place for place, mark in enumerate(marks) if mark == "x"} == deleted

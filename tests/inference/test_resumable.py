"""A file goes on after its last whole line, and nobody else's file is touched."""

from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.errors import UserError
from mrt5_jax.inference.resumable import resume_lines

SETTINGS = {"mode": "score", "step": 3}


def write(path: Path, lines: list[str], settings: dict[str, Any] = SETTINGS) -> int:
    """Appends lines; how many there were before."""
    with resume_lines(path, settings) as output:
        there = output.num_lines
        output.append(lines)
    return there


def test_lines_are_appended_after_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    assert write(path, ["a", "b"]) == 0
    assert write(path, ["c"]) == 2
    assert path.read_text() == "a\nb\nc\n"


@pytest.mark.parametrize(("half", "whole"), [("a\nb\nhal", 2), ("hal", 0), ("a\n", 1)])
def test_half_a_line_is_cut_off(tmp_path: Path, half: str, whole: int) -> None:
    path = tmp_path / "out.jsonl"
    write(path, [])
    path.write_text(half)
    assert write(path, ["x"]) == whole
    assert path.read_text() == half[: half.rfind("\n") + 1] + "x\n"


def test_lines_longer_than_a_block_are_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    long = "y" * (1 << 20)
    write(path, [long, "b", long])
    with path.open("a") as file:
        file.write(long)
    assert write(path, []) == 3
    assert path.read_text() == f"{long}\nb\n{long}\n"


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, ["a"])
    with pytest.raises(UserError, match=r"step 3 -> 4\): give another --output"):
        write(path, ["b"], {**SETTINGS, "step": 4})
    assert path.read_text() == "a\n"


def test_settings_of_a_run_that_wrote_nothing_bind_nobody(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, [])
    write(path, ["a"], {**SETTINGS, "step": 4})
    with pytest.raises(UserError, match="step 4 -> 3"):
        write(path, ["b"])


@pytest.mark.parametrize("foreign", ["out.jsonl", "out.jsonl.settings.json"])
def test_files_of_others_are_never_touched(tmp_path: Path, foreign: str) -> None:
    (tmp_path / foreign).write_text('{"precious": 1}')
    with pytest.raises(UserError, match="was not made by mrt5 infer"):
        write(tmp_path / "out.jsonl", [])
    assert [file.name for file in tmp_path.iterdir()] == [foreign]
    assert (tmp_path / foreign).read_text() == '{"precious": 1}'


def test_two_processes_cannot_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with resume_lines(path, SETTINGS), pytest.raises(UserError, match="another process"):
        write(path, [])


def test_a_folder_that_is_not_there_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        write(tmp_path / "nowhere" / "out.jsonl", [])

"""`mrt5 infer` by several processes: one file in the end, the one that a single process writes."""

import json
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.cli.main import main

from .infer_lines import TEXTS, read_lines, write_lines
from .two_processes import run_two

SHARDS = ("out.jsonl-00000-of-00002", "out.jsonl-00001-of-00002")
SAMPLING = ["--search=sampling", "--seed=5"]


def assert_same_answers(found: Path, expected: Path) -> None:
    """In order; ids are equal, scores to 1e-4."""
    pairs = list(zip(read_lines(found), read_lines(expected), strict=True))
    assert [line["id"] for line, _ in pairs] == list(range(len(TEXTS)))
    for line, other in pairs:
        assert line | {"score": 0} == other | {"score": 0}
        assert line["score"] == pytest.approx(other["score"], rel=0, abs=1e-4)


@pytest.mark.parametrize("flags", [SAMPLING, ["--mode=score"]])
def test_two_shards_make_the_file_of_one_process(
    flags: list[str], command: list[str], tmp_path: Path, capsys: Any
) -> None:
    """Whichever comes first; samples follow from the line's number in the whole file."""
    command = [*command, *flags]
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert main([*command, f"--output={whole}"]) == 0
    capsys.readouterr()
    assert main([*command, "--shard=1/2"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"done: --shard=1/2; {output} is made when --shard=0/2 is done too"
    assert not output.exists()
    assert [line["id"] for line in read_lines(tmp_path / SHARDS[1])] == [1, 3, 5, 7, 9]
    assert main([*command, "--shard=0/2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"done: {len(TEXTS)} lines in {output}"
    assert_same_answers(output, whole)
    settings = [json.loads((tmp_path / f"{name}.settings.json").read_text()) for name in ("out.jsonl", "whole.jsonl")]
    assert settings[0] == settings[1]
    assert main([*command, f"--output={output}"]) == 0, "one process goes on with what several have written"


def test_what_is_half_written_is_gone_on_with(command: list[str], tmp_path: Path) -> None:
    """A shard, with a line before it that is not whole, and OUTPUT itself."""
    command, output = [*command, *SAMPLING], tmp_path / "out.jsonl"
    assert main([*command, "--shard=0/2"]) == main([*command, "--shard=1/2"]) == 0
    files = [tmp_path / name for name in SHARDS]
    whole, shards = output.read_bytes(), [file.read_bytes() for file in files]
    output.write_bytes(whole[: len(whole) // 2])
    files[0].write_bytes(shards[0][:-7])
    assert main([*command, "--shard=1/2"]) == 0
    assert output.read_bytes() == whole[: len(whole) // 2], "there is nothing to put together while a shard is missing"
    assert main([*command, "--shard=0/2"]) == 0
    assert [file.read_bytes() for file in files] == shards
    assert output.read_bytes() == whole
    assert main([*command, "--shard=1/2"]) == 0, "a finished run has nothing left to do"
    assert output.read_bytes() == whole


def test_more_shards_than_lines_are_no_harm(command: list[str], tmp_path: Path) -> None:
    write_lines(tmp_path / "in.jsonl", [{"inputs": "ab", "id": 0}])
    assert main([*command, "--shard=1/3"]) == 0
    assert not (tmp_path / "out.jsonl").exists()
    assert main([*command, "--shard=0/3"]) == 0
    assert [line["id"] for line in read_lines(tmp_path / "out.jsonl")] == [0]


def test_answers_that_do_not_fit_are_not_put_together(command: list[str], tmp_path: Path, capsys: Any) -> None:
    output = tmp_path / "out.jsonl"
    assert main([*command, "--shard=0/2", "--search=sampling", "--seed=1"]) == 0
    capsys.readouterr()
    assert main([*command, "--shard=1/2", "--search=sampling", "--seed=2"]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / SHARDS[0]} was begun under other settings (seed 1 -> 2): give another --output" in said
    assert not output.exists()


def test_an_output_of_other_settings_is_refused_before_anything_is_computed(
    command: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert main([*command, "--mode=score"]) == 0
    before = (tmp_path / "out.jsonl").read_bytes()
    capsys.readouterr()
    assert main([*command, "--shard=0/2"]) == 2
    assert "was begun under other settings (mode 'score' -> 'predict')" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert not (tmp_path / SHARDS[0]).exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        *(
            ([f"--shard={text}"], f"--shard={text}: should be I/N, as in 0/4")
            for text in ("2/2", "0/0", "-1/2", "1", "a/b")
        ),
        (["--shard=0/2", "--cluster"], "--shard=0/2 names this process's share, which --cluster and"),
        (["--shard=0/2", "--num_processes=2"], "--shard=0/2 names this process's share, which --cluster and"),
        (["--num_processes=2"], "--coordinator_address, --process_id missing"),
    ],
)
def test_processes_that_cannot_be_are_refused(
    flags: list[str], message: str, command: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert main([*command, *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.glob("out.jsonl*"))


@pytest.mark.slow
def test_two_processes_that_know_each_other_make_it_too(command: list[str], tmp_path: Path) -> None:
    """With four devices each, over which they spread their lines."""
    command, whole = [*command, "--deletion=hard"], tmp_path / "whole.jsonl"
    assert main([*command, f"--output={whole}"]) == 0
    run_two(command)
    assert_same_answers(tmp_path / "out.jsonl", whole)

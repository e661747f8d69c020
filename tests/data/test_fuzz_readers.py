"""Broken files of every format are read or refused in one line; `python -m tests.data.fuzz_readers` makes thousands."""

import subprocess
import sys
from pathlib import Path

import pytest

from .fuzz_readers import make_case, read_case, scratch_folder, whole_files

FILES = whole_files()


@pytest.mark.parametrize("tens", range(5))
def test_broken_files_are_read_or_refused_in_a_line(tens: int) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        with scratch_folder() as folder:
            read_case(make_case(seed, FILES), folder)


def test_whole_files_are_read(tmp_path: Path) -> None:
    for name, content in FILES.items():
        with scratch_folder() as folder:
            case = make_case(0, FILES)._replace(name=name, content=content, kind=name)
            refused = read_case(case, folder).refusals
        assert "_read_text" not in refused
        assert ("_read_rows" in refused) == (name != "en.tsv")
        assert ("_read_requests" in refused) == ("jsonl" not in name)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_real_commands_end_well_or_with_one_line(seed: int, tmp_path: Path) -> None:
    case = make_case(seed, FILES)
    (tmp_path / case.name).write_bytes(case.content)
    command = [sys.executable, "-m", "mrt5_jax", "data", "unpack", str(tmp_path / case.name)]
    done = subprocess.run(command, capture_output=True, text=True, env={"MRT5_CACHE_DIR": str(tmp_path / "cache")})
    assert done.returncode in (0, 2), done.stderr
    if done.returncode == 2:
        assert [line for line in done.stderr.splitlines() if line.startswith("mrt5: ")] == [
            done.stderr.splitlines()[-1]
        ]
    assert "Traceback" not in done.stderr

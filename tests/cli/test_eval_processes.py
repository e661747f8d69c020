"""`mrt5 eval` by several processes: every example once, the records of one process, written by the first."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mrt5_jax.cli.main import main
from mrt5_jax.evaluation.records import Record, read_records

from .small_run import NUM_TEST, make_model_dir


def records_of(model_dir: Path) -> list[Record]:
    (folder,) = (model_dir / "eval").iterdir()
    return read_records(folder / "records.jsonl")


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    """With two devices each, on which a batch of four rows lies; the last batch is filled up."""
    alone = make_model_dir(tmp_path / "alone" / "model")
    together = tmp_path / "together" / "model"
    shutil.copytree(alone, together)
    flags = ["--deletion", "soft", "hard", "random"]
    assert main(["eval", f"--model_dir={alone}", *flags]) == 0
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{any_port.getsockname()[1]}"
    place = [f"--coordinator_address={address}", "--num_processes=2"]
    running = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "mrt5_jax", "eval", f"--model_dir={together}", *flags),
                *(*place, f"--process_id={number}"),
            ],
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert "written: " in said[0]
    assert "written: " not in said[1]
    found, expected = records_of(together), records_of(alone)
    assert len(found) == 3 * NUM_TEST
    by_example = {(record.deletion, record.index): record for record in expected}
    for record in found:
        other = by_example[record.deletion, record.index]
        assert record._replace(nll=0.0, rung=0) == other._replace(nll=0.0, rung=0)
        assert record.nll == pytest.approx(other.nll, rel=1e-5)


@pytest.mark.parametrize("flag", ["--generate", "--labels", "--follow", "--keep_best=loss", "--target_rate=0.5"])
def test_what_one_process_does_is_refused_of_several(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", f"--model_dir={tmp_path}", "--num_processes=2", flag]) == 2
    error = capsys.readouterr().err
    assert f"{flag.partition('=')[0]}: is done by one process" in error
    assert error.count("\n") == 1

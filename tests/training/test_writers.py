"""What a run writes, and what a resumed run makes of what is there."""

import io
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mrt5_jax.errors import UserError
from mrt5_jax.training.event_files import TensorBoardWriter
from mrt5_jax.training.progress import ProgressDisplay
from mrt5_jax.training.writers import JsonLinesWriter, Writers, cut_beyond


def write_steps(model_dir, start: int | None, steps) -> None:
    with Writers([JsonLinesWriter(model_dir, start)]) as writers:
        for step in steps:
            writers.write(step, {"loss": jnp.float32(1 / (step + 3)), "deletion_rate": 0.1 * step}, {"seconds": 0.5})


@given(stopped=st.integers(0, 12), restored=st.integers(0, 12), torn=st.integers(0, 40))
def test_a_resumed_run_writes_the_same_bytes(tmp_path_factory, stopped, restored, torn):
    """Stopped anywhere, even within a line, and resumed from any checkpoint before."""
    whole, resumed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("resumed")
    write_steps(whole, None, range(13))
    write_steps(resumed, None, range(stopped + 1))
    for name in ("metrics.jsonl", "timing.jsonl"):
        path = resumed / name
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines) + (whole / name).read_bytes().splitlines()[-1][:torn])
    restored = min(restored, stopped)
    write_steps(resumed, restored, range(restored + 1, 13))
    assert (resumed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_run_without_a_checkpoint_begins_its_files_anew(tmp_path):
    write_steps(tmp_path, None, range(3))
    write_steps(tmp_path, None, range(2))
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [0, 1]


def test_numbers_survive_and_computed_and_clocked_are_apart(tmp_path):
    third = np.float32(1 / 3)
    with Writers([JsonLinesWriter(tmp_path, None)]) as writers:
        writers.write(
            5, {"z": jnp.asarray(third), "a": 0.1, "count": 3, "bad": math.nan, "big": -math.inf}, {"ms": 1.5}
        )
        writers.write(6, {"a": 1.0}, {})
        writers.flush()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert list(json.loads(lines[0])) == ["a", "bad", "big", "count", "step", "z"]
    values = json.loads(lines[0], parse_constant=pytest.fail)
    assert np.float32(values["z"]) == third
    assert (values["a"], values["count"], values["step"]) == (0.1, 3, 5)
    assert math.isnan(float(values["bad"]))
    assert float(values["big"]) == -math.inf
    assert (tmp_path / "timing.jsonl").read_text() == '{"ms": 1.5, "step": 5}\n'


def test_a_run_that_goes_on_says_what_it_makes_again(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n{"step": 4}\n{"step": 7}\n{"step": 8')
    JsonLinesWriter(tmp_path, 3).close()
    assert "metrics.jsonl went to step 7: what was made after step 3, the last checkpoint" in capsys.readouterr().err
    JsonLinesWriter(tmp_path, 3).close()
    assert not capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 3}\n'


def test_a_line_of_another_making_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnotes of mine\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2"):
        cut_beyond(path, 5)
    assert "notes of mine" in path.read_text()


def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    with Writers([TensorBoardWriter(tmp_path)]) as writers:
        writers.write(3, {"loss": jnp.float32(0.5), "gap": math.nan}, {"seconds": 2.0})
        writers.flush()
    events = EventAccumulator(str(tmp_path / "events"), size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()["tensors"]
    assert {"loss", "timing/seconds"} <= set(tags)
    (event,) = events.Tensors("loss")
    assert (event.step, make_ndarray(event.tensor_proto)) == (3, 0.5)
    assert events.SummaryMetadata("loss").plugin_data.plugin_name == "scalars"
    assert math.isnan(make_ndarray(events.Tensors("gap")[0].tensor_proto))


def progress(terminal: bool) -> str:
    text = io.StringIO()
    ticks = iter([100.0, 110.0, 120.0])
    console = Console(file=text, force_terminal=terminal, width=120)
    display = ProgressDisplay(3600, console=console, clock=lambda: next(ticks))
    for step in (10, 20):
        numbers = {"loss": 1.25, "deletion_rate": 0.5, "alpha": 0.01}
        display.write(step, numbers, {"tokens_per_second": 12345.6})
    name = f"eval/copy:{'0' * 12}"  # whose key is no name for people
    display.write(20, {f"{name}/hard/loss": 3.0, f"{name}/hard/deletion_rate": 0.5, f"{name}/soft/loss": 2.5}, {})
    display.close()
    return text.getvalue()


def test_progress_is_a_plain_line_a_report_where_there_is_no_terminal():
    first, second, evaluation = progress(terminal=False).splitlines()
    assert first == "step 10/3600  loss 1.2500  deleted 50.0%  alpha 0.01  12,346 tokens/s"
    assert second == "step 20/3600  loss 1.2500  deleted 50.0%  alpha 0.01  12,346 tokens/s  0:59:40 left"
    assert evaluation == "step 20/3600  evaluation loss: copy/hard 3.0000, copy/soft 2.5000"


def test_progress_is_live_on_a_terminal():
    text = progress(terminal=True)
    assert "20/3600" in text
    assert "0:59:40 left" in text
    assert "copy/hard 3.0000" in text
    assert "\x1b[" in text

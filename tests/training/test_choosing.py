"""What is chosen while a run goes on, what is said of it, and what a MODEL_DIR keeps; no run is made here."""

import contextlib
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import CompactionConfig, ExecutionConfig, GateConfig, MonitorConfig, RunConfig, TrainingConfig
from mrt5_jax.objectives.kept_lengths import KeptLengths
from mrt5_jax.parallel.mesh import make_mesh
from mrt5_jax.runs.run_files import claim, read_run, with_saved_choices
from mrt5_jax.training import platform_costs
from mrt5_jax.training.choosing import Choices
from mrt5_jax.training.hooks import Moment, Monitor
from mrt5_jax.training.monitor import Checked
from mrt5_jax.training.saving_hint import SavingHint
from mrt5_jax.training.state import TrainState, initial_monitor
from mrt5_jax.training.writers import Writers

from .auto_runs import FREE, INTERVAL, LENGTH, ROWS, STEPS, auto_run, choices_of, kept, seen


@pytest.fixture(autouse=True)
def _nothing_but_products_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(platform_costs.TIMED, "cpu", FREE)


def test_the_monitor_is_not_asked_before_saturated_deletion_saves_anything() -> None:
    def check(state: TrainState, batch: Any) -> Checked:
        raise AssertionError("it takes two forward passes")

    state = TrainState(jnp.int32(0), {}, (), (), initial_monitor())
    monitor = Monitor(MonitorConfig(), check, state, wanted=lambda: False)
    assert monitor.before(1, state, {}) is state
    with pytest.raises(AssertionError, match="two forward passes"):
        Monitor(MonitorConfig(), check, state, wanted=lambda: True).before(1, state, {})


def test_choices_follow_what_rows_keep_and_each_change_is_one_line(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alike and short: one chunk; very different: several; everything kept: soft again. Nothing in between steps."""
    monkeypatch.setitem(platform_costs.TIMED, "cpu", FREE._replace(branch=0.1))
    choices, state = choices_of(auto_run(tmp_path, "task"))
    expected = [
        (kept(1.0), (False, 1), ""),
        (kept(0.25), (True, 1), "step 4: saturated steps run in one chunk from here on"),
        (kept(0.25, 0.5, 0.75, 1.0), (True, 8), "step 7: saturated steps run in 8 chunks from here on"),
        (kept(0.25, 0.5, 0.75, 1.0), (True, 8), ""),
        (kept(1.0), (False, 8), "step 13: steps delete by soft again"),
        (kept(0.25), (True, 1), "step 16: saturated steps run in one chunk from here on"),
    ]
    for number, (counts, (removes, num_chunks), line) in enumerate(expected):
        state = seen(state, counts)
        for step in range(INTERVAL * number + 1, INTERVAL * (number + 1) + 1):
            state = choices.before(step, state, {})
        assert choices.removes(LENGTH) == removes
        if removes:
            assert choices.num_chunks("saturated", LENGTH) == num_chunks
        assert choices.num_chunks("soft", LENGTH) == 1
        said = capfd.readouterr().err
        assert said.startswith(line)
        assert said.count("\n") == bool(line)
    assert state.kept is not None
    assert state.kept["saturated"].num_chunks.tolist() == [1]


def test_a_line_says_what_is_kept_expected_and_saved(tmp_path: Path, capfd: Any) -> None:
    choices, state = choices_of(auto_run(tmp_path, "task"), kept(0.25, 0.5, 0.75, 1.0))
    choices.before(1, state, {})
    line = capfd.readouterr().err
    assert "it keeps 8 to 32 of 32 positions in 8 of 10 rows" in line
    slots, saved, exact = map(float, re.findall(r"([\d.]+) slots.* saves (\d+)%.*would save (\d+)%", line)[0])
    assert 20 <= slots < 22, "rows keep 20 on average"
    assert 0 < saved <= exact


def test_a_run_goes_on_with_as_many_chunks_as_its_rows_allow(tmp_path: Path) -> None:
    """Eight were chosen; of six rows there can be six chunks."""
    run = auto_run(tmp_path, "task")
    _, state = choices_of(run)
    chosen = {name: of._replace(num_chunks=jnp.asarray([8], jnp.int32)) for name, of in (state.kept or {}).items()}
    six = dataclasses.replace(run, data=dataclasses.replace(run.data, batch_size=6))
    for how, expected in ((run, 8), (six, 6)):
        ladders = {LENGTH: Ladder((16, LENGTH))}
        choices = Choices(how, make_mesh(how.execution.mesh), ladders, state._replace(kept=chosen))
        assert choices.num_chunks("saturated", LENGTH) == expected
        assert expected in choices.possible_chunks("saturated", LENGTH)
        assert choices.possible_chunks("soft", LENGTH) == (1,)


def test_a_gate_that_cannot_saturate_stays_soft_with_one_line(tmp_path: Path, capfd: Any) -> None:
    run = auto_run(tmp_path, "task")
    weak = dataclasses.replace(run, model=dataclasses.replace(run.model, gate=GateConfig(layer=1, scale=-10.0)))
    choices, state = choices_of(weak, kept(0.25))
    assert "steps delete softly throughout, since gate values never fall below" in capfd.readouterr().err
    choices.before(1, state, {})
    assert choices.possible_chunks("soft", LENGTH) == (1,)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("capacity", [None, 0.5])
def test_hard_deletion_chooses_chunks_too_but_has_one_rung_under_a_capacity(
    capacity: float | None, tmp_path: Path
) -> None:
    run = dataclasses.replace(
        auto_run(tmp_path, "task"),
        training=TrainingConfig(STEPS, "hard"),
        compaction=CompactionConfig(capacity=capacity),
    )
    _, state = choices_of(run)
    counts = jnp.asarray([kept(0.25, 0.5, 0.75, 1.0)])
    state = state._replace(kept={"hard": KeptLengths(counts, jnp.zeros(1, jnp.int32))})
    ladders = {LENGTH: Ladder((8, 16, LENGTH) if capacity is None else (16,), LENGTH)}
    choices = Choices(run, make_mesh(run.execution.mesh), ladders, state)
    choices.before(1, state, {})
    assert choices.num_chunks("hard", LENGTH) == (8 if capacity is None else 1)


def test_a_run_that_named_its_choices_keeps_them(tmp_path: Path, capfd: Any) -> None:
    """Its recipe says "auto" by now; what a user names, a number of chunks, still counts."""
    auto = auto_run(tmp_path, "task")
    assert with_saved_choices(auto) == auto, "a new run"
    old = dataclasses.replace(
        auto, training=TrainingConfig(STEPS, "soft", eval_every=STEPS, eval_batches=1), execution=ExecutionConfig()
    )
    claim(old, "")
    kept_run = with_saved_choices(auto)
    assert (kept_run.training.deletion, kept_run.execution.chunks) == ("soft", 1)
    said = capfd.readouterr().err
    assert "begun with config.TrainingConfig.deletion = 'soft' and config.ExecutionConfig.chunks = 1" in said
    assert said.count("\n") == 1
    four = dataclasses.replace(auto, execution=ExecutionConfig(chunks=4))
    assert with_saved_choices(four).execution.chunks == 4
    values = json.loads((tmp_path / "run_config.json").read_text())
    del values["training"]["deletion"], values["execution"]["chunks"]
    (tmp_path / "run_config.json").write_text(json.dumps(values))
    kept_run = with_saved_choices(auto)
    assert (kept_run.training.deletion, kept_run.execution.chunks) == ("soft", 1), "what a file without them meant"


def hinted(run: RunConfig, choices: Choices, *, allowed: bool = True, slots: float = 31.0) -> Iterator[str]:
    """What is said of 12 steps that delete half of their inputs."""
    hint = SavingHint(run, choices, lambda: allowed)
    metrics = {"deletion_rate": jnp.float32(0.5), "rung": jnp.float32(slots)}
    batch = {"encoder_input_tokens": jnp.zeros((ROWS, LENGTH), jnp.int32)}
    for step in range(1, 13):
        moment = Moment(step, False, False, choices_of(run)[1], metrics, batch, {}, Writers(()))
        if hint.due(moment):
            with contextlib.redirect_stderr(io.StringIO()) as said:
                hint(moment)
            if said.getvalue():
                yield said.getvalue()


def test_a_run_that_deletes_more_than_it_saves_says_once_what_would_help(tmp_path: Path) -> None:
    auto = auto_run(tmp_path, "task")
    soft = dataclasses.replace(auto, training=TrainingConfig(STEPS, "soft"), monitor=MonitorConfig())
    saturated = dataclasses.replace(auto, training=TrainingConfig(STEPS, "saturated"))
    one_chunk = dataclasses.replace(saturated, execution=dataclasses.replace(auto.execution, chunks=1))
    for run, allowed, remedy in (
        (soft, True, "config.TrainingConfig.deletion = 'auto'"),
        (auto, False, "config.LossConfig.score_penalty"),
        (auto, True, "saturated deletion does not pay yet"),
        (one_chunk, True, "config.ExecutionConfig.chunks = 'auto'"),
        (saturated, True, "more rows in a batch"),
    ):
        run = dataclasses.replace(run, monitor=MonitorConfig(interval=INTERVAL))
        (line,) = hinted(run, choices_of(run)[0], allowed=allowed)
        assert line.startswith("step 3: 50% of the inputs are deleted, and slots save 3%: ")
        assert remedy in line
        assert line.count("\n") == 1
    assert not list(hinted(auto, choices_of(auto)[0], slots=18)), "half is deleted, and 44 % of the slots saved"


def test_what_is_auto_is_read_back(tmp_path: Path) -> None:
    run = auto_run(tmp_path, "task")
    claim(run, "")
    saved = read_run(tmp_path)
    assert saved is not None
    assert (saved.training, saved.execution) == (run.training, run.execution)

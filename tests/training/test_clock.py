"""What is clocked between reports adds up, and traces and batches land where they should."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import DataConfig, GateConfig, MeshConfig, ModelConfig, RunConfig, TrainingConfig
from mrt5_jax.model.multiply_adds import training_multiply_adds
from mrt5_jax.parallel.mesh import make_mesh
from mrt5_jax.parallel.peaks import PEAKS, peak_multiply_adds
from mrt5_jax.training import clock as clock_module
from mrt5_jax.training.clock import Clock, count_bytes
from mrt5_jax.training.hooks import Moment
from mrt5_jax.training.profiling import PROFILE, StepTrace
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.writers import Writers

RUN = RunConfig(
    "unused",
    ModelConfig(8, 2, 4, 8, 2, 1, gate=GateConfig(layer=1)),
    DataConfig("copy", ("copy",), 16, 8, 4, 4),
    TrainingConfig(num_steps=4),
)


@dataclasses.dataclass
class Time:
    """A clock that is moved by hand."""

    now: float = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(clock_module, "time", time)
    monkeypatch.setattr(clock_module, "peak_multiply_adds", lambda _: 1e6)
    return time


def test_a_lap_is_what_its_steps_took_together(time: Time) -> None:
    """Two steps in 8 seconds, of which 2 were an evaluation; the second ran at half the length."""
    clock = Clock(RUN, make_mesh(MeshConfig()), shares=3)
    clock.step({"rung": jnp.asarray(16.0)}, num_bytes=20, input_length=16)
    clock.step({"rung": jnp.asarray(8.0)}, num_bytes=10, input_length=16)
    clock.waited(0.5)
    clock.waited(0.25)
    with clock.storing():
        time.now += 3
    time.now += 5
    clock.pause(2.0)
    lap = clock.lap()
    assert lap["seconds_per_step"] == 3
    assert lap["tokens_per_second"] == 2 * 4 * (16 + 8) / 6
    assert lap["bytes_per_second"] == 3 * (20 + 10) / 6
    assert lap["data_seconds_per_step"] == 0.75 / 2
    assert lap["storage_seconds_per_step"] == 3 / 2
    worth = sum(training_multiply_adds(RUN.model, RUN.data, rung) for rung in (16, 8))
    assert lap["matmul_share"] == pytest.approx(worth / 6 / 1e6)
    clock.step({}, num_bytes=0, input_length=16)
    time.now += 1
    lap = clock.lap()
    assert (lap["seconds_per_step"], lap["storage_seconds_per_step"]) == (1, 0), "a new lap begins"


def test_compilations_are_counted_while_the_clock_is_open(time: Time) -> None:
    with Clock(RUN, make_mesh(MeshConfig()), shares=1) as clock:
        for _ in range(2):
            jax.jit(lambda x: x * 3 + 1)(jnp.ones(5)).block_until_ready()
        clock.step({}, 0, 16)
        time.now += 1
        lap = clock.lap()
    assert lap["compilations"] >= 2
    assert lap["compile_seconds"] > 0
    jax.jit(lambda x: x * 5 + 1)(jnp.ones(5)).block_until_ready()
    clock.step({}, 0, 16)
    time.now += 1
    assert clock.lap()["compilations"] == 0


def test_bytes_are_ids_that_stand_for_bytes() -> None:
    batch = {
        "encoder_input_tokens": np.array([[3, 258, 1, 0]], np.int32),
        "decoder_target_tokens": np.array([[100, 1, 0]], np.int32),
        "decoder_input_tokens": np.array([[0, 100, 1]], np.int32),
    }
    assert count_bytes(batch) == 3


def test_peaks_are_known_by_kind_and_measured_on_a_cpu() -> None:
    device = mock.create_autospec(jax.Device, platform="tpu", device_kind="TPU v5 lite", instance=True)
    assert peak_multiply_adds(device) == PEAKS["TPU v5 lite"], "not that of TPU v5"
    device.device_kind = "something new"
    assert peak_multiply_adds(device) is None
    assert peak_multiply_adds(jax.devices()[0]) > 1e8


def trace_steps(trace: StepTrace, steps: range) -> Iterator[int]:
    """Makes steps as the loop does, each of which computes something; yields their numbers."""
    state = TrainState(jnp.zeros((), jnp.int32), {}, (), ())
    for step in steps:
        assert trace.before(step, state, {}) is state
        metrics = {"loss": jnp.sum(jnp.sin(jnp.ones(8)))}
        moment = Moment(step, False, False, state, metrics, {}, {}, Writers(()))
        if trace.due(moment):
            trace(moment)
        yield step


def test_chosen_steps_are_traced(tmp_path: Path) -> None:
    trace = StepTrace(tmp_path, (2, 3))
    for step in trace_steps(trace, range(1, 5)):
        assert bool(list((tmp_path / PROFILE).rglob("*.xplane.pb"))) == (step >= 3)
    trace.close()


def test_a_trace_that_was_begun_is_ended_with_the_run(tmp_path: Path) -> None:
    trace = StepTrace(tmp_path, (1, 10))
    assert list(trace_steps(trace, range(1, 3))) == [1, 2]
    trace.close()
    assert list((tmp_path / PROFILE).rglob("*.xplane.pb"))
    never = StepTrace(tmp_path / "none", None)
    assert list(trace_steps(never, range(1, 2))) == [1]
    never.close()
    assert not (tmp_path / "none").exists()

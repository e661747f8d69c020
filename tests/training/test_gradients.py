"""Gradients against finite differences of the NumPy oracle's whole objective, dropout and compaction included."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.staged import Part
from mrt5_jax.config import CompactionConfig, LossConfig, ModelConfig, TrainingDeletion
from mrt5_jax.model.dropout import Dropout, draw_dropout
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.training.gradients import Setting, loss_and_gradients, objective_of

from ..model import oracle
from ..model.small import LENGTH, TARGET, by_path, in_double, make_batch, make_config, make_params

LOSS = LossConfig(z_loss=0.01, score_penalty=0.7)
ALPHA = 0.3
STEP = 1e-6
SEEDS = (0, 7)
"""Of batches whose fullest rows keep 3 and 7 of 12 positions: they run at different rungs."""
Batch = dict[str, np.ndarray]


class Case(NamedTuple):
    config: ModelConfig
    deletion: TrainingDeletion
    run: Callable[[Any, Batch, jax.Array], Part]


def make_case(deletion: TrainingDeletion, *, softmax1: bool) -> Case:
    """One compiled program: dropout, z-loss, alpha and beta are all in it."""
    config = in_double(dataclasses.replace(make_config(softmax1=softmax1), dropout_rate=0.25))

    @jax.jit
    def run(params: Any, batch: Batch, row_keys: jax.Array) -> Part:
        objective = objective_of(config.gate, LOSS, jnp.asarray(ALPHA), batch)
        setting = Setting(MrT5(config), LOSS, deletion, CompactionConfig(), Ladder((LENGTH // 2, LENGTH)))
        return loss_and_gradients(setting, params, batch, objective, row_keys)

    return Case(config, deletion, run)


@pytest.fixture(scope="module", params=["soft", "hard"])
def case(request) -> Case:
    return make_case(request.param, softmax1=request.param == "soft")


def keys(seed: int) -> jax.Array:
    return jax.random.split(jax.random.key(seed), 4)


def draws(config: ModelConfig, seed: int) -> Dropout:
    return jax.device_get(draw_dropout(config, keys(seed), LENGTH, TARGET))


def moved(params: Any, path: str, by: np.ndarray) -> Any:
    """`params` with one array moved."""
    name, _, rest = path.partition("/")
    return {**params, name: moved(params[name], rest, by) if rest else params[name] + by}


@pytest.mark.parametrize("seed", SEEDS)
def test_loss_and_gradient_of_every_parameter(case: Case, seed: int) -> None:
    """The loss, and for every array of parameters its gradient along a random direction.

    Under soft deletion the gate learns from the loss too; under hard deletion, at either rung, everything is equal to
    masking at full length with the same draws of dropout.
    """
    params, batch = make_params(case.config, seed), make_batch(seed)
    with jax.enable_x64(True):
        dropout = draws(case.config, seed)
        ours = jax.device_get(case.run(params, batch, keys(seed)))

    def loss(params: Any) -> float:
        return oracle.objective(case.config, params, batch, case.deletion, LOSS, ALPHA, dropout)

    assert ours.total.terms["score_penalty"] > 1e-3, "the score regulariser has something to do"
    assert ours.total.loss == pytest.approx(loss(params), rel=1e-10)
    rng = np.random.default_rng(seed)
    gradients = by_path(ours.total.gradients)
    assert gradients.keys() == by_path(params).keys()
    for path, gradient in gradients.items():
        direction = rng.normal(size=gradient.shape)
        direction *= STEP / np.linalg.norm(direction)
        slope = (loss(moved(params, path, direction)) - loss(moved(params, path, -direction))) / (2 * STEP)
        assert np.vdot(gradient, direction) / STEP == pytest.approx(slope, rel=1e-5, abs=1e-8), path


def test_nothing_compiles_after_the_first_batch(case: Case) -> None:
    """Whatever is kept, at both rungs, with filler and without."""
    with jax.enable_x64(True), compilations() as seen:
        jax.jit(lambda number: number + len(seen))(1)
        assert len(seen) == 1, "the listener hears compilations"
        batches = [(make_params(case.config, seed), make_batch(seed), keys(0)) for seed in SEEDS]
        batches.append((make_params(case.config), make_batch(9, (3, 0, 0, 0)), keys(0)))
        rungs = {int(np.asarray(case.run(*batch).rows.rung)[0]) for batch in batches}
    assert len(seen) == 1
    assert rungs == ({LENGTH} if case.deletion == "soft" else {LENGTH // 2, LENGTH})


@contextmanager
def compilations() -> Iterator[list[str]]:
    """What is compiled meanwhile, by anyone."""
    seen: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_batch_of_filler_has_no_loss_and_no_gradient(case: Case) -> None:
    """Zeros and not NaN: hosts at the end of their data may see nothing else."""
    with jax.enable_x64(True):
        result = jax.device_get(case.run(make_params(case.config), make_batch(0, (0, 0, 0, 0)), keys(0)))
    assert result.total.loss == 0
    for path, gradient in by_path(result.total.gradients).items():
        assert not gradient.any(), path


def test_target_padding_and_filler_rows_do_not_change_the_objective(case: Case) -> None:
    """The score regulariser counts queries with a target only, in rows that have one."""
    params = make_params(case.config)
    batch = make_batch(0, (12, 5, 0, 8))
    with jax.enable_x64(True):
        one = case.run(params, batch, keys(0))
        changed = {name: array.copy() for name, array in batch.items()}
        changed["decoder_input_tokens"] = np.where(
            (batch["decoder_loss_weights"] > 0), batch["decoder_input_tokens"], 7
        ).astype(np.int32)
        other = case.run(params, changed, keys(0))
    assert other.total.loss == pytest.approx(float(one.total.loss), rel=1e-12)

"""Nothing compiles once every input length has been seen, whatever later batches keep."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import ByLength, Ladder
from mrt5_jax.config import DataConfig, OptimizerConfig, RunConfig, TrainingConfig
from mrt5_jax.evaluation.programs import make_evaluator
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.batches import abstract_batch, put_whole_batch
from mrt5_jax.parallel.mesh import make_mesh, replicated
from mrt5_jax.training.host_step import HostTrainStep
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.state import TrainState

from ..compaction.compilations import compilations
from ..model.small import LENGTH, TARGET, make_batch, make_config, make_params

BATCHES, ROWS = 500, 4
LADDERS = {8: Ladder((4, 8)), LENGTH: Ladder((6, 9, LENGTH))}


def random_batches(number: int) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    for seed in range(number):
        length = int(rng.choice(list(LADDERS)))
        batch = make_batch(seed, tuple(rng.integers(0, length + 1, ROWS)))
        yield {**batch, "encoder_input_tokens": batch["encoder_input_tokens"][:, :length]}


@pytest.mark.slow
def test_a_stream_of_training_batches_compiles_nothing_after_warm_up() -> None:
    """A program for every (length, rung), made before the first step; all of them run."""
    data = DataConfig("", (), LENGTH, TARGET, ROWS, ROWS, length_buckets=tuple(LADDERS))
    run = RunConfig("", make_config(), data, TrainingConfig(10, "hard"), optimizer=OptimizerConfig(learning_rate=1e-6))
    model, learning, mesh = MrT5(run.model, run.execution), make_learning(run), make_mesh(run.execution.mesh)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), make_params(run.model, 1))
    state = TrainState(jnp.int32(0), params, learning.optimizer.init(params), learning.controller.init())
    state = jax.device_put(jax.tree.map(jnp.copy, state), replicated(mesh))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    step = ByLength(LADDERS, lambda ladder: HostTrainStep(model, run, learning, ladder, abstract))
    with compilations() as ahead:
        made = [
            program.prepare(abstract_batch(DataConfig("", (), length, TARGET, ROWS, ROWS), mesh))
            for length, program in step.programs.items()
        ]
    assert ahead, "the listener hears"
    assert sum(len(gradients.bodies) for gradients, _ in made) == 5
    rungs = set()
    with compilations() as later:
        for batch in random_batches(BATCHES):
            state, metrics = step(state, put_whole_batch(batch, mesh))
            rungs.add((batch["encoder_input_tokens"].shape[1], round(float(metrics["rung"]))))
    assert later == []
    assert rungs == {(length, rung) for length, ladder in LADDERS.items() for rung in ladder.rungs}
    assert int(state.step) == BATCHES


@pytest.mark.slow
def test_a_stream_of_evaluated_batches_compiles_nothing_after_warm_up() -> None:
    model = MrT5(make_config())
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), make_params(model.config, 1))
    evaluator = ByLength(LADDERS, lambda ladder: make_evaluator(model, ladder, dispatch="host"))

    def evaluate(batch: dict[str, np.ndarray]) -> Any:
        index = {"index": np.arange(ROWS, dtype=np.int32)}
        return jax.device_get(evaluator(params, jax.tree.map(jnp.asarray, batch | index), "hard"))

    for batch in random_batches(20):
        evaluate(batch)
    with compilations() as later:
        for batch in random_batches(BATCHES):
            evaluate(batch)
    assert later == []

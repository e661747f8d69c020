"""Nothing compiles once every input length has been seen, whatever later batches keep."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import ByLength, Ladder
from mrt5_jax.config import DataConfig, Dispatch, ExecutionConfig, OptimizerConfig, RunConfig, TrainingConfig
from mrt5_jax.evaluation.programs import WindowEvaluator
from mrt5_jax.inference.engine import Engine
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.batches import abstract_batch, put_whole_batch
from mrt5_jax.parallel.mesh import make_mesh, replicated
from mrt5_jax.training.host_step import HostTrainStep
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.state_shardings import jit_step
from mrt5_jax.training.step import make_train_step

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


def one_of_each_length() -> Iterator[dict[str, np.ndarray]]:
    seen = set()
    for batch in random_batches(BATCHES):
        length = batch["encoder_input_tokens"].shape[1]
        if length not in seen:
            seen.add(length)
            yield batch


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", get_args(Dispatch))
def test_a_stream_of_training_batches_compiles_nothing_after_warm_up(dispatch: Dispatch) -> None:
    """On the host a program for every (length, rung) is made before the first step; all rungs are run."""
    data = DataConfig("", (), LENGTH, TARGET, ROWS, ROWS, length_buckets=tuple(LADDERS))
    run = RunConfig("", make_config(), data, TrainingConfig(10, "hard"), optimizer=OptimizerConfig(learning_rate=1e-6))
    model, learning, mesh = MrT5(run.model, run.execution), make_learning(run), make_mesh(run.execution.mesh)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), make_params(run.model, 1))
    state = TrainState(jnp.int32(0), params, learning.optimizer.init(params), learning.controller.init())
    state = jax.device_put(jax.tree.map(jnp.copy, state), replicated(mesh))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)

    def step_at(ladder: Ladder) -> Any:
        if dispatch == "host":
            return HostTrainStep(model, run, learning, ladder, abstract)
        return jit_step(make_train_step(model, run, learning, ladder), abstract)

    step = ByLength(LADDERS, step_at)
    with compilations() as ahead:
        if dispatch == "host":
            for length, program in step.programs.items():
                program.prepare(abstract_batch(DataConfig("", (), length, TARGET, ROWS, ROWS), mesh))
        else:
            for batch in one_of_each_length():
                state, _, _ = step(state, put_whole_batch(batch, mesh))
    bodies = {"host": 5, "in_graph": 2}  # one for each length and rung, one for each length
    assert len(ahead) >= bodies[dispatch], "the listener hears"
    rungs, first = set(), int(state.step)
    with compilations() as later:
        for batch in random_batches(BATCHES):
            state, metrics, _ = step(state, put_whole_batch(batch, mesh))
            rungs.add((batch["encoder_input_tokens"].shape[1], round(float(metrics["rung"]))))
    assert later == []
    assert rungs == {(length, rung) for length, ladder in LADDERS.items() for rung in ladder.rungs}
    assert int(state.step) == first + BATCHES


def in_windows(number: int, window: int) -> Iterator[list[dict[str, np.ndarray]]]:
    """The last one is short, as a run's last one mostly is."""
    batches = random_batches(number)
    while taken := list(islice(batches, window)):
        yield taken


@pytest.mark.slow
@pytest.mark.parametrize("window", [1, 7])
@pytest.mark.parametrize("dispatch", get_args(Dispatch))
def test_a_stream_of_evaluated_batches_compiles_nothing_after_warm_up(dispatch: Dispatch, window: int) -> None:
    """A window has batches of both lengths, more or fewer of each."""
    model = MrT5(make_config())
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), make_params(model.config, 1))
    evaluator = WindowEvaluator(model, LADDERS, dispatch=dispatch, window=window)
    rungs: set[tuple[int, int]] = set()

    def evaluate(batches: list[dict[str, np.ndarray]]) -> None:
        index = {"index": np.arange(ROWS, dtype=np.int32)}
        arrays = [jax.tree.map(jnp.asarray, batch | index) for batch in batches]
        for batch, results in zip(batches, jax.device_get(evaluator(params, arrays, "hard")), strict=True):
            rungs.update((batch["encoder_input_tokens"].shape[1], int(rung)) for rung in results.rung)

    for batches in in_windows(20, window):
        evaluate(batches)
    with compilations() as later:
        for batches in in_windows(BATCHES, window):
            evaluate(batches)
    assert later == []
    assert rungs == {(length, rung) for length, ladder in LADDERS.items() for rung in ladder.rungs}


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", get_args(Dispatch))
@pytest.mark.parametrize("window", [1, 7])
@pytest.mark.parametrize("stage", ["scoring", "generation"])
def test_a_stream_of_requests_compiles_nothing_after_warm_up(stage: str, window: int, dispatch: Dispatch) -> None:
    """The host compiles a rung when a batch first needs it, so every length and rung has to come once."""
    config = make_config()
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), make_params(config, 1))
    engine = Engine(config, params, execution=ExecutionConfig(rungs=(4, 6, 9), inference_dispatch=dispatch))

    def answer(batches: list[dict[str, np.ndarray]]) -> Any:
        if stage == "scoring":
            return jax.device_get(engine.score_window(batches, window))
        tokens = [batch["encoder_input_tokens"] for batch in batches]
        return jax.device_get(engine.generate_window(tokens, max_length=3, size=window))

    with compilations() as first:
        for batches in in_windows(BATCHES, window):
            answer(batches)
    assert first, "the listener hears"
    with compilations() as again:
        for batches in in_windows(BATCHES, window):
            answer(batches)
    assert again == []

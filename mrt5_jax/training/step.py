"""One optimizer step, and one evaluation step, as pure functions."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import RunConfig
from mrt5_jax.dropout import RowKeys
from mrt5_jax.network import MrT5
from mrt5_jax.objectives.controller import Controller
from mrt5_jax.objectives.losses import count_denominators
from mrt5_jax.objectives.metrics import deletion_metrics, target_metrics
from mrt5_jax.training.gradients import Objective, loss_and_gradients
from mrt5_jax.training.state import TrainState

Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[[TrainState, dict[str, Array]], "Stepped"]


class Stepped(NamedTuple):
    state: TrainState
    metrics: Metrics


class Learning(NamedTuple):
    """How parameters and alpha move."""

    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    """The learning rate, for the metrics."""
    controller: Controller


def make_state(model: MrT5, run: RunConfig, learning: Learning, key: Key[Array, ""]) -> TrainState:
    """The state before the first step; parameters still boxed in their logical axis names."""
    tokens = jnp.ones((1, run.data.input_length), jnp.int32)
    targets = jnp.ones((1, run.data.target_length), jnp.int32)
    params = model.init(key, tokens, targets)["params"]
    return TrainState(jnp.zeros((), jnp.int32), params, learning.optimizer.init(params), learning.controller.init())


def step_keys(seed: int, step: Int[Array, ""], batch_size: int) -> RowKeys:
    """A key for every row of a step's batch: a function of (seed, step, row) alone."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(batch_size))


def make_train_step(model: MrT5, run: RunConfig, learning: Learning, ladder: Ladder) -> TrainStep:
    """(state, batch) -> (next state, metrics of the step); to be jitted, the state donated."""

    def train_step(state: TrainState, batch: dict[str, Array]) -> Stepped:
        weights = batch["decoder_loss_weights"]
        mask = batch["encoder_input_tokens"] > 0
        objective = Objective(run.loss, state.controller.alpha, count_denominators(mask, weights))
        row_keys = step_keys(run.training.seed, state.step, mask.shape[0])
        result = loss_and_gradients(model, state.params, batch, objective, run.training.deletion, ladder, row_keys)
        updates, opt_state = learning.optimizer.update(result.gradients, state.opt_state, state.params)
        measured = result.measured
        rung = jnp.broadcast_to(measured.rung, mask.shape[:1])
        dropped = jnp.zeros(mask.shape[0], jnp.int32)
        means = {
            **target_metrics(measured.rows),
            **deletion_metrics(mask, measured.keep, rung, measured.rescued, dropped),
        }
        metrics = {
            **{name: mean.value for name, mean in means.items()},
            "total_loss": result.loss,
            "gate_mean": measured.gate_mean,
            "score_penalty": measured.score_penalty,
            "alpha": state.controller.alpha,
            "learning_rate": jnp.asarray(learning.schedule(state.step)),
            "gradient_norm": optax.tree.norm(result.gradients),
            "parameter_norm": optax.tree.norm(state.params),
        }
        controller = learning.controller.update(means["deletion_rate"].value, state.controller)
        params = optax.apply_updates(state.params, updates)
        return Stepped(TrainState(state.step + 1, params, opt_state, controller), metrics)

    return train_step

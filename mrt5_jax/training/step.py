"""One optimizer step as pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.rows import join_rows, split_rows
from mrt5_jax.config import RunConfig
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.parameters import Params
from mrt5_jax.objectives.controller import Controller
from mrt5_jax.objectives.losses import count_denominators
from mrt5_jax.objectives.metrics import deletion_metrics, rung_metrics, target_metrics
from mrt5_jax.parallel.axis_rules import ONE_SHARD, RowShards
from mrt5_jax.training.gradients import LossAndGradients, MeasuredRows, Objective, Setting, loss_and_gradients
from mrt5_jax.training.optimizers import updates_made
from mrt5_jax.training.state import TrainState, initial_monitor

Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[[TrainState, dict[str, Array]], "Stepped"]
Move = Callable[[TrainState, Params], TrainState]
"""(state, gradients) -> the state after an update."""
MoveIf = Callable[[Bool[Array, ""], Move, TrainState, Params], TrainState]
"""(whether a step is finite, its update, state, gradients) -> the state after the step."""


class Stepped(NamedTuple):
    state: TrainState
    metrics: Metrics


class Learning(NamedTuple):
    """How parameters and alpha move."""

    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    """The learning rate by the updates made, for the metrics."""
    controller: Controller


def make_state(model: MrT5, run: RunConfig, learning: Learning, key: Key[Array, ""]) -> TrainState:
    """The state before the first step; parameters still boxed in their logical axis names."""
    tokens = jnp.ones((1, run.data.input_length), jnp.int32)
    targets = jnp.ones((1, run.data.target_length), jnp.int32)
    params = model.init(key, tokens, targets)["params"]
    optimizer_state, controller_state = learning.optimizer.init(params), learning.controller.init()
    monitor = initial_monitor(controller_state.alpha.dtype) if run.training.deletion == "saturated" else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer_state, controller_state, monitor)


def step_keys(seed: int, step: Int[Array, ""], batch_size: int) -> RowKeys:
    """A key for every row of a step's batch: a function of (seed, step, row) alone."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(batch_size))


class StepInputs(NamedTuple):
    """What a step's gradient is taken with, besides the batch."""

    objective: Objective
    row_keys: RowKeys


def make_setting(model: MrT5, run: RunConfig, ladder: Ladder, shards: RowShards = ONE_SHARD) -> Setting:
    """What is static about the gradients of a run."""
    chunks, frozen = run.execution.chunks, run.optimizer.freeze
    return Setting(model, run.loss, run.training.deletion, run.compaction, ladder, shards, chunks, frozen)


def step_inputs(run: RunConfig, state: TrainState, batch: dict[str, Array]) -> StepInputs:
    """Counts of the whole batch, alpha, and the randomness of its rows."""
    mask = batch["encoder_input_tokens"] > 0
    objective = Objective(state.controller.alpha, count_denominators(mask, batch["decoder_loss_weights"]))
    return StepInputs(objective, step_keys(run.training.seed, state.step, mask.shape[0]))


def make_train_step(
    model: MrT5, run: RunConfig, learning: Learning, ladder: Ladder, shards: RowShards = ONE_SHARD
) -> TrainStep:
    """(state, batch) -> (next state, metrics of the step) in one program; to be jitted, the state donated.

    Args:
        ladder: the lengths that deletion with compaction runs at.
        shards: what the rows are spread over.
    """
    setting = make_setting(model, run, ladder, shards)

    def train_step(state: TrainState, batch: dict[str, Array]) -> Stepped:
        inputs = step_inputs(run, state, batch)

        def of_part(part: tuple[dict[str, Array], RowKeys]) -> LossAndGradients:
            rows, row_keys = part
            return loss_and_gradients(setting, state.params, rows, inputs.objective, row_keys)

        result = in_parts(of_part, (batch, inputs.row_keys), run.execution.microbatches, shards.count)
        return update(run, learning, ladder, state, batch, result, choose_leaf_by_leaf)

    return train_step


def in_parts(
    of_part: Callable[[Any], LossAndGradients], rows: Any, num_parts: int, num_shards: int
) -> LossAndGradients:
    """The result of a whole batch, computed part by part so that less has to be in memory at a time.

    Args:
        of_part: from some rows to their share of the loss and its gradient.
        rows: pytree of arrays [batch ...].
    """
    if num_parts == 1:
        return of_part(rows)
    parts = split_rows(rows, num_parts, num_shards)

    def add(total: LossAndGradients, part: Any) -> tuple[LossAndGradients, MeasuredRows | None]:
        own = of_part(part)
        return jax.tree.map(jnp.add, total, own._replace(rows=None)), own.rows

    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), parts)
    shapes = jax.eval_shape(of_part, first)._replace(rows=None)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, measured = jax.lax.scan(add, zeros, parts)
    return total._replace(rows=join_rows(measured, num_shards))


def choose_leaf_by_leaf(finite: Bool[Array, ""], move: Move, state: TrainState, gradients: Params) -> TrainState:
    """The moved state where a step is finite, else the old one, chosen within the update's own loops.

    With a branch a TPU's compiler holds more of ByT5-small: 0.65 GB in a step of one program, 2.7 GB in an update that
    is a program of its own.
    """
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), move(state, gradients), state)


def choose_by_branch(finite: Bool[Array, ""], move: Move, state: TrainState, gradients: Params) -> TrainState:
    """As `choose_leaf_by_leaf`, by a branch of the program.

    For an update that is a program of its own on a CPU, where a choice leaf by leaf holds moments before and after it.
    """
    return jax.lax.cond(finite, move, lambda state, _: state, state, gradients)


def update(
    run: RunConfig,
    learning: Learning,
    ladder: Ladder,
    state: TrainState,
    batch: dict[str, Array],
    result: LossAndGradients,
    move_if: MoveIf,
) -> Stepped:
    """Moves parameters and controller by a gradient, and reports.

    Where the loss or the gradient is not finite the step is refused: only its number goes on.

    Args:
        move_if: `choose_leaf_by_leaf` or `choose_by_branch`; the results are the same.
    """
    rows = result.rows
    assert rows is not None
    gradient_norm = optax.tree.norm(result.gradients)
    finite = jnp.isfinite(result.loss) & jnp.isfinite(gradient_norm)
    optimizer = optax.with_extra_args_support(learning.optimizer)
    means = {
        **target_metrics(rows.losses),
        **deletion_metrics(rows.mask, rows.keep, rows.rung, rows.rescued, rows.dropped),
        **(rung_metrics(rows.mask, rows.keep, rows.rung, ladder.rungs) if len(ladder.rungs) > 1 else {}),
    }
    metrics = {
        **{name: mean.value for name, mean in means.items()},
        "total_loss": result.loss,
        "gate_mean": result.gate_mean,
        "score_penalty": result.score_penalty,
        "alpha": state.controller.alpha,
        "learning_rate": jnp.asarray(learning.schedule(updates_made(state.opt_state))),
        "gradient_norm": gradient_norm,
        "refused": (~finite).astype(jnp.float32),
        "parameter_norm": optax.tree.norm(state.params),
    }

    def move(state: TrainState, gradients: Params) -> TrainState:
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, gradient_norm=gradient_norm)
        controller = learning.controller.update(means["deletion_rate"].value, state.controller)
        params = optax.apply_updates(state.params, updates)
        return state._replace(params=params, opt_state=opt_state, controller=controller)

    kept = move_if(finite, move, state, result.gradients)
    return Stepped(kept._replace(step=state.step + 1), metrics)

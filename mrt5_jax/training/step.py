"""One optimizer step as pure functions."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from mrt5_jax.compaction.chunk_counts import cut, fixed_chunks
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.compaction.staged import Part, in_graph
from mrt5_jax.config import RunConfig, TrainingDeletion
from mrt5_jax.data.arrangements import FEATURES, ROW, input_lengths
from mrt5_jax.data.expectation import UNITS
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import DeviceBatch
from mrt5_jax.model.multiply_adds import body_share
from mrt5_jax.model.parameters import Params
from mrt5_jax.objectives.controller import Controller
from mrt5_jax.objectives.kept_lengths import no_kept_lengths, remember
from mrt5_jax.objectives.metrics import (
    deletion_metrics,
    deletion_rates,
    rung_metrics,
    saving_metrics,
    target_metrics,
)
from mrt5_jax.objectives.row_moments import row_moments
from mrt5_jax.parallel.axis_rules import ONE_SHARD, RowShards
from mrt5_jax.parallel.batches import CONTROLLER_IDS
from mrt5_jax.selection.selector_rule import GATE_MEAN
from mrt5_jax.selection.step_deletions import removing_deletions, step_deletions
from mrt5_jax.training.gradients import Objective, Setting, objective_of, training_stages
from mrt5_jax.training.optimizers import updates_made
from mrt5_jax.training.state import TrainState, initial_monitor
from mrt5_jax.training.steering import by_controller, controller_names

Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[[TrainState, DeviceBatch], "StepResult"]
Move = Callable[[TrainState, Params], TrainState]
"""(state, gradients) -> the state after an update."""
MoveIf = Callable[[Bool[Array, ""], Move, TrainState, Params], TrainState]
"""(whether a step is finite, its update, state, gradients) -> the state after the step."""


class StepResult(NamedTuple):
    state: TrainState
    metrics: Metrics
    moments: Float[Array, "moments moments"] | None = None
    """Of rows that were dealt, what they tell of what to expect; see `row_moments`."""


class Learning(NamedTuple):
    """How parameters and alpha move."""

    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    """The learning rate by the updates made, for the metrics."""
    controller: Controller


def make_state(model: MrT5, run: RunConfig, learning: Learning, key: Key[Array, ""]) -> TrainState:
    """Makes the state before the first step; parameters still boxed in their logical axis names."""
    tokens = jnp.ones((1, run.data.input_length), jnp.int32)
    targets = jnp.ones((1, run.data.target_length), jnp.int32)
    params = dict(model.init(key, tokens, targets)["params"])
    optimizer_state, controller_state = learning.optimizer.init(params), learning.controller.init()
    monitor = initial_monitor(controller_state.alpha.dtype) if step_deletions(run).is_monitored else None
    lengths = len(input_lengths(run.data))
    dtype, gate = controller_state.alpha.dtype, run.model.gate
    kept = {deletion: no_kept_lengths(lengths, dtype) for deletion in removing_deletions(gate)} or None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer_state, controller_state, monitor, kept)


def step_keys(seed: int, step: Int[Array, ""], rows: Int[Array, " batch"]) -> RowKeys:
    """Returns a key for every row of a step's batch, by its number: a function of (seed, step, row) alone."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def make_setting(model: MrT5, run: RunConfig, ladder: Ladder, shards: RowShards = ONE_SHARD) -> Setting:
    """Returns what is static about the gradients of a run whose deletion is given, as `under` gives it."""
    execution, deletion = run.execution, run.training.deletion
    assert deletion != "auto"
    return Setting(
        model,
        run.loss,
        deletion,
        run.compaction,
        ladder,
        shards,
        fixed_chunks(execution),
        run.optimizer.freeze,
        execution.microbatches,
        execution.microbatch_rows,
    )


def under(run: RunConfig, deletion: TrainingDeletion, num_chunks: int) -> RunConfig:
    """Returns the run with a deletion and a number of chunks for all its steps."""
    chunks, rows = cut(run.execution, num_chunks)
    return dataclasses.replace(
        run,
        training=dataclasses.replace(run.training, deletion=deletion),
        execution=dataclasses.replace(run.execution, chunks=chunks, microbatch_rows=rows),
    )


def step_inputs(run: RunConfig, state: TrainState, batch: DeviceBatch) -> tuple[Objective, RowKeys]:
    """Returns what a step's gradient is taken with besides the batch: alpha, the whole batch's counts, row keys."""
    objective = objective_of(run.model.gate, run.loss, state.controller.alpha, batch)
    rows = batch.get(ROW, jnp.arange(batch["encoder_input_tokens"].shape[0]))
    return objective, step_keys(run.training.seed, state.step, rows)


def make_train_step(
    model: MrT5, run: RunConfig, learning: Learning, ladder: Ladder, shards: RowShards = ONE_SHARD
) -> TrainStep:
    """(state, batch) -> (next state, metrics of the step) in one program; to be jitted, the state donated.

    Args:
        ladder: the lengths that deletions that remove positions run at.
        shards: what the rows are spread over.
    """
    differentiate = in_graph(training_stages(make_setting(model, run, ladder, shards)))

    def train_step(state: TrainState, batch: DeviceBatch) -> StepResult:
        objective, row_keys = step_inputs(run, state, batch)
        result = differentiate(state.params, objective, (batch, row_keys))
        return update(run, learning, ladder, state, batch, result, choose_leaf_by_leaf)

    return train_step


def choose_leaf_by_leaf(finite: Bool[Array, ""], move: Move, state: TrainState, gradients: Params) -> TrainState:
    """Returns the moved state where a step is finite, else the old one, chosen within the update's own loops.

    With a branch a TPU's compiler holds more of ByT5-small: 0.65 GB in a step of one program, 2.7 GB in an update that
    is a program of its own.
    """
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), move(state, gradients), state)


def choose_by_branch(finite: Bool[Array, ""], move: Move, state: TrainState, gradients: Params) -> TrainState:
    """Does what `choose_leaf_by_leaf` does, by a branch of the program.

    For an update that is a program of its own on a CPU, where a choice leaf by leaf holds moments before and after it.
    """
    return jax.lax.cond(finite, move, lambda state, _: state, state, gradients)


def update(
    run: RunConfig,
    learning: Learning,
    ladder: Ladder,
    state: TrainState,
    batch: DeviceBatch,
    result: Part,
    move_if: MoveIf,
) -> StepResult:
    """Moves parameters and controller by a gradient, and reports.

    Where the loss or the gradient is not finite the step is refused: only its number goes on.

    Args:
        move_if: `choose_leaf_by_leaf` or `choose_by_branch`; the results are the same.
    """
    total, rows = result
    gradient_norm = optax.tree.norm(total.gradients)
    finite = jnp.isfinite(total.loss) & jnp.isfinite(gradient_norm)
    optimizer = optax.with_extra_args_support(learning.optimizer)
    means = {
        **target_metrics(rows.losses),
        **deletion_metrics(rows.mask, rows.keep, rows.rung, rows.rescued, rows.dropped),
        **(rung_metrics(rows.mask, rows.keep, rows.rung, ladder.rungs) if len(ladder.rungs) > 1 else {}),
    }
    if run.model.gate is not None:
        share = body_share(run.model, run.data.target_length, ladder.full_length)
        means |= saving_metrics(rows.mask, count_kept(rows.keep) - rows.dropped, rows.rung, share)
    names, rates = controller_names(run.controller), means["deletion_rate"].value
    metrics = {
        **{name: mean.value for name, mean in means.items()},
        "total_loss": total.loss,
        "gate_mean": total.terms.get(GATE_MEAN, jnp.zeros_like(total.loss)),
        **{name: term for name, term in total.terms.items() if name != GATE_MEAN},
        **by_controller("alpha", state.controller.alpha, names),
        "learning_rate": jnp.asarray(learning.schedule(updates_made(state.opt_state))),
        "gradient_norm": gradient_norm,
        "refused": (~finite).astype(jnp.float32),
        "parameter_norm": optax.tree.norm(state.params),
    }

    if names:
        rates = deletion_rates(rows.mask, rows.keep, batch[CONTROLLER_IDS], len(names))
        metrics |= by_controller("deletion_rate", rates, names)

    def move(state: TrainState, gradients: Params) -> TrainState:
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, gradient_norm=gradient_norm)
        controller = learning.controller.update(rates, state.controller)
        params = optax.apply_updates(state.params, updates)
        kept = state.kept
        if kept is not None:
            has_input, lengths = count_kept(rows.mask) > 0, input_lengths(run.data)
            kept = remember(kept, rows.kept_under, has_input, lengths, ladder.full_length)
        return state._replace(params=params, opt_state=opt_state, controller=controller, kept=kept)

    moments = None
    if FEATURES in batch and rows.kept_under:
        has_input, unit = count_kept(rows.mask) > 0, run.data.input_length / UNITS
        summed = row_moments(batch[FEATURES], rows.kept_under, has_input, unit, total.loss.dtype)
        moments = jnp.where(finite, summed, 0)  # afterwards: so it is summed over devices together with the counts
    kept = move_if(finite, move, state, total.gradients)
    return StepResult(kept._replace(step=state.step + 1), metrics, moments)

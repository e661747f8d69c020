"""Thresholds by the deletion rate that they give on some text."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from mrt5_jax.config import RunConfig
from mrt5_jax.data.batches import eval_batches
from mrt5_jax.data.task_names import label_of
from mrt5_jax.data.vocabulary import PAD_ID
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.inspection import make_inspector
from mrt5_jax.evaluation.model_dirs import LoadedModel
from mrt5_jax.selection.selectors import selector_rule

NEAR_ENOUGH = 0.01
"""How far from the rate that was asked for the nearest one may be."""


def thresholds_for_rates(
    loaded: LoadedModel, run: RunConfig, task: str, split: str, rates: Sequence[float]
) -> list[float]:
    """Returns the thresholds under which hard deletion deletes given shares of the input tokens of a task's split.

    Each lies in the middle between two gate values. That a row is never left empty is not counted in.

    Args:
        loaded: a model with a gate whose rule reads a threshold.
        run: the data, and `evaluation.num_examples` of each task.
        rates: shares, between 0 and 1.

    Raises:
        UserError: no threshold comes near a rate, or the split has no examples.
    """
    gate = loaded.model.config.gate
    assert gate is not None
    values = _gate_values(loaded, run, task, split)
    if not values.size:
        raise UserError(f"--target_rate={rates[0]:g}: the {split} split of task {label_of(task)} has no examples")
    lowest = float(selector_rule(gate).lowest(gate))
    return [nearest_threshold(values, rate, lowest) for rate in rates]


def nearest_threshold(values: Float[np.ndarray, " tokens"], rate: float, lowest: float) -> float:
    """Returns a threshold that as near as possible `rate` of the gate values do not exceed.

    Args:
        values: of input tokens, at least one.
        rate: a share, between 0 and 1.
        lowest: below which no gate value lies; the threshold lies between it and 0.

    Raises:
        UserError: the nearest share is further away than `NEAR_ENOUGH`; the message has those that can be reached.
    """
    distinct, counts = np.unique(values.astype(np.float64), return_counts=True)
    edges = np.concatenate([[lowest], distinct, [0.0]])
    middles = (edges[:-1] + edges[1:]) / 2
    shares = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
    possible = (middles > lowest) & (middles < 0)
    middles, shares = middles[possible], shares[possible]
    if not len(shares):
        raise UserError(f"--target_rate={rate:g}: all gate values are 0, and no threshold divides them")
    nearest = int(np.argmin(np.abs(shares - rate)))
    if abs(shares[nearest] - rate) > NEAR_ENOUGH:
        raise UserError(
            f"--target_rate={rate:g}: no threshold deletes that share: shares from {shares[0]:.1%} to {shares[-1]:.1%} "
            f"can be reached, and the nearest is {shares[nearest]:.1%}"
        )
    return float(middles[nearest])


def _gate_values(loaded: LoadedModel, run: RunConfig, task: str, split: str) -> Float[np.ndarray, " tokens"]:
    inspector = make_inspector(loaded.model)
    found = [np.zeros(0, np.float32)]
    for batch in eval_batches(task, run.data, split=split, num_examples=run.evaluation.num_examples):
        tokens = batch.arrays["encoder_input_tokens"]
        values = jax.device_get(inspector(loaded.params, tokens).signals.key_bias)
        found.append(np.asarray(values)[tokens != PAD_ID])
    return np.concatenate(found)

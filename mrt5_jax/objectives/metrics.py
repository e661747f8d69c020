"""What is reported, each with one definition, as means that add up over batches and devices."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.objectives.losses import RowLosses


class Mean(NamedTuple):
    """A weighted mean that can be merged. Scalars, or one a group, on the device, or Python floats on the host.

    Merge long evaluations on the host (`jax.tree.map(float, mean)`): float32 counts are exact only up to 2^24.
    """

    total: Float[Array, "*groups"] | float
    weight: Float[Array, "*groups"] | float

    def merge(self, other: "Mean") -> "Mean":
        """Returns the mean over both."""
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> Float[Array, "*groups"]:
        """total / weight; NaN where nothing was counted."""
        weight = jnp.asarray(self.weight, float)
        counted = weight > 0
        return jnp.where(counted, self.total / jnp.where(counted, weight, 1), jnp.nan)


def target_metrics(rows: RowLosses) -> dict[str, Mean]:
    """Measures teacher-forced predictions.

    loss: cross-entropy in nats per target token, without z-loss or regularisers.
    bits_per_byte: the same in bits.
    token_accuracy: share of target tokens that have the highest logit.
    sequence_accuracy: share of rows of which all target tokens have; rows without target tokens do not count.
    """
    tokens = jnp.sum(rows.num_tokens)
    has_targets = rows.num_tokens > 0
    nll = jnp.sum(rows.nll)
    return {
        "loss": Mean(nll, tokens),
        "bits_per_byte": Mean(nll / math.log(2), tokens),
        "token_accuracy": Mean(jnp.sum(rows.num_correct), tokens),
        "sequence_accuracy": Mean(
            jnp.sum(rows.all_correct & has_targets, dtype=jnp.float32), jnp.sum(has_targets, dtype=jnp.float32)
        ),
    }


def deletion_metrics(
    input_mask: Bool[Array, "batch length"],
    keep: Bool[Array, "batch length"],
    rung: Int[Array, " batch"],
    rescued: Bool[Array, " batch"],
    dropped: Int[Array, " batch"],
) -> dict[str, Mean]:
    """Measures what was deleted. Rows without input do not count.

    deletion_rate: inputs that the gate deletes / inputs, over tokens that are not padding.
    kept_length: tokens per row that the gate keeps and the encoder's rest saw.
    rung: slots per row that the encoder's rest ran with.
    rescued: share of rows that, or of which a packed example, would have been empty (`never_empty`).
    dropped: tokens per row that the gate keeps and a fixed capacity had no slot for (`restrict`).

    So a row's inputs are those deleted, kept and dropped.

    Args:
        input_mask: True where the input is not padding.
        keep: what the gate keeps, after rescue; what is dropped among it.
        rung: slots of each row's chunk.
        rescued: rows that, or of which a packed example, would have been empty (`rescued_rows`).
        dropped: tokens dropped from each row.
    """
    inputs = count_kept(input_mask)
    kept = count_kept(keep & input_mask)
    has_input = inputs > 0
    num_rows = jnp.sum(has_input, dtype=jnp.float32)

    def per_row(values: Int[Array, " batch"] | Bool[Array, " batch"]) -> Mean:
        return Mean(jnp.sum(jnp.where(has_input, values, 0), dtype=jnp.float32), num_rows)

    return {
        "deletion_rate": Mean(jnp.sum(inputs - kept, dtype=jnp.float32), jnp.sum(inputs, dtype=jnp.float32)),
        "kept_length": per_row(kept - dropped),
        "rung": per_row(rung),
        "rescued": per_row(rescued),
        "dropped": per_row(dropped),
    }


def deletion_rates(
    input_mask: Bool[Array, "batch length"],
    keep: Bool[Array, "batch length"],
    group: Int[Array, " batch"],
    num_groups: int,
) -> Float[Array, " groups"]:
    """Returns the deletion rate (`deletion_metrics`) of each group of rows; NaN for one that has no input here.

    Args:
        group: of each row, from 0.
    """
    inputs, kept = count_kept(input_mask), count_kept(keep & input_mask)
    is_in = group[:, None] == jnp.arange(num_groups)[None, :]

    def total(counts: Int[Array, " batch"]) -> Float[Array, " groups"]:
        return jnp.sum(jnp.where(is_in, counts[:, None], 0), axis=0, dtype=jnp.float32)

    return Mean(total(inputs - kept), total(inputs)).value


def saving_metrics(
    input_mask: Bool[Array, "batch length"],
    kept: Int[Array, " batch"],
    rung: Int[Array, " batch"],
    share: Callable[[Float[Array, " batch"]], Float[Array, " batch"]],
) -> dict[str, Mean]:
    """Measures what deletion saves of the multiply-adds after the gate. Rows without input do not count.

    saved: the share that the slots saved, against full length.
    saved_if_exact: the share that would have been saved had every row run at the length of what it keeps.

    Args:
        kept: positions that each row keeps.
        rung: slots of each row's chunk.
        share: of the multiply-adds at full length, by slots.
    """
    has_input = count_kept(input_mask) > 0
    num_rows = jnp.sum(has_input, dtype=jnp.float32)

    def saved(slots: Int[Array, " batch"]) -> Mean:
        shares = 1 - share(slots.astype(jnp.float32))
        return Mean(jnp.sum(jnp.where(has_input, shares, 0)), num_rows)

    return {"saved": saved(rung), "saved_if_exact": saved(kept)}


def rung_metrics(
    input_mask: Bool[Array, "batch length"],
    keep: Bool[Array, "batch length"],
    rung: Int[Array, " batch"],
    rungs: tuple[int, ...],
) -> dict[str, Mean]:
    """Measures deletion by rung: the share of rows that ran at it, and the deleted share of all inputs among them.

    Args:
        input_mask: True where the input is not padding. Rows without input do not count.
        keep: what the gate keeps.
        rung: slots of each row's chunk.
        rungs: the ladder's.
    """
    inputs = count_kept(input_mask)
    deleted = inputs - count_kept(keep & input_mask)
    num_rows = jnp.sum(inputs > 0, dtype=jnp.float32)
    metrics = {}
    for length in rungs:
        here = (rung == length) & (inputs > 0)
        metrics[f"rung_{length}/rows"] = Mean(jnp.sum(here, dtype=jnp.float32), num_rows)
        metrics[f"rung_{length}/deleted"] = Mean(
            jnp.sum(jnp.where(here, deleted, 0), dtype=jnp.float32), jnp.sum(inputs, dtype=jnp.float32)
        )
    return metrics

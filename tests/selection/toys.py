"""Four small models of the ways to compress, each as stages of the protocol and as one naive function.

    soft gate              gate values bias attention, as MrT5's
    mean pooling           segments between straight-through boundaries (Nawrot et al. 2023)
    strided convolution    every third position, with the two after it (CANINE)
    expanding              H-Net's routing, moving average and straight-through confidence, back at full length

Each has a penalty of its own. The naive function of a toy knows no slots, rungs or chunks: it runs at full length, and
`jax.grad` differentiates it whole. The two share the embedding and the first layer, and nothing of what is tested.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrt5_jax.compaction.plan import count_kept, gather, never_empty, plan, rescued_rows
from mrt5_jax.compaction.staged import Begun
from mrt5_jax.objectives.penalties import PenaltyScale
from mrt5_jax.selection.protocol import Penalty, Selection, Signals, without_other_gradients
from mrt5_jax.training.staged_gradients import FirstOutputs, SecondOutputs, TwoStages

ROWS, LENGTH, VOCAB, EMBED, TARGETS, STRIDE = 32, 8, 6, 4, 2, 3
RUNGS = (2, 4, LENGTH)
GATE_SCALE, PRIOR, TEMPERATURE, RATIO = -4.0, 0.3, 0.5, 4.0
Params = dict[str, Any]
Batch = dict[str, jax.Array]


class Shared(NamedTuple):
    """What all chunks are computed with."""

    num_targets: jax.Array
    penalties: dict[str, PenaltyScale]


class Rows(NamedTuple):
    """What the second stages read of their rows."""

    hidden: jax.Array
    signals: Signals
    mask: jax.Array
    keep: jax.Array
    merged_into: jax.Array | None
    batch: Batch


class Toy(NamedTuple):
    select: Callable[[Params, jax.Array, jax.Array, Batch], Selection]
    """(first stage's parameters, hidden, mask, batch)"""
    second: Callable[[Params, Rows, int], jax.Array]
    """(second stage's parameters, rows, slots) -> loss of each row"""
    naive: Callable[[Params, jax.Array, jax.Array, Batch], tuple[jax.Array, jax.Array, jax.Array]]
    """(all parameters, hidden, mask, batch) -> loss, total and count of the penalty, of one row"""


def make_batch() -> Batch:
    """Rows of all lengths, the first one filler; noise for choices at random."""
    rng = np.random.default_rng(0)
    lengths = np.concatenate([[0, 1, 2, LENGTH], rng.integers(1, LENGTH + 1, ROWS - 4)])
    tokens = np.where(np.arange(LENGTH) < lengths[:, None], rng.integers(1, VOCAB, (ROWS, LENGTH)), 0)
    uniform = rng.uniform(0.05, 0.95, (ROWS, LENGTH))
    targets = rng.integers(1, VOCAB, (ROWS, TARGETS))
    return {"tokens": tokens, "noise": np.log(uniform) - np.log1p(-uniform), "targets": targets}


def make_params() -> Params:
    rng, square = np.random.default_rng(1), (EMBED, EMBED)
    return {
        "embedding": rng.normal(size=(VOCAB, EMBED)),
        "first": {
            "mix": rng.normal(size=square),
            "gate": rng.normal(size=EMBED),
            "query": rng.normal(size=square),
            "key": rng.normal(size=square),
        },
        "second": {
            "attention": rng.normal(size=square),
            "values": rng.normal(size=square),
            "queries": rng.normal(size=(TARGETS, EMBED)),
            "convolution": rng.normal(size=(STRIDE, *square)),
            "residual": rng.normal(size=square),
        },
    }


def split(params: Params) -> tuple[Params, Params]:
    """The embedding is also the head, so both stages read it."""
    return tuple({"embedding": params["embedding"], **params[stage]} for stage in ("first", "second"))  # pyright: ignore[reportReturnType]


def merge(first: Params, second: Params) -> Params:
    shared = jnp.add(first["embedding"], second["embedding"])
    rest = ({name: leaf for name, leaf in stage.items() if name != "embedding"} for stage in (first, second))
    return {"embedding": shared, **dict(zip(("first", "second"), rest, strict=True))}


def first_layer(params: Params, tokens: jax.Array) -> jax.Array:
    """Of a row or of a batch: every position sees the one before it."""
    embedded = params["embedding"][tokens]
    before = jnp.concatenate([jnp.zeros_like(embedded[..., :1, :]), embedded[..., :-1, :]], axis=-2)
    return jnp.tanh(embedded + before @ params["mix"])


def stages_of(toy: Toy, penalty: str) -> TwoStages:
    """The toy's stages; the one penalty has this name."""

    def first(params: Params, batch: Batch) -> tuple[FirstOutputs, Selection]:
        hidden, mask = first_layer(params, batch["tokens"]), batch["tokens"] > 0
        selection = without_other_gradients(toy.select(params, hidden, mask, batch))
        totals = {name: penalty.total for name, penalty in selection.penalties.items()}
        return FirstOutputs(hidden, selection.signals, totals), selection

    def between(batch: Batch, outputs: FirstOutputs, selection: Selection) -> Begun:
        mask = batch["tokens"] > 0
        rows = Rows(outputs.hidden, outputs.signals, mask, selection.keep, selection.merged_into, batch)
        return Begun(rows, count_kept(selection.keep), selection.statistics)

    def second(slots: int) -> Callable[[Params, Shared, Rows], SecondOutputs]:
        def run(params: Params, shared: Shared, rows: Rows) -> SecondOutputs:
            losses = toy.second(params, rows, slots)
            target = jnp.sum(losses) / shared.num_targets
            return SecondOutputs(target, {"target": target}, losses)

        return run

    def measure(statistics: dict[str, jax.Array], losses: jax.Array, rungs: jax.Array) -> dict[str, jax.Array]:
        return {"loss": losses, "rung": rungs, **statistics}

    def scales(shared: Shared, batch: Batch) -> dict[str, PenaltyScale]:
        return shared.penalties

    return TwoStages(first, between, second, scales, measure, split, merge, (penalty,), ("target",), jnp.float64)


def naive_loss(toy: Toy, params: Params, batch: Batch, shared: Shared) -> jax.Array:
    """The loss of the batch: row after row, at full length."""
    (scale,) = shared.penalties.values()

    def of_row(row: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        hidden = first_layer({"embedding": params["embedding"], **params["first"]}, row["tokens"])
        return toy.naive(params, hidden, row["tokens"] > 0, row)

    losses, totals, counts = jax.vmap(of_row)(batch)
    return jnp.sum(losses) / shared.num_targets + scale.weight * jnp.sum(totals) / jnp.sum(counts)


@functools.partial(jax.jit, static_argnums=(0, 1))
def make_shared(toy: Toy, penalty: str, params: Params, batch: Batch, weight: float = 0.7) -> Shared:
    """Counts of the whole batch, before it is cut into anything."""
    first, _ = split(params)
    selection = toy.select(first, first_layer(first, batch["tokens"]), batch["tokens"] > 0, batch)
    count = jnp.sum(selection.penalties[penalty].count)
    num_targets = jnp.sum(batch["tokens"] > 0, dtype=jnp.float64)
    return Shared(num_targets, {penalty: PenaltyScale(jnp.asarray(weight), count)})


# What several toys are made of, for batches.


def attend(params: Params, hidden: jax.Array, mask: jax.Array, bias: jax.Array | None, causal: bool) -> jax.Array:
    """Self-attention with a residual."""
    scores = jnp.einsum("bqe,ef,bkf->bqk", hidden, params["attention"], hidden)
    scores = scores if bias is None else scores + bias[:, None]
    seen = mask[:, None] & (jnp.tril(jnp.ones((1, hidden.shape[1], hidden.shape[1]), bool)) if causal else True)
    weights = jax.nn.softmax(jnp.where(seen, scores, -1e30))
    return hidden + jnp.tanh(weights @ hidden @ params["values"])


def decode(params: Params, hidden: jax.Array, mask: jax.Array, bias: jax.Array | None, targets: jax.Array) -> jax.Array:
    """Cross-entropy of each row's targets; rows without input have none."""
    scores = jnp.einsum("te,bke->btk", params["queries"], hidden)
    scores = scores if bias is None else scores + bias[:, None]
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e30))
    likelihood = jax.nn.log_softmax(jnp.einsum("btk,bke,ve->btv", weights, hidden, params["embedding"]))
    losses = -jnp.take_along_axis(likelihood, targets[..., None], 2)[..., 0]
    return jnp.where(mask[:, 0], losses.sum(1), 0)


def slot_numbers(keep: jax.Array) -> jax.Array:
    """At each position, the slot of the last kept position up to it."""
    return jnp.cumsum(keep, axis=1, dtype=jnp.int32) - 1


def per_row(mask: jax.Array) -> jax.Array:
    """A penalty per row counts the rows with input."""
    return mask.any(1).astype(jnp.float64)


def select_softly(params: Params, hidden: jax.Array, mask: jax.Array, batch: Batch) -> Selection:
    values = GATE_SCALE * jax.nn.sigmoid(-hidden @ params["gate"])
    above = (values > GATE_SCALE / 2) & mask
    keep = never_empty(above, values, mask)
    penalty = Penalty(jnp.sum(jnp.where(mask, values, 0), axis=1), jnp.sum(mask, axis=1, dtype=jnp.float64))
    statistics = {"rescued": rescued_rows(above, keep).astype(jnp.float64)}
    return Selection(keep, None, values, Signals(key_bias=values), {"gate": penalty}, statistics)


def gated_second(params: Params, rows: Rows, slots: int) -> jax.Array:
    to = plan(rows.keep, slots)
    assert rows.signals.key_bias is not None
    bias = gather(rows.signals.key_bias, to.positions)
    hidden = attend(params, gather(rows.hidden, to.positions), to.mask, bias, causal=False)
    return decode(params, hidden, to.mask, bias, rows.batch["targets"])


def select_boundaries(params: Params, hidden: jax.Array, mask: jax.Array, batch: Batch) -> Selection:
    """Straight-through boundaries, of which each closes its segment; the last input is always one."""
    soft = jax.nn.sigmoid((hidden @ params["gate"] + batch["noise"]) / TEMPERATURE)
    hard = (soft > 0.5).astype(soft.dtype)
    last = mask & ~jnp.concatenate([mask[:, 1:], jnp.zeros_like(mask[:, :1])], axis=1)
    boundary = jnp.where(last, 1, jnp.where(mask, hard + straight_through(soft), 0))
    closes = (hard > 0) & mask | last
    begins = mask & jnp.concatenate([jnp.ones_like(mask[:, :1]), closes[:, :-1]], axis=1)
    position = jnp.broadcast_to(jnp.arange(LENGTH), mask.shape)
    merged_into = jax.lax.cummax(jnp.where(begins, position, 0), axis=1)
    # A position's membership is 1, and moves with the number of boundaries before it.
    membership = jnp.where(mask, 1 + straight_through(jnp.cumsum(boundary, axis=1) - boundary), 0)
    number = jnp.where(mask, slot_numbers(begins), LENGTH)
    sizes = jax.vmap(lambda one, of: jax.ops.segment_sum(one, of, LENGTH + 1)[of])(membership, number)
    weights = jnp.where(mask, membership / jnp.where(mask, sizes, 1), 0)
    count, length = jnp.sum(boundary, axis=1), jnp.sum(mask, axis=1, dtype=soft.dtype)
    total = jnp.where(length > 0, binomial(count, length) / jnp.maximum(length, 1), 0)
    signals = Signals(weights=weights)
    return Selection(begins, merged_into, soft, signals, {"boundaries": Penalty(total, per_row(mask))}, {})


def straight_through(value: jax.Array) -> jax.Array:
    """0 with the gradient of `value`."""
    return value - jax.lax.stop_gradient(value)


def binomial(count: jax.Array, length: jax.Array) -> jax.Array:
    """-log Binomial(count; length, PRIOR)"""
    log_factorial = lambda number: jax.scipy.special.gammaln(number + 1)  # noqa: E731
    choose = log_factorial(length) - log_factorial(count) - log_factorial(length - count)
    return -(choose + count * jnp.log(PRIOR) + (length - count) * jnp.log1p(-PRIOR))


def pooled_second(params: Params, rows: Rows, slots: int) -> jax.Array:
    to = plan(rows.keep, slots)
    assert rows.signals.weights is not None
    assert rows.merged_into is not None
    number = jnp.where(rows.mask, gather(slot_numbers(rows.keep), rows.merged_into), slots)
    weighted = rows.signals.weights[..., None] * rows.hidden
    pooled = jax.vmap(lambda one, of: jax.ops.segment_sum(one, of, slots))(weighted, number)
    hidden = attend(params, pooled, to.mask, None, causal=False)
    return decode(params, hidden, to.mask, None, rows.batch["targets"])


def select_every_third(params: Params, hidden: jax.Array, mask: jax.Array, batch: Batch) -> Selection:
    position = jnp.broadcast_to(jnp.arange(LENGTH), mask.shape)
    keep = mask & (position % STRIDE == 0)
    energy = jnp.sum(jnp.where(mask, jnp.sum(hidden**2, axis=-1), 0), axis=1)
    penalty = Penalty(energy, jnp.sum(mask, axis=1, dtype=jnp.float64))
    return Selection(keep, position - position % STRIDE, -position * 1.0, Signals(), {"energy": penalty}, {})


def convolved_second(params: Params, rows: Rows, slots: int) -> jax.Array:
    """The convolution has parameters: it is a part of the second stage."""
    to = plan(rows.keep, slots)
    assert rows.merged_into is not None
    convolved = 0
    for offset in range(STRIDE):
        at = jnp.minimum(to.positions + offset, LENGTH - 1)
        inside = (to.positions + offset < LENGTH) & (gather(rows.merged_into, at) == to.positions)
        taken = jnp.where((inside & gather(rows.mask, at))[..., None], gather(rows.hidden, at), 0)
        convolved = convolved + taken @ params["convolution"][offset]
    hidden = attend(params, jax.nn.gelu(convolved, approximate=False), to.mask, None, causal=False)
    return decode(params, hidden, to.mask, None, rows.batch["targets"])


def select_by_similarity(params: Params, hidden: jax.Array, mask: jax.Array, batch: Batch) -> Selection:
    query = hidden[:, :-1] @ params["query"]
    key = hidden[:, 1:] @ params["key"]
    cosine = jnp.sum(query * key, -1) / jnp.linalg.norm(query, axis=-1) / jnp.linalg.norm(key, axis=-1)
    boundary = jnp.concatenate([jnp.ones_like(cosine[:, :1]), (1 - cosine) / 2], axis=1)
    keep = mask & (boundary > 0.5)
    length = jnp.maximum(jnp.sum(mask, axis=1), 1)
    share, mean = jnp.sum(keep, axis=1) / length, jnp.sum(jnp.where(mask, boundary, 0), axis=1) / length
    ratio = RATIO / (RATIO - 1) * ((RATIO - 1) * share * mean + (1 - share) * (1 - mean))
    signals = Signals(confidence=jnp.where(keep, boundary, 1 - boundary))
    penalty = Penalty(jnp.where(mask.any(1), ratio, 0), per_row(mask))
    return Selection(keep, None, boundary, signals, {"ratio": penalty}, {"mean_probability": mean})


def expanded_second(params: Params, rows: Rows, slots: int) -> jax.Array:
    """Long layers over the slots; then the moving average, back at full length, with a loss at every position."""
    to = plan(rows.keep, slots)
    assert rows.signals.confidence is not None
    hidden = attend(params, gather(rows.hidden, to.positions), to.mask, None, causal=True)
    share = jnp.where(to.mask, gather(rows.signals.confidence, to.positions), 1)[..., None]

    def after(one: tuple[jax.Array, jax.Array], two: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return one[0] * two[0], two[0] * one[1] + two[1]

    _, smooth = jax.lax.associative_scan(after, (1 - share, share * hidden), axis=1)
    confidence = 1 + straight_through(rows.signals.confidence)
    expanded = confidence[..., None] * gather(smooth, jnp.maximum(slot_numbers(rows.keep), 0))
    return next_tokens(params, expanded + rows.hidden @ params["residual"], rows.mask, rows.batch["tokens"])


def next_tokens(params: Params, hidden: jax.Array, mask: jax.Array, tokens: jax.Array) -> jax.Array:
    """Cross-entropy of every input from what is before it, summed over each row."""
    likelihood = jax.nn.log_softmax(hidden[:, :-1] @ params["embedding"].T)
    losses = -jnp.take_along_axis(likelihood, tokens[:, 1:, None], 2)[..., 0]
    return jnp.sum(jnp.where(mask[:, 1:], losses, 0), axis=1)

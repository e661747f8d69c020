"""The toys' losses written naively, of one row at full length: dense matrices, loops over positions, nothing moved."""

from typing import Any

import jax
import jax.numpy as jnp

from .toys import EMBED, GATE_SCALE, LENGTH, PRIOR, RATIO, STRIDE, TEMPERATURE

RowLoss = tuple[jax.Array, jax.Array, jax.Array]
"""Loss, total of the penalty, its count."""


def soft_gate(params: Any, hidden: jax.Array, mask: jax.Array, row: Any) -> RowLoss:
    values = GATE_SCALE / (1 + jnp.exp(hidden @ params["first"]["gate"]))
    keep = mask & (values > GATE_SCALE / 2)
    best = jnp.arange(LENGTH) == jnp.argmax(jnp.where(mask, values, -jnp.inf))
    keep = jnp.where(keep.any(), keep, best & mask)
    attended = attention(params, hidden, jnp.tile(jnp.where(keep, values, -jnp.inf), (LENGTH, 1)), keep.any())
    return cross(params, attended, jnp.where(keep, values, -jnp.inf), row, keep.any()), sum_at(values, mask), mask.sum()


def mean_pooling(params: Any, hidden: jax.Array, mask: jax.Array, row: Any) -> RowLoss:
    """The authors' matrix [length segments]: 1 minus its distance from the number of boundaries before a position."""
    soft = jax.nn.sigmoid((hidden @ params["first"]["gate"] + row["noise"]) / TEMPERATURE)
    hard = (soft > 0.5).astype(soft.dtype)
    boundary = hard - jax.lax.stop_gradient(soft) + soft
    size = mask.sum()
    boundary = jnp.where(jnp.arange(LENGTH) == size - 1, 1.0, boundary) * mask
    before = jnp.array([boundary[:position].sum() for position in range(LENGTH)])
    distance = jnp.arange(LENGTH)[None] - before[:, None]
    member = jnp.where((distance == 0) & mask[:, None], 1 - distance, 0)
    members = member.sum(0)
    used = members > 0
    pooled = (member / jnp.where(used, members, 1)[None]).T @ hidden
    seen = jnp.where(used, 0.0, -jnp.inf)
    attended = attention(params, pooled, jnp.tile(seen, (LENGTH, 1)), size > 0)
    count = boundary.sum()
    factorial = lambda number: jnp.exp(jax.scipy.special.gammaln(number + 1))  # noqa: E731
    choose = factorial(size * 1.0) / factorial(count) / factorial(size - count)
    penalty = -jnp.log(choose * PRIOR**count * (1 - PRIOR) ** (size - count)) / jnp.maximum(size, 1)
    return cross(params, attended, seen, row, size > 0), penalty * (size > 0), size > 0


def strided_convolution(params: Any, hidden: jax.Array, mask: jax.Array, row: Any) -> RowLoss:
    """As wide as the kernel at a time, the tail filled up with zeros."""
    windows = -(-LENGTH // STRIDE)
    filled = jnp.zeros((windows * STRIDE, EMBED)).at[:LENGTH].set(hidden * mask[:, None])
    flat = filled.reshape(windows, STRIDE * EMBED) @ params["second"]["convolution"].reshape(STRIDE * EMBED, EMBED)
    seen = jnp.where(mask[::STRIDE], 0.0, -jnp.inf)
    attended = attention(params, jax.nn.gelu(flat, approximate=False), jnp.tile(seen, (windows, 1)), mask.any())
    energy = sum_at((hidden * hidden).sum(1), mask)
    return cross(params, attended, seen, row, mask.any()), energy, mask.sum()


def expanding(params: Any, hidden: jax.Array, mask: jax.Array, row: Any) -> RowLoss:
    """Position after position: at a boundary the moving average takes in a vector, elsewhere it stays."""
    first, second = params["first"], params["second"]
    probability = [jnp.ones(())]
    for position in range(1, LENGTH):
        query, key = hidden[position - 1] @ first["query"], hidden[position] @ first["key"]
        probability.append((1 - query @ key / jnp.sqrt((query @ query) * (key @ key))) / 2)
    boundary = [p > 0.5 for p in probability]
    kept = jnp.array(boundary) & mask
    behind = jnp.arange(LENGTH)[None] <= jnp.arange(LENGTH)[:, None]
    long = attention(params, hidden, jnp.where(behind & kept[None], 0.0, -jnp.inf), mask.any())
    average, loss = jnp.zeros(EMBED), 0.0
    for position in range(LENGTH - 1):
        p = probability[position]
        average = jnp.where(kept[position], p * long[position] + (1 - p) * average, average)
        confidence = jnp.where(boundary[position], p, 1 - p)
        sure = 1 - jax.lax.stop_gradient(confidence) + confidence
        logits = params["embedding"] @ (sure * average + hidden[position] @ second["residual"])
        target = row["tokens"][position + 1]
        loss = loss + jnp.where(target > 0, jnp.log(jnp.exp(logits).sum()) - logits[target], 0)
    size = jnp.maximum(mask.sum(), 1)
    share, mean = kept.sum() / size, sum_at(jnp.array(probability), mask) / size
    ratio = RATIO / (RATIO - 1) * ((RATIO - 1) * share * mean + (1 - share) * (1 - mean))
    return jnp.asarray(loss), ratio * mask.any(), mask.any()


def attention(params: Any, hidden: jax.Array, bias: jax.Array, real: jax.Array) -> jax.Array:
    """Biases [query key], minus infinity where a key is not seen; of a row that is filler everything is 0."""
    scores = (hidden @ params["second"]["attention"]) @ hidden.T + jnp.where(real, bias, 0)
    weights = jnp.exp(scores) / jnp.exp(scores).sum(1, keepdims=True)
    return jnp.where(real, hidden + jnp.tanh(weights @ hidden @ params["second"]["values"]), 0)


def cross(params: Any, hidden: jax.Array, bias: jax.Array, row: Any, real: jax.Array) -> jax.Array:
    loss = 0.0
    for query, target in zip(params["second"]["queries"], row["targets"], strict=True):
        scores = jnp.exp(hidden @ query + jnp.where(real, bias, 0))
        logits = params["embedding"] @ ((scores / scores.sum()) @ hidden)
        loss = loss + jnp.log(jnp.exp(logits).sum()) - logits[target]
    return jnp.where(real, loss, 0)


def sum_at(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, values, 0).sum()

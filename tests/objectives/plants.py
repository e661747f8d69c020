"""Simulated plants: deletion rates as functions of alpha, many at once, with drawn gains, lags and noise.

A lagging plant has an equilibrium that follows alpha. A population of gate values has none where deleting is free: Adam
moves it as long as alpha is not zero, slowly where gates are saturated, and then all at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mrt5_jax.objectives.controller import Controller

TARGETS = (0.3, 0.5, 0.7)


class Plants(NamedTuple):
    """Some plants, and what was drawn for them."""

    begin: Any
    move: Callable[[Any, Float[Array, " plants"], Float[Array, ""]], tuple[Any, Float[Array, " plants"]]]
    """(state, alpha, share of the run that has gone) -> the state after the step, the rate without noise"""
    targets: Float[np.ndarray, " plants"]
    noise: Float[np.ndarray, " plants"]
    """Standard deviation of a step's rate."""
    lag: Float[np.ndarray, " plants"]
    """Steps."""


def lagging(number: int, seed: int, longest_lag: float) -> Plants:
    """Returns plants of two lags in a row, gains over four orders of magnitude, and costs that drift."""
    rng = np.random.default_rng(seed)
    gain = 10 ** rng.uniform(-0.3, 3.7, number)
    lag = 10 ** rng.uniform(1, np.log10(longest_lag), number)
    second = np.maximum(lag * rng.uniform(0, 0.3, number), 1)
    lowest, highest = rng.uniform(0, 0.15, number), rng.uniform(0.85, 1, number)
    offset, drift = rng.normal(-1, 1, number), rng.normal(0, 0.5, number)
    targets, noise = rng.choice(TARGETS, number), 10 ** rng.uniform(-2.5, -1.4, number)

    def move(state: Any, alpha: Any, gone: Any) -> Any:
        one, two = state
        one = one + (offset + drift * gone + gain * alpha - one) / lag
        two = two + (one - two) / second
        return (one, two), lowest + (highest - lowest) * jax.nn.sigmoid(two)

    return Plants((jnp.asarray(offset), jnp.asarray(offset)), move, targets, noise, lag)


def gates(number: int, seed: int, num_steps: int, positions: int = 48) -> Plants:
    """Returns populations of gate logits that Adam moves: speeds, units of alpha and costs of deleting are drawn."""
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.3, 1.5, (number, 1))
    logits = np.sort(rng.normal(size=(number, positions)), axis=1) * spread + rng.choice([0.5, 1.0, 2.0], (number, 1))
    speed = 10 ** rng.uniform(-2.7, -1.3, number)
    unit = 10 ** rng.uniform(-3, 0, number)
    # Deleting costs nothing until a model reads, and then the more the later a position is deleted.
    cost = np.linspace(0, 1, positions)[None, :] * (3 * rng.uniform(size=number) ** 2 * unit)[:, None]
    targets, noise = rng.choice(TARGETS, number), 10 ** rng.uniform(-2.3, -1.4, number)
    zeros = jnp.zeros(number)

    def move(state: Any, alpha: Any, gone: Any) -> Any:
        logits, first, second, count, key, wander = state
        key, one, two = jax.random.split(key, 3)
        slope = jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)
        push = slope * (alpha[:, None] - cost * jnp.clip(gone / 0.2, 0, 1))
        wander = 0.98 * wander + 0.004 * unit * jax.random.normal(one, (number,))
        by_chance = 0.3 * unit * jax.random.normal(two, (number,))
        gradient = 4 * (push.mean(1) + by_chance * slope.mean(1)) + wander
        count = count + 1
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        adam = first / (1 - 0.9**count) / (jnp.sqrt(second / (1 - 0.999**count)) + 1e-12)
        rate = speed * jnp.minimum(1, count / 100) * (0.5 + 0.5 * jnp.cos(jnp.pi * gone))
        of_each = jnp.clip(push / (0.3 * unit)[:, None], -1, 1)
        logits = logits - rate[:, None] * (adam[:, None] + 0.5 * of_each)
        return (logits, first, second, count, key, wander), jax.nn.sigmoid(-12 * logits).mean(1)

    begin = (jnp.asarray(logits), zeros, zeros, jnp.zeros(()), jax.random.key(seed), zeros)
    return Plants(begin, move, targets, noise, np.full(number, np.nan))


def steered(plants: Plants, controller: Controller, num_steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rates as they are measured, and alphas, [steps plants]."""

    def step(carry: Any, gone: Any) -> Any:
        plant, state, key = carry
        alpha = state.alpha
        plant, rate = plants.move(plant, alpha, gone)
        key, drawn = jax.random.split(key)
        measured = jnp.clip(rate + plants.noise * jax.random.normal(drawn, rate.shape), 0, 1)
        return (plant, controller.update(measured, state), key), (measured, alpha)

    gone = jnp.arange(num_steps) / num_steps
    run = jax.jit(lambda: jax.lax.scan(step, (plants.begin, controller.init(), jax.random.key(seed)), gone)[1])
    rates, alphas = run()
    return np.asarray(rates), np.asarray(alphas)


class Course(NamedTuple):
    """How rates went; each of [plants]."""

    arrived: np.ndarray
    """Whether the first 50-step mean within 1 point came in the first half."""
    farthest: np.ndarray
    """The largest error of a 50-step mean after that; 1 where it never came."""
    last: np.ndarray
    """Error of the mean over the last fifth."""
    swing: np.ndarray
    """Largest difference of two 50-step means in the last fifth."""


def course(rates: np.ndarray, targets: np.ndarray) -> Course:
    """Measures the quality that is asked of a controller."""
    sums = np.cumsum(np.concatenate([np.zeros((1, rates.shape[1])), rates]), axis=0)
    means = (sums[50:] - sums[:-50]) / 50
    errors = np.abs(means - targets)
    inside = errors <= 0.01
    first = np.where(inside.any(0), inside.argmax(0), len(means))
    later = np.where(np.arange(len(means))[:, None] >= first, errors, 0).max(0)
    fifth = len(rates) // 5
    last = means[-(fifth - 49) :]
    return Course(
        first + 50 <= len(rates) / 2,
        np.where(first < len(means), later, 1),
        np.abs(rates[-fifth:].mean(0) - targets),
        last.max(0) - last.min(0),
    )

"""The log-sigmoid gate and its entropies against NumPy, alone and in the training objective."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.cli import gin_setup
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import CompactionConfig, GateConfig, LossConfig
from mrt5_jax.errors import UserError
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.selection.selectors import make_selector
from mrt5_jax.training.gradients import Setting, loss_and_gradients, objective_of
from mrt5_jax.validation import validate

from ..model.small import LENGTH, by_path, in_double, make_batch, make_config, make_params

CONFIG = in_double(make_config(gate=GateConfig(layer=1, kind="log_sigmoid", bias_init=0.0, threshold=-0.7)))
LENGTHS = (LENGTH, 5, 0, 8)
SEGMENTS = np.array([[1] * 7 + [2] * 5, [1] * 5 + [0] * 7, [0] * 12, [1, 2, 2, 3, 3, 3, 3, 3] + [0] * 4], np.int32)
WEIGHTS = (("token_entropy", 0.5), ("mean_entropy", -0.25))


def entropy(p: np.ndarray) -> np.ndarray:
    return -p * np.log(p) - (1 - p) * np.log1p(-p)


def selected(packed: bool, steepness: float = 1.0) -> tuple[Any, np.ndarray]:
    """A selection of random hidden states, and the probabilities that positions stay."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(4, LENGTH, 8))
    kernel = steepness * rng.normal(size=(8, 1))
    params = {"kernel": kernel, "bias": np.full(1, 0.2), "norm": {"scale": np.ones(8)}}
    tokens = (np.arange(LENGTH)[None] < np.array(LENGTHS)[:, None]).astype(np.int32)
    with jax.enable_x64(True):
        given = jax.tree.map(jnp.asarray, (hidden, tokens, tokens > 0))
        segments = jnp.asarray(SEGMENTS) if packed else None
        variables = jax.tree.map(jnp.asarray, {"params": params})
        selection = make_selector(CONFIG).apply(variables, *given, None, segments)
    normed = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-6)
    return jax.device_get(selection), 1 / (1 + np.exp(-(normed @ kernel)[..., 0] - 0.2))


@pytest.mark.parametrize("packed", [False, True])
def test_gate_values_and_entropies_are_the_formulas(packed: bool) -> None:
    """A row's, or of packed rows each example's; pads and filler count nowhere."""
    selection, p = selected(packed)
    np.testing.assert_allclose(selection.signals.key_bias, np.log(p), rtol=1e-12)
    present = np.arange(LENGTH)[None] < np.array(LENGTHS)[:, None]
    np.testing.assert_array_equal(selection.keep[:2], (np.log(p) > -0.7)[:2] & present[:2])
    numbers = np.where(present, SEGMENTS if packed else 1, 0)
    tokens, means = selection.penalties["token_entropy"], selection.penalties["mean_entropy"]
    np.testing.assert_allclose(tokens.total, np.where(present, entropy(p), 0).sum(1), rtol=1e-12)
    np.testing.assert_array_equal(tokens.count, LENGTHS)
    for row in range(4):
        examples = [p[row, numbers[row] == number].mean() for number in range(1, numbers[row].max() + 1)]
        assert means.count[row] == len(examples)
        assert means.total[row] == pytest.approx(sum(map(entropy, examples)), rel=1e-12)
    assert means.count.tolist() == ([2, 1, 0, 3] if packed else [1, 1, 0, 1])


def test_sure_gates_have_finite_gradients() -> None:
    """Where every probability of an example is 0 or 1 to the last bit."""

    def total(bias: jax.Array) -> jax.Array:
        params = {"kernel": jnp.zeros((8, 1)), "bias": bias[None], "norm": {"scale": jnp.ones(8)}}
        tokens = jnp.ones((4, LENGTH), jnp.int32)
        hidden = jnp.ones((4, LENGTH, 8))
        selection = make_selector(CONFIG).apply({"params": params}, hidden, tokens, tokens > 0, None)
        return sum(jnp.sum(penalty.total) for penalty in selection.penalties.values())  # pyright: ignore

    with jax.enable_x64(True):
        for bias in (-200.0, 200.0):
            assert np.isfinite(jax.grad(total)(jnp.asarray(bias)))


def test_the_objective_weighs_entropies_by_name() -> None:
    """Their part of the loss, and the gradient of the gate by finite differences of the formula, in float64."""
    batch, params = jax.tree.map(jnp.asarray, make_batch(0, LENGTHS)), make_params(CONFIG, 2)
    setting = Setting(MrT5(CONFIG), LossConfig(penalties=WEIGHTS), "hard", CompactionConfig(), Ladder((6, LENGTH)))

    @jax.jit
    def run(params: Any, weights: jax.Array) -> Any:
        objective = objective_of(CONFIG.gate, setting.loss, jnp.zeros(()), batch)
        scaled = {name: scale._replace(weight=scale.weight * weights) for name, scale in objective.penalties.items()}
        return loss_and_gradients(setting, params, batch, objective._replace(penalties=scaled)).total

    with jax.enable_x64(True):
        weighed, plain = (jax.device_get(run(params, jnp.asarray(on))) for on in (1.0, 0.0))
        terms = sum(weight * weighed.terms[name] for name, weight in WEIGHTS)
        assert weighed.loss - plain.loss == pytest.approx(terms, rel=1e-10)
        assert abs(terms) > 1e-3
        ours = by_path(weighed.gradients)["encoder/gate/bias"] - by_path(plain.gradients)["encoder/gate/bias"]
        step, values = 1e-6, []
        for sign in (1, -1):
            moved = jax.tree.map(np.copy, params)
            moved["encoder"]["gate"]["bias"] += sign * step
            found = jax.device_get(run(moved, jnp.asarray(1.0))).terms
            values.append(sum(weight * found[name] for name, weight in WEIGHTS))
    assert ours[0] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


def test_its_gin_file_makes_a_run_and_unknown_penalties_are_refused() -> None:
    resolved = gin_setup.resolve(["runs/quickstart.gin", "models/mrt5_log_sigmoid.gin"])
    gate = resolved.run.model.gate
    assert gate is not None
    assert gate.kind == "log_sigmoid"
    validate(resolved.run)
    with pytest.raises(UserError, match=r"names 'token_entropi'.*did you mean token_entropy"):
        validate(dataclasses.replace(resolved.run, loss=LossConfig(penalties=(("token_entropi", 1.0),))))
    learned = dataclasses.replace(gate, kind="learned", threshold=-15.0)
    model = dataclasses.replace(resolved.run.model, gate=learned)
    with pytest.raises(UserError, match="kind = 'learned' provides none"):
        validate(dataclasses.replace(resolved.run, model=model, loss=LossConfig(penalties=WEIGHTS)))

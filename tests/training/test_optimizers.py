"""AdamW and Adafactor against NumPy in float64, and who is left out of what."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrt5_jax.config import OptimizerConfig
from mrt5_jax.training.optimizers import make_optimizer

STEPS = 50


def gradients_of(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {"kernel": rng.normal(size=(4, 3)) * 3.0, "scale": rng.normal(size=3)}


def applied(optimizer: optax.GradientTransformation):
    def apply(gradients, state, params):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return apply


def train(config: OptimizerConfig, params: dict, steps: int):
    optimizer = make_optimizer(config, STEPS)
    apply = jax.jit(applied(optimizer))
    state = optimizer.init(params)
    for step in range(steps):
        params, state = apply(gradients_of(step), state, params)
    return params


def adamw_oracle(config: OptimizerConfig, params: dict, steps: int) -> dict[str, np.ndarray]:
    """Loshchilov & Hutter 2019, algorithm 2, after clipping by the global norm; linear decay."""
    first = {name: np.zeros_like(value) for name, value in params.items()}
    second = {name: np.zeros_like(value) for name, value in params.items()}
    for step in range(steps):
        gradients = gradients_of(step)
        norm = np.sqrt(sum(np.sum(g**2) for g in gradients.values()))
        if config.clip_norm is not None and norm > config.clip_norm:
            gradients = {name: g * config.clip_norm / norm for name, g in gradients.items()}
        learning_rate = config.learning_rate * (1 - step / STEPS)
        for name, g in gradients.items():
            first[name] = config.b1 * first[name] + (1 - config.b1) * g
            second[name] = config.b2 * second[name] + (1 - config.b2) * g**2
            mean = first[name] / (1 - config.b1 ** (step + 1))
            variance = second[name] / (1 - config.b2 ** (step + 1))
            decay = config.weight_decay * params[name] if name == "kernel" else 0.0
            params = params | {name: params[name] - learning_rate * (mean / (np.sqrt(variance) + config.eps) + decay)}
    return params


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_equals_numpy(clip_norm, weight_decay):
    config = OptimizerConfig(learning_rate=1e-2, clip_norm=clip_norm, weight_decay=weight_decay)
    rng = np.random.default_rng(99)
    params = {"kernel": rng.normal(size=(4, 3)), "scale": rng.normal(size=3)}
    actual = train(config, params, 10)
    for name, expected in adamw_oracle(config, params, 10).items():
        np.testing.assert_allclose(actual[name], expected, rtol=1e-5, atol=1e-6)


def adafactor_oracle(learning_rate: float, params: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """Shazeer & Stern 2018, algorithms 4 and 5, on one matrix with dimensions of at least 128."""
    rows, columns = np.zeros(params.shape[0]), np.zeros(params.shape[1])
    for step, gradient in enumerate(gradients):
        decay = 1 - (step + 1) ** -0.8
        square = gradient**2 + 1e-30
        rows = decay * rows + (1 - decay) * square.mean(axis=1)
        columns = decay * columns + (1 - decay) * square.mean(axis=0)
        update = gradient / np.sqrt(np.outer(rows, columns) / rows.mean())
        update /= max(1.0, np.sqrt(np.mean(update**2)))
        params = params - learning_rate * max(np.sqrt(np.mean(params**2)), 1e-3) * update
    return params


def test_adafactor_equals_numpy_on_every_layer_of_a_scanned_stack():
    """Layers of very different sizes: factors, clipping or RMS shared between layers would show."""
    config = OptimizerConfig(name="adafactor", learning_rate=1e-2, schedule="constant", clip_norm=None)
    rng = np.random.default_rng(5)
    sizes = np.array([1e-5, 1.0, 30.0])[:, None, None]
    stack = rng.normal(size=(3, 128, 130)) * sizes
    table = rng.normal(size=(130, 128))
    params = {"encoder": {"suffix": {"kernel": stack}}, "token_embedder": {"embedding": table}}
    gradients = [
        {
            "encoder": {"suffix": {"kernel": rng.normal(size=stack.shape) / sizes**2}},
            "token_embedder": {"embedding": rng.standard_cauchy(table.shape)},
        }
        for _ in range(3)
    ]
    optimizer = make_optimizer(config, STEPS)
    apply = jax.jit(applied(optimizer))
    actual = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(actual)
    for gradient in gradients:
        actual, state = apply(jax.tree.map(jnp.asarray, gradient), state, actual)
    for layer in range(3):
        layer_gradients = [gradient["encoder"]["suffix"]["kernel"][layer] for gradient in gradients]
        expected = adafactor_oracle(1e-2, stack[layer], layer_gradients)
        np.testing.assert_allclose(
            actual["encoder"]["suffix"]["kernel"][layer], expected, rtol=1e-5, atol=1e-5 * float(sizes[layer, 0, 0])
        )
    expected = adafactor_oracle(1e-2, table, [gradient["token_embedder"]["embedding"] for gradient in gradients])
    np.testing.assert_allclose(actual["token_embedder"]["embedding"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_the_gate_learns_at_its_own_rate(name):
    params = {"gate": {"kernel": np.ones((4, 1), np.float32)}, "mlp": {"kernel": np.ones((4, 1), np.float32)}}
    config = OptimizerConfig(name=name, learning_rate=1e-4, gate_learning_rate=1e-2, clip_norm=None)
    optimizer = make_optimizer(config, STEPS)
    updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["gate"]["kernel"], 100 * updates["mlp"]["kernel"], rtol=1e-5)


def test_only_the_matrices_of_the_model_decay():
    params = {
        "encoder": {
            "gate": {"kernel": np.ones((4, 1)), "bias": np.ones(1)},
            "suffix": {
                "mlp": {"wi_0": {"kernel": np.ones((2, 3, 3))}},
                "pre_mlp_layer_norm": {"scale": np.ones((2, 3))},
            },
            "relpos_bias": {"rel_embedding": np.ones((2, 32))},
        },
        "token_embedder": {"embedding": np.ones((3, 3))},
    }
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, weight_decay=0.5), STEPS)
    updates, _ = jax.jit(optimizer.update)(jax.tree.map(np.zeros_like, params), optimizer.init(params), params)
    decayed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
        if np.all(np.asarray(leaf) != 0)
    }
    assert decayed == {"encoder/suffix/mlp/wi_0/kernel", "token_embedder/embedding"}
    np.testing.assert_allclose(updates["token_embedder"]["embedding"], -0.05, rtol=1e-6)

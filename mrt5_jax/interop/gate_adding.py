"""An MrT5 from a ByT5: a new delete gate, and the encoder's layers divided at it."""

import dataclasses

import jax
import numpy as np

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.interop import names
from mrt5_jax.interop.models import Model
from mrt5_jax.model.parameters import PREFIX, SUFFIX, Params


def add_gate(params: Params, config: ModelConfig, gate: GateConfig, seed: int) -> Model:
    """Adds a gate with the authors' initial values: Xavier uniform weights, and the bias that the config names.

    A large bias holds the gate open: the model is then still the ByT5 it was. Its own arrays are not copied.

    Args:
        params: parameter tree of a model without a gate.
        config: its config.
        gate: the gate to add.
        seed: of the gate's weights.

    Raises:
        UserError: the model has a gate already, or the encoder has no such layer to put it before.
    """
    if config.gate is not None:
        raise UserError(f"the model has a gate already, at layer {config.gate.layer}: nothing to add")
    if not 1 <= gate.layer < config.num_encoder_layers:
        raise UserError(
            f"--gate_layer={gate.layer}: the encoder's {config.num_encoder_layers} layers leave 1 to "
            f"{config.num_encoder_layers - 1}"
        )
    gated = dataclasses.replace(config, gate=gate)
    layers = params["encoder"][PREFIX]
    stacks = {
        PREFIX: jax.tree.map(lambda array: array[: gate.layer], layers),
        SUFFIX: jax.tree.map(lambda array: array[gate.layer :], layers),
    }
    new = {"encoder": {**params["encoder"], **stacks}}
    for name, value in _initial_values(gated, seed).items():
        names.assign(new, tuple(name.split("/")), value)
    return Model(gated, {**params, **new})


def _initial_values(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    assert config.gate is not None
    limit = np.sqrt(6 / (config.emb_dim + 1))  # Glorot and Bengio (2010), equation 16
    kernel = np.random.default_rng(seed).uniform(-limit, limit, (config.emb_dim, 1))
    values = {
        "encoder/gate/norm/scale": np.ones(config.emb_dim),
        "encoder/gate/kernel": kernel,
        "encoder/gate/bias": np.full(1, config.gate.bias_init),
    }
    return {tensor.name: values[tensor.name].astype(np.float32) for tensor in names.gate_tensors(config)}

"""Tiny random models, as flat names and as the folders that other systems write."""

import dataclasses

import numpy as np
import pytest

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.interop import names
from mrt5_jax.model.parameters import Params

BYT5 = ModelConfig(emb_dim=8, num_heads=2, head_dim=3, mlp_dim=5, num_encoder_layers=3, num_decoder_layers=2)


@pytest.fixture
def byt5() -> ModelConfig:
    """All sizes differ, so that no two axes can be confused."""
    return BYT5


@pytest.fixture
def mrt5() -> ModelConfig:
    return dataclasses.replace(BYT5, gate=GateConfig(layer=1, threshold=-15.0), softmax1=True)


@pytest.fixture
def random_params():
    """Makes random parameters of a config, the network's tree."""

    def make(config: ModelConfig, seed: int = 0) -> Params:
        return names.stack_layers(random_flat(config, seed), config)

    return make


@pytest.fixture
def flat_params():
    """Makes random parameters of a config, one entry a layer."""
    return random_flat


def random_flat(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        tensor.name: generator.normal(size=names.shape(tensor, config)).astype(np.float32)
        for tensor in names.tensors(config)
    }

"""A warm start takes every layer to its place and says where each parameter came from."""

import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.runs.checkpoints import save_model
from mrt5_jax.training.warm_start import warm_start

BYT5 = ModelConfig(emb_dim=4, num_heads=1, head_dim=4, mlp_dim=8, num_encoder_layers=5, num_decoder_layers=1)


def stack(layers, dtype="float32"):
    """Every layer holds its own number."""
    return {"mlp": {"wi_0": {"kernel": jnp.ones((len(layers), 2, 3), dtype) * jnp.array(layers, dtype)[:, None, None]}}}


def byt5(depth: int = 5, dtype: str = "float32") -> dict:
    return {"encoder": {"prefix": stack(range(depth), dtype)}, "decoder": {"layers": stack([7], dtype)}}


def mrt5(gate_layer: int, value: float = -1.0) -> dict:
    return {
        "encoder": {
            "prefix": stack([value] * gate_layer),
            "gate": {"kernel": jnp.full((4, 1), value)},
            "suffix": stack([value] * (5 - gate_layer)),
        },
        "decoder": {"layers": stack([value])},
    }


def layer_numbers(params: dict, name: str) -> list[float]:
    return np.asarray(params["encoder"][name]["mlp"]["wi_0"]["kernel"])[:, 0, 0].tolist()


def test_a_byt5_becomes_an_mrt5_layer_by_layer(tmp_path):
    save_model(tmp_path, byt5(), BYT5)
    start = warm_start(mrt5(gate_layer=2), tmp_path)
    assert layer_numbers(start.params, "prefix") == [0, 1]
    assert layer_numbers(start.params, "suffix") == [2, 3, 4]
    assert start.params["decoder"]["layers"]["mlp"]["wi_0"]["kernel"][0, 0, 0] == 7
    assert start.params["encoder"]["gate"]["kernel"][0, 0] == -1
    assert start.initialized == ("encoder/gate/kernel",)
    assert start.left_over == ()
    assert [line.split("  ")[-1].strip() for line in start.table().splitlines()] == [
        "restored",
        "newly initialised",
        "restored",
        "restored",
    ]


def test_an_mrt5_becomes_one_with_another_gate_layer_or_none(tmp_path):
    save_model(tmp_path, warm_start_from_byt5(tmp_path / "byt5"), BYT5)
    moved = warm_start(mrt5(gate_layer=4), tmp_path)
    assert layer_numbers(moved.params, "prefix") == [0, 1, 2, 3]
    assert layer_numbers(moved.params, "suffix") == [4]
    plain = warm_start(byt5(), tmp_path)
    assert layer_numbers(plain.params, "prefix") == [0, 1, 2, 3, 4]
    assert plain.left_over == ("encoder/gate/kernel",)


def warm_start_from_byt5(folder) -> dict:
    save_model(folder, byt5(), BYT5)
    return warm_start(mrt5(gate_layer=2), folder).params


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (byt5(depth=6), "has 6 encoder layers and this model 5"),
        (byt5(dtype="bfloat16"), r"decoder/layers/mlp/wi_0/kernel is bfloat16\[1, 2, 3\] there and float32"),
    ],
)
def test_another_depth_or_type_is_refused(tmp_path, theirs, message):
    save_model(tmp_path, theirs, BYT5)
    with pytest.raises(UserError, match=message):
        warm_start(mrt5(gate_layer=2), tmp_path)

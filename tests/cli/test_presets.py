"""Sizes in Python are those of the gin files; what is no size is refused."""

import re
from typing import Any, get_args

import pytest

from mrt5_jax import presets
from mrt5_jax.cli import gin_setup
from mrt5_jax.errors import UserError


@pytest.mark.parametrize("size", get_args(presets.Size))
@pytest.mark.parametrize("kind", ["byt5", "mrt5"])
def test_a_size_is_that_of_its_gin_file(kind: str, size: Any) -> None:
    run = gin_setup.resolve([f"models/{kind}_{size}.gin", "runs/base.gin"], bindings=REQUIRED).run
    assert getattr(presets, kind)(size) == run.model


REQUIRED = ["TRAIN_TASK='t'", "MODEL_DIR='m'", *(f"{name}=8" for name in ("INPUT_LENGTH", "TARGET_LENGTH"))]
REQUIRED += ["BATCH_SIZE=8", "TRAIN_STEPS=8"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: presets.mrt5("smal"), "size 'smal': should be tiny or small or base or large or xl or xxl; did you"),
        (lambda: presets.byt5("small", emb_dimm=3), "config.ModelConfig has no field emb_dimm; did you mean emb_dim?"),
        (lambda: presets.mrt5("small", gate_layer=12), "gate_layer=12: of small it should be from 1 to 11"),
        (lambda: presets.mrt5("tiny", gate_layer=0), "gate_layer=0: of tiny it should be from 1 to 2"),
        (
            lambda: presets.mrt5("tiny", gate_layer=2, num_encoder_layers=2),
            "gate_layer=2: of tiny it should be from 1 to 1",
        ),
    ],
)
def test_what_is_no_size_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        make()


def test_any_field_may_be_changed() -> None:
    assert presets.mrt5("small", gate_layer=5, dropout_rate=0.0).gate.layer == 5
    assert presets.byt5("tiny", emb_dim=64).emb_dim == 64

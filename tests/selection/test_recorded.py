"""H-Net's routing and MAGNET's losses against numbers that `recorded/record.py` wrote once, without NumPy or JAX."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import GateConfig
from mrt5_jax.data.vocabulary import encode
from mrt5_jax.selection.protocol import Selection
from mrt5_jax.selection.selectors import make_selector

from ..model.small import in_double, make_config

RECORDED = json.loads((Path(__file__).parent / "recorded/schemes.json").read_text(encoding="utf-8"))


def selected(gate: GateConfig, params: Any, states: list[Any], ids: np.ndarray) -> Selection:
    with jax.enable_x64(True):
        tokens = jnp.asarray(ids, jnp.int32)[None]
        variables = {"params": jax.tree.map(jnp.asarray, params)}
        given = jnp.asarray(states)[None], tokens, tokens > 0, None
        return jax.device_get(jax.jit(make_selector(in_double(make_config(gate=gate))).apply)(variables, *given))


def test_hnet_routing_and_ratio_loss_are_the_recorded_ones() -> None:
    known = RECORDED["hnet"]
    gate = GateConfig(1, "hnet", settings=(("downsampling", known["downsampling"]),))
    router = {"router": {name: np.array(known[name]) for name in ("query", "key")}}
    found = selected(gate, router, known["states"], np.full(len(known["states"]), 9))
    np.testing.assert_allclose(found.priority[0], known["p"], rtol=1e-9)
    np.testing.assert_array_equal(found.keep[0], np.array(known["p"]) >= 0.5)
    assert found.penalties["ratio"].total[0] == pytest.approx(known["loss"], rel=1e-9)


@pytest.mark.parametrize("row", RECORDED["magnet"]["rows"], ids=lambda row: row["text"])
def test_magnets_losses_are_the_recorded_ones(row: Any) -> None:
    known = RECORDED["magnet"]
    params = {name: np.array(value) for name, value in known["params"].items() if name != "scale"}
    params["norm"] = {"scale": np.array(known["params"]["scale"])}
    gate = GateConfig(1, "magnet", settings=tuple(known["priors"].items()))
    found = selected(gate, params, row["states"], encode(row["text"]))
    np.testing.assert_array_equal(found.keep[0], [True, *row["ends"][:-1]])
    assert found.penalties["boundaries"].total[0] == pytest.approx(row["loss"], rel=1e-9)

"""The parameter tree: what of it the stages before and after the gate read."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Params = dict[str, Any]


class Parts(NamedTuple):
    """Parameters of the model before and after the gate; embedding and relative biases are in both."""

    prefix: Params
    rest: Params


def split_parameters(params: Params) -> Parts:
    """The parameters that each part reads, so that gradients of neither part carry the other's zeros."""
    encoder = params["encoder"]
    before = {name: value for name, value in encoder.items() if name in ("relpos_bias", "prefix", "gate")}
    after = {name: value for name, value in encoder.items() if name in ("relpos_bias", "suffix", "encoder_norm")}
    shared = {"token_embedder": params["token_embedder"]}
    return Parts({**shared, "encoder": before}, {**shared, "encoder": after, "decoder": params["decoder"]})


def merge_gradients(gradients: Parts) -> Params:
    """The gradient of the whole tree: the parts', summed where both read a parameter."""
    before, after = gradients
    encoder = {**before["encoder"], **after["encoder"]}
    encoder["relpos_bias"] = jax.tree.map(jnp.add, before["encoder"]["relpos_bias"], after["encoder"]["relpos_bias"])
    embedder = jax.tree.map(jnp.add, before["token_embedder"], after["token_embedder"])
    return {"token_embedder": embedder, "encoder": encoder, "decoder": after["decoder"]}

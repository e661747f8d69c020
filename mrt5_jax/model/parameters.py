"""The parameter tree: what of it the stages before and after the gate read."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Params = dict[str, Any]


class StageParameters(NamedTuple):
    """Parameters of the stages before and after the gate; embedding and relative biases are in both."""

    first: Params
    second: Params


def split_stages(params: Params) -> StageParameters:
    """Returns the parameters that each stage reads, so that gradients of neither carry the other's zeros."""
    encoder = params["encoder"]
    before = {name: value for name, value in encoder.items() if name in ("relpos_bias", "prefix", "gate")}
    after = {name: value for name, value in encoder.items() if name in ("relpos_bias", "suffix", "encoder_norm")}
    shared = {"token_embedder": params["token_embedder"]}
    return StageParameters({**shared, "encoder": before}, {**shared, "encoder": after, "decoder": params["decoder"]})


def merge_gradients(gradients: StageParameters) -> Params:
    """Returns the gradient of the whole tree: the stages' gradients, summed where both read a parameter."""
    before, after = gradients
    encoder = {**before["encoder"], **after["encoder"]}
    encoder["relpos_bias"] = jax.tree.map(jnp.add, before["encoder"]["relpos_bias"], after["encoder"]["relpos_bias"])
    embedder = jax.tree.map(jnp.add, before["token_embedder"], after["token_embedder"])
    return {"token_embedder": embedder, "encoder": encoder, "decoder": after["decoder"]}

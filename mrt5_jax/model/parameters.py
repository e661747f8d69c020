"""The parameter tree: the names of its leaves, and what of it the stages before and after the gate read."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

Params = dict[str, Any]
"""Nested dictionary of parameter arrays, unboxed."""

PREFIX, SUFFIX, LAYERS = "prefix", "suffix", "layers"
"""The scanned stacks: the encoder's layers before and after the gate, and the decoder's layers."""
STACKS = (PREFIX, SUFFIX, LAYERS)
"""Names of the parts of the tree whose arrays have a leading axis of layers."""


def path_name(path: tuple) -> str:
    """Returns a leaf's place in its tree as a name, "encoder/gate/kernel", from JAX's path of keys."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def matches(name: str, parts: Iterable[str]) -> bool:
    """Says whether a parameter's name has one of `parts` in it, such as "gate" or "encoder/relpos_bias"."""
    return any(f"/{part}/" in f"/{name}/" for part in parts)


def stack_of(name: str) -> str | None:
    """Returns which of STACKS a parameter of this name belongs to; None where it has no axis of layers."""
    return next((part for part in name.split("/") if part in STACKS), None)


def split_stages(params: Params) -> tuple[Params, Params]:
    """Returns what the stages before and after the gate read, so that gradients of neither carry the other's zeros.

    Embedding and relative biases are in both.
    """
    encoder = params["encoder"]
    before = {name: value for name, value in encoder.items() if name in ("relpos_bias", "prefix", "gate")}
    names_after = ("relpos_bias", "pooling", "suffix", "encoder_norm")
    after = {name: value for name, value in encoder.items() if name in names_after}
    shared = {"token_embedder": params["token_embedder"]}
    return {**shared, "encoder": before}, {**shared, "encoder": after, "decoder": params["decoder"]}


def merge_gradients(before: Params, after: Params) -> Params:
    """Returns the gradient of the whole tree: those of the two stages, summed where both read a parameter."""
    encoder = {**before["encoder"], **after["encoder"]}
    encoder["relpos_bias"] = jax.tree.map(jnp.add, before["encoder"]["relpos_bias"], after["encoder"]["relpos_bias"])
    embedder = jax.tree.map(jnp.add, before["token_embedder"], after["token_embedder"])
    return {"token_embedder": embedder, "encoder": encoder, "decoder": after["decoder"]}

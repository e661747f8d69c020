"""The model from tokens to logits, deletion and compaction included, as functions of (parameters, batch).

Deletion decides who survives and with which attention bias; compaction decides in which static length the survivors
run. The two meet in `Survivors`, so a new deletion is a new line in `survivors`, and a new dispatch needs to know no
deletion.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.attention import Keys
from mrt5_jax.compaction.dispatch import switch_rung
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.plan import gather, plan
from mrt5_jax.config import Deletion
from mrt5_jax.dropout import NO_DROPOUT, Dropout, RowKeys
from mrt5_jax.gates import Selection, random_like, token_keys
from mrt5_jax.network import Compact, Decoded, MrT5, Prefix

Params = dict[str, Any]


class Survivors(NamedTuple):
    """The positions that stay, and their attention bias under soft deletion."""

    keep: Bool[Array, "batch length"]
    scores: Float[Array, "batch length"]
    bias: Float[Array, "batch length"] | None


class Parts(NamedTuple):
    """Parameters of the model before and after the gate; embedding and relative biases are in both."""

    prefix: Params
    rest: Params


class Rest(NamedTuple):
    """What follows the gate."""

    logits: Float[Array, "batch target vocab"]
    score_excess: Float[Array, " batch"]
    """Mean over all layers that see the gate, encoder and cross-attention."""


class Outputs(NamedTuple):
    logits: Float[Array, "batch target vocab"]
    mask: Bool[Array, "batch length"]
    """Positions with input."""
    keep: Bool[Array, "batch length"]
    """Positions that the gate keeps; under soft deletion those that hard deletion would keep."""
    selection: Selection | None
    kept_length: Int[Array, ""]
    """The static length that the rest of the model ran at."""


def compacts(deletion: Deletion) -> bool:
    """Whether a deletion removes positions, rather than masking them."""
    return deletion in ("hard", "random")


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


def run_prefix(
    model: MrT5,
    params: Params,
    tokens: Int[Array, "batch length"],
    dropout: Dropout = NO_DROPOUT,
    selector_keys: RowKeys | None = None,
) -> Prefix:
    return model.apply({"params": params}, tokens, dropout, selector_keys, method="prefix")


def run_rest(
    model: MrT5,
    params: Params,
    compact: Compact,
    decoder_input_tokens: Int[Array, "batch target"],
    dropout: Dropout = NO_DROPOUT,
    target_mask: Bool[Array, "batch target"] | None = None,
) -> Rest:
    encoded = model.apply({"params": params}, compact, dropout, method="suffix")
    decoded: Decoded = model.apply(
        {"params": params}, encoded, decoder_input_tokens, dropout, target_mask, method="decode"
    )
    return Rest(decoded.logits, jnp.mean(jnp.concatenate([encoded.score_excess, decoded.score_excess]), axis=0))


def survivors(
    mask: Bool[Array, "batch length"],
    selection: Selection | None,
    deletion: Deletion,
    selector_keys: RowKeys | None = None,
) -> Survivors:
    """Who stays under a deletion. A model without a gate deletes nothing, whatever the deletion."""
    if selection is None or deletion == "none":
        return Survivors(mask, mask.astype(jnp.float32), None)
    if deletion == "soft":
        return Survivors(mask, selection.scores, selection.bias)
    if deletion == "random":
        assert selector_keys is not None
        selection = random_like(selection, mask, selector_keys)
    return Survivors(selection.keep, selection.scores, None)


def compact_full(
    hidden: Float[Array, "batch length embed"], mask: Bool[Array, "batch length"], who: Survivors
) -> Compact:
    """All positions, nothing moved."""
    return Compact(hidden, jnp.arange(hidden.shape[1])[None], Keys(who.keep & mask, who.bias))


def compact_to(hidden: Float[Array, "batch length embed"], who: Survivors, kept_length: int) -> Compact:
    """The survivors moved together into `kept_length` slots; the slots left over are masked."""
    to = plan(who.keep, kept_length)
    bias = None if who.bias is None else jnp.where(to.mask, gather(who.bias, to.positions), 0)
    return Compact(gather(hidden, to.positions), to.positions, Keys(to.mask, bias))


def forward(
    model: MrT5,
    params: Params,
    batch: dict[str, Array],
    deletion: Deletion,
    ladder: Ladder,
    selector_keys: RowKeys | None = None,
) -> Outputs:
    """Teacher-forced logits of a batch, in one program whatever is kept.

    Args:
      batch: `encoder_input_tokens` and `decoder_input_tokens`.
      ladder: the lengths that deletions with compaction run at; the batch's fullest row chooses.
      selector_keys: what random deletion draws from; by default the row's tokens.
    """
    parts = split_parameters(params)
    tokens, decoder_input_tokens = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
    prefix = run_prefix(model, parts.prefix, tokens)
    keys = token_keys(tokens) if selector_keys is None else selector_keys
    who = survivors(prefix.mask, prefix.selection, deletion, keys)
    if prefix.selection is None or not compacts(deletion):
        compact = compact_full(prefix.hidden, prefix.mask, who)
        rest = run_rest(model, parts.rest, compact, decoder_input_tokens)
        kept = prefix.mask if prefix.selection is None or deletion == "none" else prefix.selection.keep
        return Outputs(rest.logits, prefix.mask, kept, prefix.selection, jnp.asarray(tokens.shape[1]))

    def at(kept_length: int):
        def branch(hidden: Array, who: Survivors) -> Array:
            return run_rest(model, parts.rest, compact_to(hidden, who, kept_length), decoder_input_tokens).logits

        return branch

    switched = switch_rung(ladder, jnp.sum(who.keep, axis=1), at, prefix.hidden, who)
    return Outputs(switched.result, prefix.mask, who.keep, prefix.selection, switched.rung)

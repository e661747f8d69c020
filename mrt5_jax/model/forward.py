"""The model from tokens to logits, deletion and compaction included, as functions of (parameters, batch).

Deletion decides who survives and with which attention bias; compaction decides in which static length the survivors
run. The two meet in `Survivors`, so a new deletion is a new line in `survivors`, and a new dispatch needs to know no
deletion.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.compaction.dispatch import Body, ChunkResult, Ran, run_in_graph
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.plan import Kept, count_kept, gather, plan, restrict
from mrt5_jax.compaction.rows import Chunked, chunk_rows, restore_rows
from mrt5_jax.config import Deletion
from mrt5_jax.model.dropout import NO_DROPOUT, Dropout, RowKeys
from mrt5_jax.model.encoder_decoder import Compact, MrT5, Prefix
from mrt5_jax.model.layers import Keys, Queries
from mrt5_jax.model.parameters import Params, split_parameters
from mrt5_jax.selection.gates import Selection, token_keys
from mrt5_jax.selection.survivors import Survivors, compacts, survivors


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
    """Positions that the gate keeps; under soft deletion those that hard deletion would keep. What a capacity dropped
    of them is in `dropped` alone."""
    selection: Selection | None
    kept_length: Int[Array, " batch"]
    """The static length that the rest of the model ran at for each row."""
    dropped: Int[Array, " batch"]
    """Positions that a capacity had no slot for."""


def run_prefix(
    model: MrT5,
    params: Params,
    tokens: Int[Array, "batch length"],
    dropout: Dropout = NO_DROPOUT,
    selector_keys: RowKeys | None = None,
    segments: Int[Array, "batch length"] | None = None,
) -> Prefix:
    prefix: Any = model.apply({"params": params}, tokens, dropout, selector_keys, segments, method="prefix")
    return prefix


def run_rest(
    model: MrT5,
    params: Params,
    compact: Compact,
    decoder_input_tokens: Int[Array, "batch target"],
    dropout: Dropout = NO_DROPOUT,
    targets: Queries | None = None,
) -> Rest:
    encoded: Any = model.apply({"params": params}, compact, dropout, method="suffix")
    decoded: Any = model.apply({"params": params}, encoded, decoder_input_tokens, dropout, targets, method="decode")
    return Rest(decoded.logits, jnp.mean(jnp.concatenate([encoded.score_excess, decoded.score_excess]), axis=0))


def fit(who: Survivors, ladder: Ladder) -> Kept:
    """The survivors that a ladder has slots for: all of them, except under a capacity."""
    if ladder.rungs[-1] >= who.keep.shape[1]:
        return Kept(who.keep, jnp.zeros(who.keep.shape[0], jnp.int32))
    return restrict(who.keep, jax.lax.stop_gradient(who.scores), ladder.rungs[-1], who.segments)


def compact_full(
    hidden: Float[Array, "batch length embed"], mask: Bool[Array, "batch length"], who: Survivors
) -> Compact:
    """All positions, nothing moved."""
    return Compact(hidden, jnp.arange(hidden.shape[1])[None], Keys(who.keep & mask, who.bias, who.segments))


def compact_to(hidden: Float[Array, "batch length embed"], who: Survivors, kept_length: int) -> Compact:
    """The survivors moved together into `kept_length` slots; the slots left over are masked."""
    to = plan(who.keep, kept_length)
    bias = None if who.bias is None else jnp.where(to.mask, gather(who.bias, to.positions), 0)
    segments = None if who.segments is None else gather(who.segments, to.positions)
    return Compact(gather(hidden, to.positions), to.positions, Keys(to.mask, bias, segments))


def compact_at(
    hidden: Float[Array, "batch length embed"], mask: Bool[Array, "batch length"], who: Survivors, kept_length: int
) -> Compact:
    """The survivors in a static length. At the full length nothing is moved, which is cheaper and no different."""
    if kept_length == hidden.shape[1]:
        return compact_full(hidden, mask, who)
    return compact_to(hidden, who, kept_length)


class ForwardSetting(NamedTuple):
    """What is static about a forward pass."""

    model: MrT5
    deletion: Deletion
    ladder: Ladder
    """The lengths that deletions with compaction run at."""
    num_chunks: int = 1
    num_shards: int = 1
    """Devices that the rows are spread over; each sorts its own rows into chunks."""


class ForwardRows(NamedTuple):
    """What the rest of the model needs of some rows."""

    hidden: Float[Array, "rows length embed"]
    mask: Bool[Array, "rows length"]
    who: Survivors
    own: Any
    """Pytree of arrays [rows ...]: what else the body reads of its rows."""

    def compact(self, kept_length: int) -> Compact:
        """See `compact_at`."""
        return compact_at(self.hidden, self.mask, self.who, kept_length)


class ForwardTargets(NamedTuple):
    """What teacher forcing reads of its rows."""

    decoder_input_tokens: Int[Array, "rows target"]
    decoder_segments: Int[Array, "rows target"] | None


class ForwardAtGate(NamedTuple):
    """Where the prefix ends; crosses from one compiled program to another."""

    chunked: Chunked
    """Of ForwardRows."""
    mask: Bool[Array, "batch length"]
    keep: Bool[Array, "batch length"]
    """As in `Outputs`."""
    selection: Selection | None
    dropped: Int[Array, " batch"]


def forward(
    setting: ForwardSetting, params: Params, batch: dict[str, Array], selector_keys: RowKeys | None = None
) -> Outputs:
    """Teacher-forced logits of a batch, in one program whatever is kept.

    Args:
      batch: `encoder_input_tokens` and `decoder_input_tokens`; of packed rows, `encoder_segment_ids` and
        `decoder_segment_ids` as well.
      selector_keys: what random deletion draws from; by default the row's tokens.
    """
    at_gate = forward_begin(setting, params, batch, selector_keys)
    shared, chunks = split_parameters(params).rest, at_gate.chunked
    return forward_finish(
        at_gate, run_in_graph(forward_lengths(setting), forward_rest(setting), shared, chunks.rows, chunks.most)
    )


def forward_lengths(setting: ForwardSetting) -> Ladder:
    """The lengths that the rest of the model runs at; the full one where nothing is removed."""
    if setting.model.config.gate is not None and compacts(setting.deletion):
        return setting.ladder
    return Ladder((setting.ladder.full_length,))


def forward_begin(
    setting: ForwardSetting, params: Params, batch: dict[str, Array], selector_keys: RowKeys | None = None
) -> ForwardAtGate:
    """Runs the model up to the gate for teacher forcing, see `forward`."""
    targets = ForwardTargets(batch["decoder_input_tokens"], batch.get("decoder_segment_ids"))
    segments = batch.get("encoder_segment_ids")
    return run_to_gate(setting, params, batch["encoder_input_tokens"], targets, segments, selector_keys)


def run_to_gate(
    setting: ForwardSetting,
    params: Params,
    tokens: Int[Array, "batch length"],
    own: Any,
    segments: Int[Array, "batch length"] | None = None,
    selector_keys: RowKeys | None = None,
) -> ForwardAtGate:
    """Runs the model up to the gate, and sorts the rows into chunks.

    Args:
      own: pytree of arrays [batch ...] that go with the rows.
      segments: of packed rows, the example of each position.
      selector_keys: what random deletion draws from; by default the row's tokens.
    """
    prefix = run_prefix(setting.model, split_parameters(params).prefix, tokens, segments=segments)
    keys = token_keys(tokens) if selector_keys is None else selector_keys
    who = survivors(prefix.mask, prefix.selection, setting.deletion, keys, segments=segments)
    fitted = fit(who, forward_lengths(setting))
    soft = prefix.selection is not None and setting.deletion == "soft"
    kept = prefix.selection.keep if soft and prefix.selection is not None else who.keep
    rows = ForwardRows(
        _nan_without_gate_value(prefix, setting.deletion), prefix.mask, who._replace(keep=fitted.keep), own
    )
    chunked = chunk_rows(rows, count_kept(fitted.keep), setting.num_chunks, setting.num_shards)
    return ForwardAtGate(chunked, prefix.mask, kept, prefix.selection, fitted.dropped)


def _nan_without_gate_value(prefix: Prefix, deletion: Deletion) -> Float[Array, "batch length embed"]:
    """The hidden states, all NaN in rows of which a gate value is: nothing finite may come from such a deletion."""
    if prefix.selection is None or deletion == "none":
        return prefix.hidden
    lost = jnp.any(jnp.isnan(prefix.selection.bias) & prefix.mask, axis=1)
    return jnp.where(lost[:, None, None], jnp.nan, prefix.hidden)


def forward_rest(setting: ForwardSetting) -> Body:
    """From a rung to the logits of some rows, compiled for that length."""

    def at(kept_length: int) -> Callable[[Params, ForwardRows], ChunkResult]:
        def run(params: Params, rows: ForwardRows) -> ChunkResult:
            ids, segments = rows.own
            targets = Queries(jnp.ones(ids.shape, bool), segments)
            return ChunkResult(
                (), run_rest(setting.model, params, rows.compact(kept_length), ids, targets=targets).logits
            )

        return run

    return at


def forward_finish(at_gate: ForwardAtGate, ran: Ran) -> Outputs:
    """Puts the rows in the batch's order again."""
    logits, rungs = restore_rows(ran.by_row(), at_gate.chunked.order)
    return Outputs(logits, at_gate.mask, at_gate.keep, at_gate.selection, rungs, at_gate.dropped)

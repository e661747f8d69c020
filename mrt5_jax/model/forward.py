"""The model from tokens to logits, deletion and compaction included, as functions of (parameters, batch).

A deletion decides which positions survive and which signals go with them; compaction decides in which static length the
survivors run. The two meet in `GateRows`: a new deletion needs to know no dispatch, and a new dispatch no deletion.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.plan import count_kept, gather, plan, restrict
from mrt5_jax.compaction.rows import Arrays
from mrt5_jax.compaction.staged import Begun, Part, Staged, in_graph
from mrt5_jax.config import Deletion, TrainingDeletion
from mrt5_jax.model.dropout import NO_DROPOUT, Dropout, RowKeys
from mrt5_jax.model.encoder_decoder import Compact, Decoded, MrT5, Prefix, hidden_of_known
from mrt5_jax.model.layers import Keys, Queries
from mrt5_jax.model.parameters import Params, split_stages
from mrt5_jax.selection.deletions import DELETIONS, removes_positions
from mrt5_jax.selection.protocol import Selection, Signals, straight_through
from mrt5_jax.selection.random_choice import token_keys
from mrt5_jax.selection.reductions import Members
from mrt5_jax.selection.selectors import check_deletion
from mrt5_jax.selection.survivors import Survivors, handed_signals, survivors

DeviceBatch = Mapping[str, Array]
"""A batch as `data.arrangements.Batch` describes it, or what a stage reads of it, in arrays on the devices."""

NO_SIGNALS = Signals()


class AtGate(NamedTuple):
    """What is known of a batch at the gate, whatever follows."""

    mask: Bool[Array, "batch length"]
    """Positions with input."""
    keep: Bool[Array, "batch length"]
    """Positions that the gate keeps; under a deletion that removes none of them, those that hard deletion would keep.
    What a capacity dropped of them is in `dropped` alone."""
    selection: Selection | None
    dropped: Int[Array, " batch"]
    """Positions that a capacity had no slot for."""
    with_slot: Bool[Array, "batch length"] | None = None
    """Of `keep`, the positions that have a slot; None where only their number is known."""

    @property
    def rescued(self) -> Bool[Array, " batch"]:
        """Rows that the selector would have emptied."""
        if self.selection is None:
            return jnp.zeros(self.mask.shape[0], bool)
        return self.selection.statistics["rescued"] > 0


class GateRows(NamedTuple):
    """Some rows at the gate: what the second stage reads of them."""

    hidden: Float[Array, "rows length embed"]
    signals: Signals
    mask: Bool[Array, "rows length"]
    survivors: Survivors
    own: Arrays
    """[rows ...]: what else a body reads of its rows."""

    def compact(self, slots: int) -> Compact:
        """See `compact_at`."""
        return compact_at(self.hidden, self.mask, self.survivors, slots, self.signals)


class Outputs(NamedTuple):
    """What a teacher-forced pass returns."""

    logits: Float[Array, "batch target vocab"]
    at_gate: AtGate
    rungs: Int[Array, " batch"]
    """The static length that the second stage ran at for each row."""


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


def run_second_stage(
    model: MrT5,
    params: Params,
    compact: Compact,
    decoder_input_tokens: Int[Array, "batch target"],
    dropout: Dropout = NO_DROPOUT,
    targets: Queries | None = None,
) -> Decoded:
    """Runs the layers after the gate: the rest of the encoder, and the decoder."""
    encoded: Any = model.apply({"params": params}, compact, dropout, method="suffix")
    decoded: Any = model.apply({"params": params}, encoded, decoder_input_tokens, dropout, targets, method="decode")
    return decoded


def fit(found: Survivors, ladder: Ladder) -> Bool[Array, "batch length"]:
    """Returns which survivors a ladder has slots for: all of them, except under a capacity."""
    if ladder.rungs[-1] >= found.keep.shape[1]:
        return found.keep
    return restrict(found.keep, found.priority, ladder.rungs[-1], found.segments)


def compact_full(
    hidden: Float[Array, "batch length embed"],
    mask: Bool[Array, "batch length"],
    found: Survivors,
    signals: Signals = NO_SIGNALS,
) -> Compact:
    """Returns all positions, nothing moved."""
    keys = Keys(found.keep & mask, signals.key_bias, found.segments)
    return Compact(_confident(hidden, signals.confidence), jnp.arange(hidden.shape[1])[None], keys)


def compact_to(
    hidden: Float[Array, "batch length embed"], found: Survivors, slots: int, signals: Signals = NO_SIGNALS
) -> Compact:
    """Moves the survivors together into so many slots; the slots left over are masked."""
    to = plan(found.keep, slots)
    bias = None if signals.key_bias is None else jnp.where(to.mask, gather(signals.key_bias, to.positions), 0)
    segments = None if found.segments is None else gather(found.segments, to.positions)
    confidence = None if signals.confidence is None else gather(signals.confidence, to.positions)
    kept = _confident(gather(hidden, to.positions), confidence)
    return Compact(kept, to.positions, Keys(to.mask, bias, segments))


def _confident(
    hidden: Float[Array, "batch slots embed"], confidence: Float[Array, "batch slots"] | None
) -> Float[Array, "batch slots embed"]:
    """Multiplies states by 1 with the gradient of the confidence: by it the loss reaches a selector that gathers."""
    if confidence is None:
        return hidden
    return (hidden * (1 + straight_through(confidence))[..., None]).astype(hidden.dtype)


def compact_pooled(
    hidden: Float[Array, "batch length embed"],
    mask: Bool[Array, "batch length"],
    found: Survivors,
    slots: int,
    signals: Signals = NO_SIGNALS,
) -> Compact:
    """Returns so many slots, each for a survivor and what is merged into it; a reduction pools them."""
    assert found.merged_into is not None
    to = plan(found.keep, slots)
    segments = None if found.segments is None else gather(found.segments, to.positions)
    members = Members(found.keep, found.merged_into, mask, signals.weights)
    return Compact(hidden, to.positions, Keys(to.mask, None, segments), members)


def compact_at(
    hidden: Float[Array, "batch length embed"],
    mask: Bool[Array, "batch length"],
    found: Survivors,
    slots: int,
    signals: Signals = NO_SIGNALS,
) -> Compact:
    """Returns the survivors in a static length. At the full length nothing is moved: cheaper, and no different."""
    if found.merged_into is not None:
        return compact_pooled(hidden, mask, found, slots, signals)
    if slots == hidden.shape[1]:
        return compact_full(hidden, mask, found, signals)
    return compact_to(hidden, found, slots, signals)


def lengths_under(model: MrT5, deletion: Deletion | TrainingDeletion, ladder: Ladder) -> Ladder:
    """Returns the lengths that the second stage runs at; the full one where nothing is removed."""
    if model.config.gate is not None and removes_positions(deletion):
        return ladder
    return Ladder((ladder.full_length,))


@dataclasses.dataclass(frozen=True)
class ForwardSetting:
    """What is static about a forward pass."""

    model: MrT5
    deletion: Deletion
    ladder: Ladder
    """The lengths that deletions that remove positions run at."""
    num_chunks: int = 1
    num_shards: int = 1
    """Devices that the rows are spread over; each sorts its own rows into chunks."""

    def staged(
        self,
        begin: Callable[..., Begun],
        body: Callable[[int], Callable[..., Part]],
        finish: Callable[..., Part],
    ) -> Staged:
        """Returns a computation of these stages without a gradient; it shares nothing and adds nothing up."""
        return Staged(
            begin,
            body,
            finish,
            lengths_under(self.model, self.deletion, self.ladder),
            split_stages,
            num_chunks=self.num_chunks,
            num_shards=self.num_shards,
        )


def up_to_gate(
    setting: ForwardSetting,
    params: Params,
    tokens: Int[Array, "batch length"],
    own: Arrays,
    segments: Int[Array, "batch length"] | None = None,
    selector_keys: RowKeys | None = None,
) -> Begun:
    """Runs the model up to the gate.

    Args:
      own: pytree of arrays [batch ...] that go with the rows.
      segments: of packed rows, the example of each position.
      selector_keys: what random deletion draws from; by default the row's tokens.
    """
    rule = DELETIONS[setting.deletion]
    check_deletion(setting.model.config.gate, setting.deletion, "deletion")
    prefix = run_prefix(setting.model, params, tokens, segments=segments)
    keys = token_keys(tokens) if selector_keys is None else selector_keys
    found = survivors(prefix.mask, prefix.selection, setting.deletion, keys, segments=segments)
    fitted = fit(found, lengths_under(setting.model, setting.deletion, setting.ladder))
    selection = prefix.selection if rule.heeds_selector else None
    hidden = prefix.hidden if selection is None else hidden_of_known(prefix)
    kept = selection.keep if selection is not None and rule.biases_attention else found.keep
    signals = handed_signals(prefix.selection, setting.deletion)
    rows = GateRows(hidden, signals, prefix.mask, found._replace(keep=fitted), own)
    num_fitted = count_kept(fitted)
    dropped = count_kept(found.keep) - num_fitted
    return Begun(rows, num_fitted, AtGate(prefix.mask, kept, selection, dropped, kept & fitted))


def teacher_forced(
    setting: ForwardSetting, measure: Callable[[Float[Array, "rows target vocab"], DeviceBatch], Any]
) -> Callable[[int], Callable[[Params, tuple[()], GateRows], Part]]:
    """Returns a function from a rung to what `measure` makes of the logits of some rows.

    Args:
      measure: (logits, the rows' `decoder_...` arrays) -> pytree of arrays [rows ...].
    """

    def at(slots: int) -> Callable[[Params, tuple[()], GateRows], Part]:
        def run(params: Params, shared: tuple[()], rows: GateRows) -> Part:
            ids = rows.own["decoder_input_tokens"]
            targets = Queries(jnp.ones(ids.shape, bool), rows.own.get("decoder_segment_ids"))
            after = run_second_stage(setting.model, params, rows.compact(slots), ids, targets=targets)
            return Part((), measure(after.logits, rows.own))

        return run

    return at


def targets_of(batch: DeviceBatch) -> DeviceBatch:
    """Returns what the decoder and the loss read of a batch."""
    return {name: array for name, array in batch.items() if name.startswith("decoder_")}


def forward(
    setting: ForwardSetting, params: Params, batch: DeviceBatch, selector_keys: RowKeys | None = None
) -> Outputs:
    """Returns the teacher-forced logits of a batch, in one program whatever is kept.

    Args:
      batch: `encoder_input_tokens` and `decoder_input_tokens`; of packed rows, `encoder_segment_ids` and
        `decoder_segment_ids` as well.
      selector_keys: what random deletion draws from; by default the row's tokens.
    """

    def begin(params: Params, shared: tuple[()], batch: DeviceBatch) -> Begun:
        tokens, segments = batch["encoder_input_tokens"], batch.get("encoder_segment_ids")
        return up_to_gate(setting, params, tokens, targets_of(batch), segments, selector_keys)

    def finish(at_gate: AtGate, logits: Float[Array, "batch target vocab"], rungs: Int[Array, " batch"]) -> Part:
        return Part((), Outputs(logits, at_gate, rungs))

    staged = setting.staged(begin, teacher_forced(setting, lambda logits, targets: logits), finish)
    return in_graph(staged)(params, (), batch).rows

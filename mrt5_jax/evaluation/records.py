"""One record an example and deletion: what an evaluation leaves behind, and what all tables are made of."""

import functools
import itertools
import json
import math
import types
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

from mrt5_jax.compaction.ladder import BodyCost
from mrt5_jax.config import Deletion
from mrt5_jax.errors import UserError
from mrt5_jax.objectives.metrics import Mean
from mrt5_jax.runs.files import AnyPath, read_bytes
from mrt5_jax.selection.deletions import GAP

RECORD_SCHEMA = 3
"""What `to_json_lines` writes.

Schema 2 lacks `kept_spans`; 1 did not name itself, and lacks all fields from `num_text_bytes` on.
"""

_SCHEMA_FIELD = "schema"


class Record(NamedTuple):
    """One example under one deletion. Counts leave padding out and have the end of the sequence in."""

    task: str
    language: str
    """Empty where the task has no languages."""
    index: int
    """Within the task's split."""
    deletion: Deletion
    nll: float
    """Summed over the target tokens, nats."""
    num_target_tokens: int
    num_correct_tokens: int
    """Target tokens that have the highest logit, given the targets before them."""
    sequence_correct: bool
    num_input_tokens: int
    num_kept_tokens: int
    """Under soft deletion: those that hard deletion would keep. Without those dropped."""
    rung: int
    """Slots that the encoder's rest ran with; the batch's fullest row chooses."""
    rescued: bool
    """Whether everything had been deleted, so that the best-scoring token was kept."""
    prediction: str
    """The tokens with the highest logits, given the targets before them, as far as the target goes."""
    num_dropped_tokens: int = 0
    """Tokens that the gate keeps and a capacity had no slot for."""
    input_length: int = 0
    """Slots that its batch would run with if nothing were removed; 0 in records of versions that did not say."""
    num_text_bytes: int = -1
    """Target tokens that are bytes of text: neither the end of the sequence nor sentinels. -1 where nobody counted."""
    mixture: str = ""
    """The task or mixture that the evaluation was asked for."""
    split: str = ""
    model: str = ""
    """The last part of what the model was loaded from."""
    model_kind: str = "encoder-decoder"
    step: int = -1
    """Of the checkpoint; -1 where nobody said."""
    threshold: float | None = None
    """What gate values were compared with; None: the model has none."""
    search: str = ""
    """How `generated` was chosen; empty where nothing was generated."""
    generated: str | None = None
    """What the model wrote, given the input alone."""
    generated_correct: bool = False
    """Whether it wrote exactly the ids of the target, none of which was cut off."""
    generated_score: float | None = None
    """Log-probability of what it wrote, nats."""
    metrics: dict[str, float] | None = None
    """The task's own metrics of this example alone, in the task's units; None where nothing was generated."""
    label_scores: dict[str, float] | None = None
    """Log-probability of each label of a classification, nats; None where none was computed."""
    label_correct: bool = False
    """Whether the most probable label is the target."""
    kept_spans: list[list[int]] | None = None
    """The positions that `num_kept_tokens` counts, as [start, end) in order; None in records that do not say."""


def summarize(records: Iterable[Record], body: BodyCost | None = None) -> dict[str, float]:
    """Computes the metrics of `objectives.metrics` over all records, in float64; NaN where nothing was counted.

    loss, bits_per_byte, token_accuracy, sequence_accuracy: per target token, or per row with target tokens.
    deletion_rate: inputs that the gate deletes / inputs. kept_length, dropped, rung, rescued: per row with input.
    saved, saved_if_exact: shares of the multiply-adds after the gate, at full length, of rows with input.

    Args:
        body: the model's multiply-adds after the gate; None: nothing is said of what was saved.
    """
    records = list(records)
    nll = tokens = correct = sequences = sequences_correct = 0.0
    inputs = kept = dropped = rows = rungs = rescued = 0.0
    for record in records:
        nll += record.nll
        tokens += record.num_target_tokens
        correct += record.num_correct_tokens
        sequences += record.num_target_tokens > 0
        sequences_correct += record.sequence_correct and record.num_target_tokens > 0
        inputs += record.num_input_tokens
        kept += record.num_kept_tokens
        dropped += record.num_dropped_tokens
        if record.num_input_tokens:
            rows += 1
            rungs += record.rung
            rescued += record.rescued
    means = {
        "loss": Mean(nll, tokens),
        "bits_per_byte": Mean(nll / math.log(2), tokens),
        "token_accuracy": Mean(correct, tokens),
        "sequence_accuracy": Mean(sequences_correct, sequences),
        "deletion_rate": Mean(inputs - kept - dropped, inputs),
        "kept_length": Mean(kept, rows),
        "dropped": Mean(dropped, rows),
        "rung": Mean(rungs, rows),
        "rescued": Mean(rescued, rows),
    }
    if body is not None:
        means |= _savings(records, body)
    # Not Mean.value, which is of the device and so float32.
    return {name: float(total) / float(weight) if weight else math.nan for name, (total, weight) in means.items()}


def _savings(records: Sequence[Record], body: BodyCost) -> dict[str, Mean]:
    """What the slots saved, and what exact lengths would have, of records that say how long their batches were."""
    work = functools.cache(body)
    known = [record for record in records if record.num_input_tokens and record.input_length]
    full = sum(work(record.input_length) for record in known)
    ran = sum(work(record.rung) for record in known)
    exact = sum(work(record.num_kept_tokens) for record in known)
    return {"saved": Mean(full - ran, full), "saved_if_exact": Mean(full - exact, full)}


def group_by(records: Iterable[Record], field: str) -> dict[str, list[Record]]:
    """Returns the records of each task, or of each language, in order of appearance.

    Args:
        field: the field of `Record` that tells the groups apart.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(getattr(record, field), []).append(record)
    return groups


def of_deletion(records: Iterable[Record], deletion: Deletion) -> list[Record]:
    """Returns the records of one deletion."""
    return [record for record in records if record.deletion == deletion]


def deletions_in(records: Iterable[Record]) -> list[Deletion]:
    """Returns the deletions that records are of, in order of appearance."""
    return list(dict.fromkeys(record.deletion for record in records))


def soft_hard_gap(records: Sequence[Record]) -> float | None:
    """Returns hard deletion's cross-entropy minus soft deletion's, nats per target token; None unless there are both.

    Far above zero, the model looks through soft deletion's bias at positions that hard deletion takes away.
    """
    if not set(GAP) <= set(deletions_in(records)):
        return None
    before, after = (summarize(of_deletion(records, deletion))["loss"] for deletion in GAP)
    return after - before


def to_json_lines(records: Iterable[Record]) -> str:
    """Writes one JSON object a line: the schema, and the fields of `Record`."""
    schema = {_SCHEMA_FIELD: RECORD_SCHEMA}
    return "".join(
        json.dumps(schema | record._asdict(), ensure_ascii=False, allow_nan=False) + "\n" for record in records
    )


def read_records(path: AnyPath) -> list[Record]:
    """Reads the records of a file that `to_json_lines` made, of this version or an earlier one.

    Raises:
        UserError: the file is not there, or a line is no record, or one of a newer schema; the message has the line's
            number.
    """
    try:
        lines = read_bytes(path).split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; `mrt5 eval` writes such files") from None
    return [_record(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]


_KINDS = get_type_hints(Record)


def _record(line: bytes, place: str) -> Record:
    try:
        values = json.loads(line, parse_constant=_refuse_number)
    except ValueError as error:
        raise UserError(f"{place} is not JSON: {error}") from None
    if isinstance(values, dict):
        schema = values.pop(_SCHEMA_FIELD, 1)
        if type(schema) is not int or schema < 1:
            raise UserError(f"{place}: schema is {schema!r}, no number of a schema: the file is damaged")
        if schema > RECORD_SCHEMA:
            raise UserError(
                f"{place}: a record of schema {schema}, and this version of mrt5_jax reads up to {RECORD_SCHEMA}: "
                "read it with the version that wrote it, or a later one"
            )
    fields, optional = set(Record._fields), set(Record._field_defaults)  # records of older versions lack some
    if not isinstance(values, dict) or not fields - optional <= set(values) <= fields:
        raise UserError(f"{place} is no record: expected the fields {', '.join(Record._fields)}")
    values = Record._field_defaults | values
    for name, kind in _KINDS.items():
        if not _is_a(values[name], kind):
            shown = kind.__name__ if isinstance(kind, type) else str(kind).removeprefix("typing.")
            raise UserError(f"{place}: {name} is {values[name]!r}, not of type {shown}")
    if not _are_spans(values["kept_spans"] or []):
        raise UserError(f"{place}: kept_spans is {values['kept_spans']!r}, no spans [start, end) in order")
    return Record(**values)


def _are_spans(spans: list[list[int]]) -> bool:
    edges = [-1, *(edge for span in spans for edge in span)]
    return all(len(span) == 2 for span in spans) and all(a < b for a, b in itertools.pairwise(edges))


def _refuse_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of the type of a field."""
    if isinstance(kind, types.UnionType):
        return any(_is_a(value, one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_a(one, *get_args(kind)) for one in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_is_a(one, float) for one in value.values())
    return type(value) is kind or (kind is float and type(value) is int)

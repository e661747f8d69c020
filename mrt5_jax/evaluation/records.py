"""One record an example and deletion: what an evaluation leaves behind, and what all tables are made of."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, get_type_hints

from mrt5_jax.config import Deletion
from mrt5_jax.errors import UserError
from mrt5_jax.objectives.metrics import Mean
from mrt5_jax.runs.files import AnyPath, read_bytes
from mrt5_jax.selection.deletions import GAP


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


def summarize(records: Iterable[Record]) -> dict[str, float]:
    """Computes the metrics of `objectives.metrics` over all records, in float64; NaN where nothing was counted.

    loss, bits_per_byte, token_accuracy, sequence_accuracy: per target token, or per row with target tokens.
    deletion_rate: inputs that the gate deletes / inputs. kept_length, dropped, rung, rescued: per row with input.
    """
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
    # Not Mean.value, which is of the device and so float32.
    return {name: float(total) / float(weight) if weight else math.nan for name, (total, weight) in means.items()}


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
    """Writes one JSON object a line, with the fields of `Record`."""
    return "".join(json.dumps(record._asdict(), ensure_ascii=False, allow_nan=False) + "\n" for record in records)


def read_records(path: AnyPath) -> list[Record]:
    """Reads the records of a file that `to_json_lines` made.

    Raises:
        UserError: the file is not there, or a line is no record; the message has the line's number.
    """
    try:
        lines = read_bytes(path).split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; `mrt5 eval` writes such files") from None
    return [_record(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _record(line: bytes, place: str) -> Record:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place} is not JSON: {error}") from None
    fields, optional = set(Record._fields), set(Record._field_defaults)  # records of older versions lack some
    if not isinstance(values, dict) or not fields - optional <= set(values) <= fields:
        raise UserError(f"{place} is no record: expected the fields {', '.join(Record._fields)}")
    values = Record._field_defaults | values
    for name, kind in get_type_hints(Record).items():
        kind = kind if isinstance(kind, type) else str
        if type(values[name]) is not kind and not (kind is float and type(values[name]) is int):
            raise UserError(f"{place}: {name} is {values[name]!r}, not of type {kind.__name__}")
    return Record(**values)

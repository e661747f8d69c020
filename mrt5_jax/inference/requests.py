"""Requests to score or to complete, as JSON lines or Parquet: reading, checking, and cutting them into static batches.

A line is `{"inputs": TEXT, "targets": TEXT}` or `{"input_ids": [...], "target_ids": [...]}`, ids with the end of
sequence and without pads; it may have other fields. Targets are needed for scoring only. A row of Parquet has these
fields as columns.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from mrt5_jax.data.formats import recognize
from mrt5_jax.data.hashing import HashedStream
from mrt5_jax.data.lines import read_lines
from mrt5_jax.data.parquet import read_rows
from mrt5_jax.data.vocabulary import EOS_ID, PAD_ID, encode
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import explained, files_for

InferMode = Literal["score", "predict"]

_SENTINEL = "<extra_id_"

_AS_INPUTS = "jq -cR '{inputs: .}'"
_AS_PAIRS = """jq -cR 'split("\\t") | {inputs: .[0], targets: .[1]}'"""

SHORTEST = 64
"""Shorter sequences are padded to this length: programs for fewer lengths are worth more than the padding."""


class Limits(NamedTuple):
    """What a model takes."""

    vocab_size: int
    input_length: int
    target_length: int
    long_inputs: Literal["refuse", "truncate"]


class Request(NamedTuple):
    fields: dict[str, Any]
    """The line or row as it was given."""
    input_ids: Int[np.ndarray, " length"]
    target_ids: Int[np.ndarray, " target"]
    """Empty where there is nothing to score."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a first reading tells of a file of requests."""

    num_lines: int
    sha256: str
    names_sentinels: bool
    """Whether a text has <extra_id_N>, which is taken as these very characters."""


def request_of(inputs: Any, targets: Any, place: str, limits: Limits) -> Request:
    """Returns a text, or a pair of input and target, as a request; bytes are taken as they are, UTF-8 or not.

    Args:
      inputs: a string, or bytes.
      targets: the same; None where there is nothing to score.
      place: what the text is called in a message.

    Raises:
      UserError: it is no text, or longer than the model takes.
    """
    fields = _text_field(inputs, "inputs", "input_ids", place)
    if targets is None:
        return _request(fields, place, "predict", limits)
    return _request(fields | _text_field(targets, "targets", "target_ids", place), place, "score", limits)


def _text_field(text: Any, text_name: str, ids_name: str, place: str) -> dict[str, Any]:
    if isinstance(text, bytes):
        return {ids_name: [*encode(text).tolist(), EOS_ID]}
    if not isinstance(text, str):
        raise UserError(f"{place} is of type {type(text).__name__}: give a string, or bytes")
    return {text_name: text}


def survey(path: str | Path, mode: InferMode, limits: Limits, name: str = "") -> Survey:
    """Checks every line before anything is computed.

    Args:
      name: of the file, where `path` is a copy of it.

    Raises:
      UserError: the file cannot be read, or a line of it is not a request; the message names the line.
    """
    num_lines, names_sentinels = 0, False
    for request in read_requests(path, mode, limits, name):
        num_lines += 1
        texts = (request.fields.get("inputs"), request.fields.get("targets") if mode == "score" else None)
        names_sentinels = names_sentinels or any(_SENTINEL in text for text in texts if isinstance(text, str))
    with explained(path), files_for(path).open(path) as file, HashedStream(file) as stream:
        return Survey(num_lines, stream.hexdigest(), names_sentinels)


def read_requests(path: str | Path, mode: InferMode, limits: Limits, name: str = "") -> Iterator[Request]:
    """Reads the requests of a file, in order; blank lines are none. Errors as in `survey`."""
    shown = name or str(path)
    kind = recognize(path, shown).kind
    if kind == "parquet":
        for number, fields in enumerate(read_rows(path, shown), start=1):
            yield _request(_as_json(fields, f"{shown}, row {number}"), f"{shown}, row {number}", mode, limits)
        return
    lines = read_lines(path, ("json", "text"), "requests: write them as JSON lines", shown)
    for count, (number, line) in enumerate(lines):
        if kind == "text" and count == 0 and not line.lstrip().startswith((b"{", b"[")):
            raise UserError(
                f"{shown}:{number}: not JSON but plain text: {_AS_INPUTS} where each line is an input, "
                f"{_AS_PAIRS} where it is input<TAB>target"
            )
        yield parse(line, f"{shown}:{number}", mode, limits)


def parse(line: bytes, place: str, mode: InferMode, limits: Limits) -> Request:
    """Reads one line as a request.

    Args:
      place: file and line number, for the message.

    Raises:
      UserError: the line is not JSON, lacks a field, or has ids or a length that the model does not take.
    """
    try:
        fields = json.loads(line.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not JSON, since it is not UTF-8 ({error.reason}): write it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UserError(f'{place}: not a JSON object such as {{"inputs": "..."}}')
    return _request(fields, place, mode, limits)


def _as_json(fields: dict[str, Any], place: str) -> dict[str, Any]:
    """The columns of a row, which an answer repeats as JSON. One without a value is as a field that is not there."""
    for name, value in fields.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            kind = type(value).__name__
            raise UserError(
                f"{place}: column '{name}' holds {kind}, which JSON cannot repeat: leave it out, or write it as text"
            ) from None
    return {name: value for name, value in fields.items() if value is not None}


def _request(fields: dict[str, Any], place: str, mode: InferMode, limits: Limits) -> Request:
    input_ids = _ids(fields, "inputs", "input_ids", place, limits.vocab_size)
    if len(input_ids) > limits.input_length:
        if limits.long_inputs == "refuse":
            raise UserError(
                f"{place}: the input has {len(input_ids)} ids, more than {limits.input_length}: "
                "shorten it, or let it be cut (--truncate, in Python truncate=True)"
            )
        input_ids = _cut(input_ids, limits.input_length)
    target_ids = np.zeros(0, np.int32)
    if mode == "score":
        target_ids = _ids(fields, "targets", "target_ids", place, limits.vocab_size)
        if len(target_ids) > limits.target_length:
            raise UserError(
                f"{place}: the target has {len(target_ids)} ids, more than {limits.target_length}: "
                "give a larger --max_target_length (in Python max_length=)"
            )
    return Request(fields, input_ids, target_ids)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not np.isfinite(number):
        raise ValueError(f"{digits} is beyond the largest number")
    return number


def _ids(
    fields: dict[str, Any], text_name: str, ids_name: str, place: str, vocab_size: int
) -> Int[np.ndarray, " length"]:
    if (text_name in fields) == (ids_name in fields):
        found = "both" if text_name in fields else "neither"
        raise UserError(f"{place}: has {found} of the fields {text_name} and {ids_name}: give one of them")
    if text_name in fields:
        text = fields[text_name]
        if not isinstance(text, str):
            raise UserError(f"{place}: {text_name} is not a string")
        try:
            return np.append(encode(text), np.int32(EOS_ID))
        except UnicodeEncodeError as error:
            raise UserError(f"{place}: {text_name} is not text: {error.reason}") from None
    ids = fields[ids_name]
    if not isinstance(ids, list) or not ids or any(type(number) is not int for number in ids):
        raise UserError(f"{place}: {ids_name} is not a list of at least one integer")
    for number in ids:
        if number == PAD_ID:
            raise UserError(f"{place}: {ids_name} has the pad id {PAD_ID}: leave pads out")
        if not 0 < number < vocab_size:
            raise UserError(f"{place}: {ids_name} has the id {number}, outside the vocabulary (1 to {vocab_size - 1})")
    return np.asarray(ids, np.int32)


def _cut(ids: Int[np.ndarray, " length"], length: int) -> Int[np.ndarray, " shorter"]:
    """The first ids; an end of sequence stays at the end."""
    shorter = ids[:length].copy()
    if ids[-1] == EOS_ID:
        shorter[-1] = EOS_ID
    return shorter


def static_lengths(limit: int) -> tuple[int, ...]:
    """Returns the lengths that sequences of at most `limit` ids are padded to: `limit` and its halves, not below 64."""
    lengths = [limit]
    while lengths[0] // 2 >= SHORTEST:
        lengths.insert(0, -(-lengths[0] // 2))
    return tuple(lengths)


def cut_into_batches(requests: Sequence[Request], batch_size: int) -> Iterator[list[int]]:
    """Yields which requests come together, by their places.

    They are sorted by length, so only the last batch is not full, and few rows are much shorter than their batch.
    """
    order = sorted(range(len(requests)), key=lambda index: len(requests[index].input_ids))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def pad_requests(
    rows: Sequence[Request], batch_size: int, input_lengths: Sequence[int], target_lengths: Sequence[int]
) -> dict[str, np.ndarray]:
    """Returns the requests as a batch of the smallest of these lengths that hold them; rows after them are padding."""
    tokens = _pad([row.input_ids for row in rows], batch_size, input_lengths)
    targets = _pad([row.target_ids for row in rows], batch_size, target_lengths)
    return {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets != PAD_ID).astype(np.int32),
    }


def _pad(rows: list[np.ndarray], batch_size: int, lengths: Sequence[int]) -> Int[np.ndarray, "batch length"]:
    longest = max(len(row) for row in rows)
    length = next(length for length in lengths if length >= longest)
    padded = np.full((batch_size, length), PAD_ID, np.int32)
    for to, row in zip(padded, rows, strict=False):
        to[: len(row)] = row
    return padded

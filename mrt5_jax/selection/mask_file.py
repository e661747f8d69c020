"""Masks of a user's file, found by the inputs that they belong to: order, packing and padding do not matter.

A file of JSON lines, one an example, `{"inputs": "Some text", "mask": "1000010001"}`: a character for each byte of the
text and one for the end of sequence. `inputs` may also be a list of ids, which are then all that the mask is about.
"""

import functools
import json
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from mrt5_jax.data.vocabulary import EOS_ID, decode_to_text, encode
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import explained, files_for, given_path, read_bytes
from mrt5_jax.selection.segments import first_of_examples, merged_into
from mrt5_jax.selection.selector_rule import Segments

_MOST_BYTES = 2**26
"""Of all masks, a bit a position: they are constants of the compiled programs."""


class Masks(NamedTuple):
    """The masks of a file, by digest of their inputs, sorted."""

    digests: Int[np.ndarray, "examples 2"]
    bits: np.ndarray
    """uint8 [examples, longest / 8], the first position in the highest bit."""
    salt: int


class Found(NamedTuple):
    """What a file says of a batch."""

    mask: Bool[Array, "batch length"]
    """False where the example is not in the file."""
    known: Bool[Array, "batch length"]
    """Whether the position's example is in the file."""


def read_masks(path: str, setting: str) -> Masks:
    """Reads a file of masks; once, as long as it stays as it is.

    Args:
        path: on this machine or in a bucket.
        setting: the name of the setting that names the file, for messages.

    Raises:
        UserError: it cannot be read, a line is no such record, a mask has another length than its inputs, two lines
            differ about the same inputs, or all are too much.
    """
    name = given_path(path)
    with explained(name, f"config.GateConfig.settings: {setting!r} = "):
        return _read(name, files_for(name).stat(name).identity)


@functools.lru_cache(maxsize=2)
def _read(path: str, identity: tuple[int | str, ...]) -> Masks:
    masks: dict[tuple[int, ...], np.ndarray] = {}
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if line.strip():
            ids, mask = _record(line, f"{path}, line {number}")
            if not np.array_equal(masks.setdefault(ids, mask), mask):
                raise UserError(
                    f"{path}, line {number}: another mask for inputs of a line before: leave one of them out"
                )
    if not masks:
        raise UserError(f"{path}: no masks: give a JSON line an example, with inputs and mask")
    longest = max(map(len, masks))
    if len(masks) * (longest // 8 + 1) > _MOST_BYTES:
        raise UserError(
            f"{path}: masks of {len(masks)} examples of up to {longest} ids take more than {_MOST_BYTES} bytes: give "
            "fewer"
        )
    inputs = list(masks)
    for salt in range(100):
        digests = np.array([_digest_of(np.array(ids), salt) for ids in inputs], np.uint32)
        if len(np.unique(digests[:, 0])) == len(inputs):
            break
    else:
        raise UserError(f"{path}: {len(inputs)} examples cannot be told apart by 32 bits: give at most 100000")
    order = np.argsort(digests[:, 0])
    bits = np.zeros((len(inputs), 8 * (longest // 8 + 1)), np.uint8)
    for row, ids in enumerate(inputs):
        bits[row, : len(ids)] = masks[ids]
    return Masks(digests[order].view(np.int32), np.packbits(bits, axis=1)[order], salt)


def _record(line: bytes, place: str) -> tuple[tuple[int, ...], np.ndarray]:
    expected = '{"inputs": "text" or ids, "mask": "10..."}'
    try:
        record: Any = json.loads(line)
        inputs, mask = record["inputs"], record["mask"]
        ids = [*encode(inputs).tolist(), EOS_ID] if isinstance(inputs, str) else list(map(operator.index, inputs))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(f"{place}: expected {expected}") from None
    if not isinstance(mask, str) or set(mask) - {"0", "1"} or not ids or not all(0 < one < 2**31 for one in ids):
        raise UserError(f"{place}: expected {expected}, ids above 0")
    if len(mask) != len(ids):
        counted = f"{len(ids) - 1} bytes and an end of sequence" if isinstance(inputs, str) else f"{len(ids)} ids"
        raise UserError(f"{place}: a mask of {len(mask)} for {counted}: give a 0 or 1 for each")
    return tuple(ids), np.frombuffer(mask.encode(), np.uint8) - ord("0")


def _mix(number: np.ndarray) -> np.ndarray:
    """32 well mixed bits of each number (the finalizer of MurmurHash3)."""
    bits = number.astype(np.uint32)
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13), (1, 16)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    return bits


def _weights(length: int, salt: int) -> np.ndarray:
    """Odd weights of the places of an example, uint32 [length 2]."""
    return _mix(2 * np.arange(length)[:, None] + np.arange(2)[None] + 2**24 * salt) | np.uint32(1)


def _digest_of(ids: np.ndarray, salt: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.add.reduce(_weights(len(ids), salt) * ids.astype(np.uint32)[:, None], axis=0, dtype=np.uint32)


def look_up(
    masks: Masks, tokens: Int[Array, "batch length"], mask: Bool[Array, "batch length"], segments: Segments
) -> Found:
    """Returns what the masks say of each position, example by example."""
    length = tokens.shape[1]
    offset = jnp.arange(length)[None] - merged_into(first_of_examples(mask, segments))
    numbers = jnp.where(mask, 1 if segments is None else segments, 0)
    terms = jnp.asarray(_weights(length, masks.salt))[offset] * jnp.where(mask, tokens, 0).astype(jnp.uint32)[..., None]
    sums = jax.vmap(lambda row, of: jax.ops.segment_sum(row, of, length + 1)[of])(terms, numbers)
    digest = jax.lax.bitcast_convert_type(sums, jnp.int32)
    known = jnp.asarray(masks.digests)
    unsigned = jax.lax.bitcast_convert_type(known[:, 0], jnp.uint32)
    row = jnp.minimum(jnp.searchsorted(unsigned, sums[..., 0]), known.shape[0] - 1)
    found = mask & jnp.all(known[row] == digest, axis=-1)
    byte = jnp.asarray(masks.bits)[row, jnp.minimum(offset // 8, masks.bits.shape[1] - 1)]
    bit = (byte >> (7 - offset % 8).astype(jnp.uint8)) & 1
    return Found(found & (bit > 0), found)


def check_known(masks: Masks, path: str, tokens: np.ndarray, segments: np.ndarray | None) -> None:
    """Refuses a batch with an example that is not in a file of masks.

    Raises:
        UserError: shows the first such example.
    """
    found = jax.device_get(jax.jit(lambda ids, of: look_up(masks, ids, ids > 0, of))(tokens, segments)).known
    missing = np.argwhere(~found & (tokens > 0))
    if len(missing):
        row, place = missing[0]
        example = tokens[row] if segments is None else tokens[row][segments[row] == segments[row, place]]
        shown = decode_to_text(example)
        shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
        raise UserError(f"{path} has no mask for {shown!r}, which a batch has: add a line with these inputs")

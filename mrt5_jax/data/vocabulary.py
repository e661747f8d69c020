"""ByT5's ids: bytes, three special tokens, and the two ways of counting sentinels (Xue et al. 2022, section 3.1).

0 pad, 1 end of sequence, 2 unknown, 3..258 the bytes 0x00..0xFF, 259..383 further rows of the embedding table
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from jaxtyping import Int, UInt8

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2
BYTE_OFFSET = 3
NUM_BYTES = 256
VOCAB_SIZE = 384

Sentinels = Literal["bytes", "extra_ids"]
"""bytes: 258 downwards, ByT5's and the paper's, at the cost of the bytes 0xFF, 0xFE, ... that UTF-8 never uses.
extra_ids: 259 upwards, as Hugging Face's tokenizer counts its `<extra_id_0>`; no byte is lost."""

MAX_SENTINELS = {"bytes": 11, "extra_ids": VOCAB_SIZE - BYTE_OFFSET - NUM_BYTES}
"""How many sentinels fit: the bytes 0xF5..0xFF occur in no UTF-8 text; the table ends with row 383."""


def sentinel_ids(count: int, sentinels: Sentinels = "bytes") -> range:
    """Returns the first `count` sentinels, in the order in which they appear in an example."""
    last_byte = BYTE_OFFSET + NUM_BYTES - 1
    if sentinels == "bytes":
        return range(last_byte, last_byte - count, -1)
    return range(last_byte + 1, last_byte + 1 + count)


def encode(text: str | bytes) -> Int[np.ndarray, " length"]:
    """Returns int32 ids of a text's UTF-8 bytes, or of bytes as they are; no end of sequence is added."""
    data = text.encode() if isinstance(text, str) else text
    return bytes_to_ids(np.frombuffer(data, np.uint8))


def bytes_to_ids(data: UInt8[np.ndarray, " length"]) -> Int[np.ndarray, " length"]:
    return data.astype(np.int32) + BYTE_OFFSET


def decode(ids: Iterable[int | np.integer]) -> bytes:
    """Returns the bytes among the ids; special tokens and ids above 258 are left out."""
    return bytes(int(i) - BYTE_OFFSET for i in ids if BYTE_OFFSET <= i < BYTE_OFFSET + NUM_BYTES)


def decode_to_text(ids: Iterable[int | np.integer], sentinels: range = range(0)) -> str:
    r"""Decodes ids to look at: nothing that they hold is hidden but pads and the final end of sequence.

    Bytes that are no UTF-8 appear as \xNN, the ids in `sentinels` as <extra_id_0>, <extra_id_1>, ..., an end of
    sequence between documents as </s>.
    """
    names = {EOS_ID: "</s>", UNK_ID: "<unk>"} | {sentinel: f"<extra_id_{n}>" for n, sentinel in enumerate(sentinels)}
    kept = [int(i) for i in ids if i != PAD_ID]
    if kept and kept[-1] == EOS_ID:
        kept.pop()
    parts = []
    pending = bytearray()
    for i in kept:
        if i not in names and BYTE_OFFSET <= i < BYTE_OFFSET + NUM_BYTES:
            pending.append(i - BYTE_OFFSET)
            continue
        parts += [pending.decode(errors="backslashreplace"), names.get(i, f"<id_{i}>")]
        pending = bytearray()
    return "".join([*parts, pending.decode(errors="backslashreplace")])

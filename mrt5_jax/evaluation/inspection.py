"""Which bytes a gate deletes, in units that people read: characters, with the bytes that they are made of."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.data.vocabulary import BYTE_OFFSET, EOS_ID, NUM_BYTES, PAD_ID, UNK_ID, encode
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import run_prefix
from mrt5_jax.model.parameters import Params
from mrt5_jax.selection.protocol import Selection

TokenKind = Literal["letter", "other", "invalid", "special"]
"""invalid: a byte that is no UTF-8. special: an id that is no byte, such as the end of the sequence."""

TOKEN_KINDS: dict[TokenKind, str] = {
    "letter": "bytes of letters",
    "other": "other bytes",
    "invalid": "bytes that are no UTF-8",
    "special": "special tokens",
}

_JOINERS = "\u200c\u200d"
_SPECIAL = {EOS_ID: "</s>", UNK_ID: "<unk>"}
_ESCAPES = {"\t": "\\t", "\r": "\\r", "\n": "\n"}


Inspector = Callable[[Params, Int[np.ndarray, "batch length"]], Selection]


def make_inspector(model: MrT5) -> Inspector:
    """Makes a program that runs a model with a gate, as far as the gate."""

    def inspect(params: Params, tokens: Int[Array, "batch length"]) -> Selection:
        selection = run_prefix(model, params, tokens).selection
        assert selection is not None
        return selection

    return jax.jit(inspect)


class Piece(NamedTuple):
    """What is shown as one: a character with its combining marks, an invalid byte, or a special token."""

    text: str
    """As in the input; escaped where it could not be seen or would change how the rest is shown."""
    ids: tuple[int, ...]
    keep: tuple[bool, ...]
    values: tuple[float, ...]
    kind: TokenKind

    @property
    def is_escaped(self) -> bool:
        """Whether the text shown is not the input's own, but a name for it."""
        return self.kind in ("invalid", "special") or (self.text[0] == "\\" and len(self.text) > 1)

    @property
    def num_deleted(self) -> int:
        return len(self.keep) - sum(self.keep)

    @property
    def state(self) -> Literal["kept", "partly deleted", "deleted"]:
        if not self.num_deleted:
            return "kept"
        return "partly deleted" if any(self.keep) else "deleted"


class Tally(NamedTuple):
    """Tokens of one kind."""

    total: int
    deleted: int

    @property
    def rate(self) -> float:
        """Share that is deleted; NaN of none."""
        return self.deleted / self.total if self.total else float("nan")


def split_text(data: bytes, input_length: int) -> list[bytes]:
    """Cuts a text into windows that fit a model's input with an end of sequence each, never within valid UTF-8."""
    size = input_length - 1
    windows = []
    while len(data) > size:
        cut = next((cut for cut in range(size, max(size - 4, 0), -1) if data[cut] & 0xC0 != 0x80), size)
        windows.append(data[:cut])
        data = data[cut:]
    return [*windows, data]


def first_bytes(data: bytes, size: int) -> bytes:
    """Returns at most `size` bytes of a text, cut before a character that would not fit."""
    return split_text(data[: size + 1], size + 1)[0]


def inspect_windows(
    inspector: Inspector, params: Params, windows: Sequence[bytes], input_length: int, batch_size: int = 1
) -> Iterator[list[Piece]]:
    """Yields the pieces of each window, then those of its end of sequence; all windows run in one shape.

    Args:
      windows: at most `input_length - 1` bytes each.
    """
    for start in range(0, len(windows), batch_size):
        tokens = np.full((batch_size, input_length), PAD_ID, np.int32)
        batch = windows[start : start + batch_size]
        for row, window in enumerate(batch):
            tokens[row, : len(window) + 1] = [*encode(window), EOS_ID]
        selection = jax.device_get(inspector(params, tokens))
        for row in range(len(batch)):
            yield pieces(tokens[row], selection.keep[row], selection.signals.key_bias[row])


def pieces(
    ids: Int[np.ndarray, " length"], keep: Bool[np.ndarray, " length"], values: Float[np.ndarray, " length"]
) -> list[Piece]:
    """Returns the ids of a row as pieces, in order; padding is left out."""
    real = ids != PAD_ID
    ids, keep, values = ids[real], keep[real], values[real]
    found: list[Piece] = []
    while len(ids):
        piece = _first_piece(ids, keep, values)
        size = len(piece.ids)
        ids, keep, values = ids[size:], keep[size:], values[size:]
        if found and _joins(found[-1], piece):
            piece = _joined(found.pop(), piece)
        found.append(piece)
    return [piece._replace(text=_visible(piece.text)) for piece in found]


def _first_piece(
    ids: Int[np.ndarray, " length"], keep: Bool[np.ndarray, " length"], values: Float[np.ndarray, " length"]
) -> Piece:
    """The character that begins a row or, where none does, its first id alone; not yet escaped."""
    kind: TokenKind
    text, token, size = _first_character(ids), int(ids[0]), 1
    if text is not None:
        kind, size = "letter" if text.isalpha() else "other", len(text.encode())
    elif BYTE_OFFSET <= token < BYTE_OFFSET + NUM_BYTES:
        text, kind = f"\\x{token - BYTE_OFFSET:02X}", "invalid"
    else:
        text, kind = _SPECIAL.get(token, f"<id_{token}>"), "special"
    return Piece(text, tuple(ids[:size].tolist()), tuple(keep[:size].tolist()), tuple(values[:size].tolist()), kind)


def _first_character(ids: Int[np.ndarray, " length"]) -> str | None:
    """The character of valid UTF-8 that begins a row."""
    for size in range(1, min(4, len(ids)) + 1):
        codes = ids[:size] - BYTE_OFFSET
        if codes.min() < 0 or codes.max() >= NUM_BYTES:
            return None
        try:
            return bytes(codes.tolist()).decode()
        except UnicodeDecodeError:
            continue
    return None


def _joins(last: Piece, piece: Piece) -> bool:
    """Whether a character is drawn together with the one before it: marks, joiners, skin tones."""
    if {last.kind, piece.kind} & {"invalid", "special"} or unicodedata.category(last.text[0])[0] in "CZ":
        return False
    if unicodedata.category(piece.text)[0] in "CZ" and piece.text not in _JOINERS:
        return False  # it is shown by its name, also after a joiner
    mark = unicodedata.category(piece.text)[0] == "M" or piece.text in _JOINERS
    return mark or last.text[-1] == _JOINERS[1] or "\U0001f3fb" <= piece.text <= "\U0001f3ff"


def _joined(one: Piece, other: Piece) -> Piece:
    return Piece(one.text + other.text, one.ids + other.ids, one.keep + other.keep, one.values + other.values, one.kind)


def _visible(text: str) -> str:
    """Control and format characters escaped: they would act on the terminal, or not be seen at all."""
    category = unicodedata.category(text[0])
    if category[0] == "M":
        return "\u25cc" + text  # a mark without its letter is drawn on a dotted circle
    if len(text) > 1 or not (category[0] == "C" or category in ("Zl", "Zp")):
        return text
    return _ESCAPES.get(text, f"\\u{ord(text):04X}")


def tally(found: Sequence[Piece]) -> dict[TokenKind, Tally]:
    """Counts the tokens of each kind that occurs, in the order of TOKEN_KINDS."""
    of_kind: dict[TokenKind, list[Piece]] = {
        kind: [piece for piece in found if piece.kind == kind] for kind in TOKEN_KINDS
    }
    return {
        kind: Tally(sum(len(piece.ids) for piece in of), sum(piece.num_deleted for piece in of))
        for kind, of in of_kind.items()
        if of
    }


class VowelStatistics(NamedTuple):
    """What a gate has deleted of strings of '#', letters and an end of sequence."""

    vowels: Tally
    letters: Tally
    """Vowels and consonants."""
    hashes: Tally
    ends: Tally

    @property
    def vowels_among_deleted_letters(self) -> float:
        """NaN where no letter is deleted."""
        return self.vowels.deleted / self.letters.deleted if self.letters.deleted else float("nan")


def vowel_statistics(
    tokens: Int[np.ndarray, "batch length"], keep: Bool[np.ndarray, "batch length"]
) -> VowelStatistics:
    """Counts deleted tokens by kind: ASCII letters, the vowels among them, '#', the end of the sequence."""

    def of(ids: Int[np.ndarray, " ids"]) -> Tally:
        here = np.isin(tokens, ids)
        return Tally(int(here.sum()), int((here & ~keep).sum()))

    letters = bytes([*range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1)])
    return VowelStatistics(of(encode("aeiouAEIOU")), of(encode(letters)), of(encode("#")), of(np.array([EOS_ID])))

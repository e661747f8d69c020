"""Makes the two character tasks out of word lists and text, so that they can be tried without the original files.

Spelling correction with context: a piece of text with misspelt words, and the text. Word search: a hint, letters in
which the word lies hidden, and the word. Words, and the lines of a text, are shared out to the splits by a hash, so no
split has a line or a word of another.
"""

import hashlib
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from mrt5_jax.errors import UserError

SPLITS = ("train", "validation", "test")

_MISSPELT_SHARE = 0.15
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_HELD_OUT = {0: "validation", 1: "test"}  # by the last digit of a hash


class Pair(NamedTuple):
    """A row of a TSV file."""

    input: str
    target: str


def split_of(text: str) -> str:
    """Four fifths train, a tenth each for validation and test, the same for the same text always."""
    return _HELD_OUT.get(int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10, "train")


def spelling_pairs(lines: Iterable[str], split: str, *, max_bytes: int = 63, seed: int = 0) -> Iterator[Pair]:
    """Pieces of the split's lines, at most `max_bytes` long with their misspellings, of whole words."""
    for line in lines:
        if split_of(line) != split:
            continue
        generator = random.Random(f"{seed} {line}")
        for words in _pieces(line.split(), max_bytes - 4):
            misspelt = [_misspell(word, generator) if _chosen(word, generator) else word for word in words]
            if misspelt == words:
                place = generator.randrange(len(words))
                misspelt[place] = _misspell(words[place], generator)
            pair = Pair(" ".join(misspelt), " ".join(words))
            if pair.input != pair.target and len(pair.input.encode()) <= max_bytes:
                yield pair


def word_search_pairs(
    entries: Iterable[str], split: str, *, num_letters: int = 80, max_bytes: int = 127, seed: int = 0
) -> Iterator[Pair]:
    """`hint: letters` and the word that lies in the letters, forwards or backwards.

    Args:
        entries: `word`, or `word<TAB>hint`; without a hint, the word's letters in the order of the alphabet are one.
    """
    for entry in entries:
        word, _, hint = entry.strip().partition("\t")
        word = word.lower()
        if not re.fullmatch(r"[^\W\d_]{3,15}", word) or split_of(word) != split:
            continue
        generator = random.Random(f"{seed} {word}")
        hint = (hint or "".join(sorted(word)))[: max_bytes - num_letters - 2]
        alphabet = _LETTERS if word.isascii() else word
        letters = generator.choices(alphabet, k=num_letters - len(word))
        place = generator.randrange(len(letters) + 1)
        letters[place:place] = word if generator.random() < 0.5 else word[::-1]
        pair = Pair(f"{hint}: {''.join(letters)}", word)
        if len(pair.input.encode()) <= max_bytes:
            yield pair


def write_splits(folder: Path, pairs: Mapping[str, Iterable[Pair]]) -> dict[str, int]:
    """Writes `<split>.tsv` files and tells how many rows each has.

    Raises:
        UserError: a split has none, since there is too little to make them of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split, own in pairs.items():
        rows = ["\t".join(field.replace("\t", " ") for field in pair) + "\n" for pair in own]
        if not rows:
            raise UserError(f"too little to make a {split} split of: give more text or words")
        (folder / f"{split}.tsv").write_text("".join(rows), encoding="utf-8")
        counts[split] = len(rows)
    return counts


def _pieces(words: list[str], max_bytes: int) -> Iterator[list[str]]:
    piece: list[str] = []
    for word in words:
        if piece and len(" ".join([*piece, word]).encode()) > max_bytes:
            yield piece
            piece = []
        if len(word.encode()) <= max_bytes:
            piece.append(word)
    if len(piece) > 2:
        yield piece


def _chosen(word: str, generator: random.Random) -> bool:
    return len(word) > 3 and word.isalpha() and generator.random() < _MISSPELT_SHARE


def _misspell(word: str, generator: random.Random) -> str:
    """One letter dropped, doubled, replaced or swapped with its neighbour; the first stays."""
    place = generator.randrange(1, len(word)) if len(word) > 1 else 0
    kind = generator.choice(("drop", "double", "replace", "swap"))
    if kind == "drop" and len(word) > 1:
        return word[:place] + word[place + 1 :]
    if kind == "double":
        return word[:place] + word[place] + word[place:]
    if kind == "swap" and place + 1 < len(word) and word[place] != word[place + 1]:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    letters = [letter for letter in _LETTERS if letter != word[place]]
    return word[:place] + generator.choice(letters) + word[place + 1 :]

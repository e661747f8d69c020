"""Rows for character tasks, made of any text or word list, in any script.

Spelling correction with context and word search after Huang et al. 2023 (arXiv:2212.09897), in the shapes of the
originals: inputs of at most 63 bytes (spelling) and 127 bytes (word search). Not the original files: scores are not
comparable with published ones.

spelling: a piece of text with some words misspelt, and the piece as it was. word search: a hint, letters in
which the word lies hidden, and the word. Words, and the lines of a text, are shared out to the splits by a hash, so no
split has a line or a word of another. A letter is a character with its combining marks.
"""

import hashlib
import random
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mrt5_jax.errors import UserError
from mrt5_jax.runs.file_status import AnyPath
from mrt5_jax.runs.files import as_path, exists, explained, files_for

SPLITS = ("train", "validation", "test")

_MISSPELT_SHARE = 0.15
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_HELD_OUT = {0: "validation", 1: "test"}  # by the last digit of a hash
_SHORTEST_WORD, _LONGEST_WORD = 3, 15  # characters
_JOINERS = "\u200c\u200d"


class Pair(NamedTuple):
    """A row of a TSV file."""

    input: str
    target: str


def split_of(text: str) -> str:
    """Assigns a text to a split by its hash: four fifths to train, a tenth each to validation and test."""
    return _HELD_OUT.get(int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10, "train")


def spelling_pairs(
    lines: Iterable[str], split: str, left_out: Counter[str] | None = None, *, max_bytes: int = 63, seed: int = 0
) -> Iterator[Pair]:
    """Yields pieces of the split's lines misspelt and as they were, the misspelt ones of at most `max_bytes`.

    Pieces are of whole words. A word too long for a piece is cut between letters, as scripts without spaces need it; if
    it is ASCII, it is left out.

    Args:
        left_out: counts the lines of the split that gave no row, by reason; blank ones are not counted.
    """
    for line in lines:
        if split_of(line) != split:
            continue
        generator = random.Random(f"{seed} {line}")
        foreign = sorted({letter for word in line.split() if not word.isascii() for letter in split_letters(word)})
        num_rows = 0
        for words in _pieces(line.split(), max_bytes - 4):
            misspelt = [_misspell(word, generator, foreign) if _chosen(word, generator) else word for word in words]
            if misspelt == words:
                place = generator.randrange(len(words))
                misspelt[place] = _misspell(words[place], generator, foreign)
            pair = Pair(" ".join(misspelt), " ".join(words))
            if pair.input != pair.target and len(pair.input.encode()) <= max_bytes:
                num_rows += 1
                yield pair
        if not num_rows and left_out is not None and line.strip():
            left_out["lines of fewer than three words"] += 1


def word_search_pairs(
    entries: Iterable[str],
    split: str,
    left_out: Counter[str] | None = None,
    *,
    num_letters: int = 80,
    max_bytes: int = 127,
    seed: int = 0,
) -> Iterator[Pair]:
    """Yields `hint: letters` and the word that lies in the letters, forwards or backwards.

    There are `num_letters` of them, or as many as fit: scripts have one to four bytes a character.

    Args:
        entries: `word`, or `word<TAB>hint`; without a hint, the word's letters in the order of the alphabet are one.
        left_out: counts the words of the split that gave no row, by reason.
    """
    words = [(word.strip().lower(), hint) for word, _, hint in (entry.strip().partition("\t") for entry in entries)]
    alphabets = alphabets_by_script([word for word, _ in words])
    for word, hint in words:
        if split_of(word) != split:
            continue
        if reason := reason_unfit(word):
            if left_out is not None and word:
                left_out[reason] += 1
            continue
        generator = random.Random(f"{seed} {word}")
        own = split_letters(word)
        hint = _cut(split_letters(hint) if hint else sorted(own), max_bytes - num_letters - 2)
        alphabet = _LETTERS if word.isascii() else sorted(alphabets[script_name(word)])
        letters = generator.choices(alphabet, k=max(num_letters - len(own), 0))
        letters = split_letters(_cut(letters, max_bytes - len(f"{hint}: {word}".encode())))
        place = generator.randrange(len(letters) + 1)
        letters[place:place] = own if generator.random() < 0.5 else own[::-1]
        yield Pair(f"{hint}: {''.join(letters)}", word)


def write_splits(folder: AnyPath, pairs: Mapping[str, Sequence[Pair]]) -> dict[str, int]:
    """Writes `<split>.tsv` files and tells how many rows each has; there is no file of a split without rows.

    Raises:
        UserError: the folder cannot be written, or has a file of a split that has no rows now.
    """
    paths = {split: as_path(folder) / f"{split}.tsv" for split in pairs}
    for split, path in paths.items():
        if not pairs[split] and exists(path):
            raise UserError(f"{path} is there already, and there are no {split} rows to replace it: remove it")
    for split, path in paths.items():
        rows = ["\t".join(field.replace("\t", " ") for field in pair) + "\n" for pair in pairs[split]]
        if rows:
            with explained(path):
                files_for(path).write(path, "".join(rows).encode())
    return {split: len(own) for split, own in pairs.items()}


def longest_in_ids(texts: Iterable[str]) -> int:
    """Returns the ids of the longest text, its end of sequence counted."""
    return max(len(text.encode()) + 1 for text in texts)


def alphabets_by_script(words: Iterable[str]) -> dict[str, set[str]]:
    """Returns the letters of fit words, by the words' script: letters of another script would give a word away."""
    alphabets: dict[str, set[str]] = {}
    for word in words:
        if not reason_unfit(word):
            alphabets.setdefault(script_name(word), set()).update(split_letters(word))
    return alphabets


def script_name(word: str) -> str:
    """Returns the script of a word's first letter: LATIN, CYRILLIC, ..."""
    return unicodedata.name(word[0], "").partition(" ")[0]


def reason_unfit(word: str) -> str:
    """Says why a word cannot be searched for, or asked about; empty where it can."""
    if not all(_is_letter_or_mark(character) for character in word) or not word[:1].isalpha():
        return "words with other characters than letters"
    if len(word) < _SHORTEST_WORD:
        return f"words of fewer than {_SHORTEST_WORD} characters"
    if len(word) > _LONGEST_WORD:
        return f"words of more than {_LONGEST_WORD} characters"
    return ""


def _is_letter_or_mark(character: str) -> bool:
    return character.isalpha() or unicodedata.category(character).startswith("M") or character in _JOINERS


def split_letters(text: str) -> list[str]:
    """Cuts a text into letters: characters, each with the marks that follow it and what a joiner ties to it."""
    letters: list[str] = []
    for character in text:
        tied = unicodedata.category(character).startswith("M") or character in _JOINERS
        if letters and (tied or letters[-1][-1] == _JOINERS[1]):
            letters[-1] += character
        else:
            letters.append(character)
    return letters


def _cut(letters: Sequence[str], max_bytes: int) -> str:
    """As many of the letters as fit, from the first on."""
    text = ""
    for letter in letters:
        if len((text + letter).encode()) > max_bytes:
            break
        text += letter
    return text


def _pieces(words: list[str], max_bytes: int) -> Iterator[list[str]]:
    piece: list[str] = []
    for word in words:
        if piece and len(" ".join([*piece, word]).encode()) > max_bytes:
            yield piece
            piece = []
        if len(word.encode()) <= max_bytes:
            piece.append(word)
        elif not word.isascii():
            yield from ([part] for part in _parts(word, max_bytes))
    if len(piece) > 2:
        yield piece


def _parts(word: str, max_bytes: int) -> Iterator[str]:
    """The word cut between letters; what remains at the end is left out."""
    letters = split_letters(word)
    while part := _cut(letters, max_bytes):
        letters = letters[len(split_letters(part)) :]
        if not letters:
            return
        yield part


def _chosen(word: str, generator: random.Random) -> bool:
    return len(word) > 3 and all(map(_is_letter_or_mark, word)) and generator.random() < _MISSPELT_SHARE


def _misspell(word: str, generator: random.Random, foreign: Sequence[str]) -> str:
    """One letter dropped, doubled, replaced or swapped with its neighbour; the first stays.

    Args:
        foreign: letters to replace those of words that are not ASCII.
    """
    own = split_letters(word)
    place = generator.randrange(1, len(own)) if len(own) > 1 else 0
    kind = generator.choice(("drop", "double", "replace", "swap"))
    if kind == "drop" and len(own) > 1:
        return "".join(own[:place] + own[place + 1 :])
    if kind == "double":
        return "".join(own[: place + 1] + own[place:])
    if kind == "swap" and place + 1 < len(own) and own[place] != own[place + 1]:
        return "".join([*own[:place], own[place + 1], own[place], *own[place + 2 :]])
    letters = [letter for letter in (_LETTERS if word.isascii() else foreign) if letter != own[place]]
    if not letters:
        return word
    return "".join([*own[:place], generator.choice(letters), *own[place + 1 :]])

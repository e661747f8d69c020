"""Questions about the letters of a word: insert, delete, substitute, swap and count.

The first four are worded and answered as in CUTE (Edman, Schmid and Fraser 2024, arXiv:2409.15452), without its worked
examples, since a model here is fine-tuned on the questions. A letter is a character with its combining marks, so words
of every script can be asked about. A new letter differs from the old one and comes from words of the same script.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from mrt5_jax.data.character_data import (
    Pair,
    alphabets_by_script,
    reason_unfit,
    script_name,
    split_letters,
)
from mrt5_jax.data.corpora import Region
from mrt5_jax.data.noising import LINE_END
from mrt5_jax.data.sources import Example, generator_of
from mrt5_jax.data.task_specs import INPUTS, TARGETS
from mrt5_jax.data.vocabulary import BYTE_OFFSET, EOS_ID

WORD = "word"
"""The feature of an example that is asked about."""

Ask = Callable[[Sequence[str], Sequence[str], np.random.Generator], Pair]
"""(letters of a word, letters of its script, generator) -> question and answer."""


def read_words(region: Region, left_out: Counter[str]) -> list[str]:
    """Reads the words that can be asked about, each once, in order: a line each, or `WORD<TAB>HINT`.

    Args:
        left_out: counts the others, by reason.
    """
    ids = region.stream.read(region.begin, region.end)
    data = (np.where(ids == EOS_ID, LINE_END, ids) - BYTE_OFFSET).astype(np.uint8).tobytes()
    lines = data.decode(errors="surrogateescape").split("\n")
    words = []
    for word in dict.fromkeys(line.partition("\t")[0].strip() for line in lines):
        if not word:
            continue
        reason = reason_unfit(word)
        if not reason and len(_single(split_letters(word))) < 2:
            reason = "words with fewer than two letters that occur once"
        if reason:
            left_out[reason] += 1
        else:
            words.append(word)
    return words


def sorted_alphabets(words: Iterable[str]) -> dict[str, list[str]]:
    """Returns the letters of the words by the words' script, sorted."""
    return {script: sorted(letters) for script, letters in alphabets_by_script(words).items()}


def letter_question(example: Example, kind: str, alphabets: Mapping[str, Sequence[str]], seed: int) -> Example:
    """Makes a question and its answer of an example's WORD; it draws by `seed` and the example's seed alone.

    Args:
        kind: one of QUESTIONS.
        alphabets: the letters that may be asked about, by script.
    """
    word = example[WORD]
    ask = QUESTIONS[kind]
    question, answer = ask(split_letters(word), alphabets[script_name(word)], generator_of(example, seed))
    rest = {key: value for key, value in example.items() if key != WORD}
    return {**rest, INPUTS: question, TARGETS: answer}


def _insert(letters: Sequence[str], alphabet: Sequence[str], generator: np.random.Generator) -> Pair:
    old, new = _old_and_new(letters, alphabet, generator)
    answer = "".join(letter + new if letter == old else letter for letter in letters)
    return Pair(f'Add an "{new}" after every "{old}" in "{"".join(letters)}".', answer)


def _delete(letters: Sequence[str], alphabet: Sequence[str], generator: np.random.Generator) -> Pair:
    old, _ = _old_and_new(letters, alphabet, generator)
    answer = "".join(letter for letter in letters if letter != old)
    return Pair(f'Delete every instance of "{old}" in "{"".join(letters)}".', answer)


def _substitute(letters: Sequence[str], alphabet: Sequence[str], generator: np.random.Generator) -> Pair:
    old, new = _old_and_new(letters, alphabet, generator)
    answer = "".join(new if letter == old else letter for letter in letters)
    return Pair(f'Substitute "{old}" with "{new}" in "{"".join(letters)}".', answer)


def _swap(letters: Sequence[str], alphabet: Sequence[str], generator: np.random.Generator) -> Pair:
    """Of letters that occur once, as in CUTE: so there is one answer."""
    single = _single(letters)
    one, other = (single[place] for place in generator.permutation(len(single))[:2])
    places = {one: other, other: one}
    answer = "".join(places.get(letter, letter) for letter in letters)
    return Pair(f'Swap "{one}" and "{other}" in "{"".join(letters)}".', answer)


def _count(letters: Sequence[str], alphabet: Sequence[str], generator: np.random.Generator) -> Pair:
    """How often a letter occurs; the answers that a word allows are equally likely, 0 among them."""
    counts = Counter(letters)
    by_count: dict[int, list[str]] = {}
    for letter in sorted({*letters, *alphabet}):
        by_count.setdefault(counts[letter], []).append(letter)
    answers = sorted(by_count)
    answer = answers[int(generator.integers(len(answers)))]
    return Pair(f'Count "{_pick(by_count[answer], generator)}" in "{"".join(letters)}".', str(answer))


QUESTIONS: Mapping[str, Ask] = {
    "insert": _insert,
    "delete": _delete,
    "substitute": _substitute,
    "swap": _swap,
    "count": _count,
}
"""Kinds of questions by name."""


def _old_and_new(letters: Sequence[str], alphabet: Sequence[str], generator: np.random.Generator) -> tuple[str, str]:
    """A letter of the word, and another one of its script."""
    old = _pick(sorted(set(letters)), generator)
    return old, _pick([letter for letter in alphabet if letter != old], generator)


def _pick(letters: Sequence[str], generator: np.random.Generator) -> str:
    return letters[int(generator.integers(len(letters)))]


def _single(letters: Sequence[str]) -> list[str]:
    """The letters that occur once, sorted."""
    return sorted(letter for letter, count in Counter(letters).items() if count == 1)

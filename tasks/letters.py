"""Questions about the letters of words, after CUTE, over the user's own word lists.

    TRAIN_TASK = @letters.question_suite()
    letters.question_suite.files = "words/*.txt"

Words are shared out to train, validation and test by a hash, so that no split has a word of another.
"""

import functools
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

from mrt5_jax.data import answers, corpora, letter_questions, task_names
from mrt5_jax.data.character_data import SPLITS, split_of
from mrt5_jax.data.registry import add_mixture, add_task, registered
from mrt5_jax.data.sources import Example, IndexedSource, one_by_one
from mrt5_jax.data.task_specs import LANGUAGE, TaskSpec
from mrt5_jax.errors import UserError

_KINDS = tuple(letter_questions.QUESTIONS)


def question_suite(
    files: str | Sequence[str], kinds: str | Sequence[str] = _KINDS, seed: int = 0, field: str = "text"
) -> str:
    """Registers a task for each kind of question, once for each set of arguments, and returns their mixture's name.

    Each task asks one question about each word; its answer is right where it is written exactly. Words have 3 to 15
    characters of any script, marks included, of which two occur once; how many others were left out is printed.

    Args:
        files: globs of word lists, one language a file name: a word a line, or `WORD<TAB>HINT`.
        kinds: insert, delete, substitute, swap, count; see `letter_questions`.
        seed: of the letters that are asked about. In evaluation they follow from this seed and the word alone; in
            training every epoch has others.
        field: of JSON lines, TFRecords and Parquet files, that holds the word.

    Raises:
        UserError: no usable file, no word that can be asked about, or an unknown kind.
    """
    kinds = [kinds] if isinstance(kinds, str) else kinds
    for kind in kinds:
        if kind not in letter_questions.QUESTIONS:
            there = ", ".join(letter_questions.QUESTIONS)
            raise UserError(f"letters.question_suite.kinds: no question is called '{kind}': there are {there}")
    if seed < 0:
        raise UserError(f"letters.question_suite.seed = {seed}: should be at least 0")
    regions = corpora.open_regions(files, field)
    left_out: Counter[str] = Counter()
    words = {region.language: letter_questions.read_words(region, left_out) for region in regions}
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
    if not any(words.values()):
        raise UserError(f"the files that match '{files}' have no word to ask about ({reasons}): give a word a line")
    languages = tuple(sorted(language for language, own in words.items() if own))
    label = task_names.languages_label(languages)
    contents = [(region.language, region.stream.identity) for region in regions]
    source = _source(words, regions)
    alphabets = letter_questions.sorted_alphabets(word for own in words.values() for word in own)
    names = []
    for kind in kinds:
        ask = functools.partial(letter_questions.letter_question, kind=kind, alphabets=alphabets, seed=seed)
        name = task_names.name_with_key(f"letters.{label}.{kind}", task_names.key_of((contents, kind, seed)))
        names.append(add_task(TaskSpec(name, source, ask, metrics=(answers.accuracy,), languages=languages)))
    suite = task_names.name_with_key(f"letters.{label}", task_names.key_of(names))
    if reasons and suite not in registered():
        print(f"mrt5: letters.question_suite: left out {reasons}", file=sys.stderr)
    return add_mixture(suite, dict.fromkeys(names, 1.0))


def _source(words: Mapping[str, Sequence[str]], regions: Sequence[corpora.Region]) -> IndexedSource:
    """Of examples with a word and its language."""
    by_split: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for language, own in words.items():
        for word in own:
            by_split[split_of(word)].append({letter_questions.WORD: word, LANGUAGE: language})
    files = corpora.files_of({"train, validation and test": regions})
    sizes = {split: len(own) for split, own in by_split.items()}
    return IndexedSource(one_by_one(lambda split, index: by_split[split][index]), sizes, files)

"""Questions about the letters of one's own words: every word in every kind and in one split, or counted, or refused."""

from pathlib import Path

import pytest

from mrt5_jax.config import DataConfig
from mrt5_jax.data.batches import eval_batches, train_batches
from mrt5_jax.data.letter_questions import QUESTIONS
from mrt5_jax.data.registry import tasks_of
from mrt5_jax.data.source_files import describe_files
from mrt5_jax.data.task_names import label_of
from mrt5_jax.data.vocabulary import decode
from mrt5_jax.errors import UserError
from mrt5_jax.tasks import letters

WORDS = {
    "en": [f"{a}{b}{c}" for a in ("gar", "mon", "fel") for b in "aeiou" for c in ("den", "sty", "lick")],
    "ru": [f"{a}{b}{c}" for a in ("жил", "дом", "лес") for b in "аеиоу" for c in ("ный", "ка", "ить")],
}


@pytest.fixture
def files(tmp_path: Path) -> str:
    for language, words in WORDS.items():
        (tmp_path / f"{language}.txt").write_text("\n".join(words), encoding="utf-8")
    return f"{tmp_path}/*.txt"


def test_every_word_is_asked_about_in_every_way_and_is_in_one_split(files: str) -> None:
    specs = {label_of(spec.name): spec for spec in tasks_of(letters.question_suite(files))}
    assert set(specs) == {f"letters.en_ru.{kind}" for kind in QUESTIONS}
    for spec in specs.values():
        assert sorted(spec.splits) == ["test", "train", "validation"]
        asked: list[tuple[str, str]] = []
        for split in spec.splits:
            for example in spec.read_once(split):
                question = decode(example["inputs"]).decode()
                asked.append((example["language"], question.split('"')[-2]))
        assert sorted(asked) == sorted((language, word) for language, words in WORDS.items() for word in words)


def test_letters_are_of_the_words_language(files: str) -> None:
    (spec,) = tasks_of(letters.question_suite(files, "insert"))
    for example in spec.read_once("train"):
        new = decode(example["inputs"]).decode().split('"')[1]
        assert new in "".join(WORDS[example["language"]])


def test_suites_are_evaluated_and_trained_on_with_other_letters_in_every_epoch(files: str) -> None:
    suite = letters.question_suite(files, ["delete", "count"])
    data = DataConfig(suite, (suite,), 96, 48, 90, 4)
    infos = [info for batch in eval_batches(suite, data) for info in batch.examples]
    assert {label_of(info.task) for info in infos} == {"letters.en_ru.delete", "letters.en_ru.count"}
    batches = train_batches(data, seed=0)
    questions = [decode(row) for _ in range(4) for row in next(batches)["encoder_input_tokens"]]
    assert len(set(questions)) > 2 * 90


def test_a_file_that_all_tasks_read_is_told_of_once(files: str) -> None:
    found = describe_files([file for spec in tasks_of(letters.question_suite(files)) for file in spec.files])
    (line,) = found
    assert line.startswith("train, validation and test data: 2 languages, 2 files, 90 documents")


def test_the_same_arguments_give_the_same_suite_and_others_another(files: str) -> None:
    first = letters.question_suite(files)
    assert first == letters.question_suite([files])
    assert first != letters.question_suite(files, seed=1)
    assert label_of(first) == label_of(letters.question_suite(files, seed=1)) == "letters.en_ru"


def test_words_that_are_left_out_are_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "few.txt").write_text("\n".join([*WORDS["en"], "ab", "a", "noon"]))
    letters.question_suite(f"{tmp_path}/few.txt")
    assert capsys.readouterr().err.splitlines()[-1] == (
        "mrt5: letters.question_suite: left out 2 words of fewer than 3 characters; "
        "1 words with fewer than two letters that occur once"
    )
    letters.question_suite(f"{tmp_path}/few.txt")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("a\nb\n", {}, r"no word to ask about \(2 words of fewer than 3 characters\): give a word a line"),
        ("\n\n", {}, "have only empty lines"),
        ("", {}, "all 1 files that match .* are empty"),
        ("garden\n", {"kinds": ("inserts",)}, r"no question is called 'inserts': there are insert, delete"),
        ("garden\n", {"kinds": ()}, r"the mixture letters\.words has no tasks"),
        ("garden\n", {"seed": -1}, r"question_suite\.seed = -1: should be at least 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(content: str, arguments: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        letters.question_suite(f"{tmp_path}/words.txt", **arguments)

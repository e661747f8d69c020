"""Span corruption from text files, as a seqio task."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import seqio

from mrt5_jax.config import DataConfig
from mrt5_jax.data import batches, vocabulary
from mrt5_jax.errors import UserError
from mrt5_jax.tasks import span_corruption


def write(path: Path, lines: int, word: str) -> None:
    path.write_text("".join(f"{word} {number}\n\n" for number in range(lines)))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for language, word in (("en", "word"), ("de", "Wört")):
        write(tmp_path / f"{language}.txt", 2000, word)
    return tmp_path


CHUNK = 298
"""Raw ids of an example with 256 inputs."""


def restore(example: dict[str, np.ndarray], sentinels: range) -> list[int]:
    targets = example["targets"].tolist()
    places = [*(targets.index(i) for i in sentinels if i in targets), len(targets) - 1]
    spans = {targets[a]: targets[a + 1 : b] for a, b in itertools.pairwise(places)}
    return [raw for i in example["inputs"].tolist()[:-1] for raw in spans.get(i, [i])]


def test_examples_put_back_together_are_the_files(corpus: Path) -> None:
    name = span_corruption.text_task(f"{corpus}/*.txt", input_length=256)
    raw = {language: [] for language in ("en", "de")}
    for split in ("train", "validation"):
        dataset = seqio.TaskRegistry.get(name).get_dataset(split=split, shuffle=False)
        for example in dataset.as_numpy_iterator():
            assert len(example["inputs"]) == 256
            raw[example["language"].decode()] += restore(example, vocabulary.sentinel_ids(2))
    for language, ids in raw.items():
        lines = (corpus / f"{language}.txt").read_bytes().split(b"\n")
        expected = [i for line in lines if line for i in [*vocabulary.encode(line), vocabulary.EOS_ID]]
        assert len(ids) % CHUNK == 0
        assert ids[:-CHUNK] == expected[: len(ids) - CHUNK]
        assert ids[-CHUNK:] == expected[-CHUNK:]  # it begins within the one before it, so that none is short


def test_the_same_arguments_give_the_same_task_and_others_another(corpus: Path) -> None:
    first = span_corruption.text_task(f"{corpus}/*.txt", input_length=128)
    assert first == span_corruption.text_task([f"{corpus}/en.txt", f"{corpus}/d*"], input_length=128)
    assert first != span_corruption.text_task(f"{corpus}/*.txt", input_length=129)
    assert first != span_corruption.text_task(f"{corpus}/en.txt", input_length=128)


def test_validation_files_are_the_validation_split(corpus: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "validation"
    held_out.mkdir()
    write(held_out / "fr.txt", 100, "mot")
    name = span_corruption.text_task(f"{corpus}/*.txt", f"{held_out}/*.txt", input_length=64)
    data = DataConfig(name, (name,), 64, 32, 4, 4)
    assert {info.language for batch in batches.eval_batches(name, data) for info in batch.examples} == {"fr"}


def test_a_file_shorter_than_a_chunk_is_one_short_example(tmp_path: Path) -> None:
    (tmp_path / "xx.txt").write_bytes(b"tiny \xff text")
    task = seqio.TaskRegistry.get(span_corruption.text_task(f"{tmp_path}/*.txt"))
    assert tuple(task.splits) == ("train",)
    (example,) = task.get_dataset(split="train").as_numpy_iterator()
    expected = [*vocabulary.encode(b"tiny "), vocabulary.UNK_ID, *vocabulary.encode(b" text"), vocabulary.EOS_ID]
    assert restore(example, vocabulary.sentinel_ids(9)) == expected
    assert example["replaced_bytes"] == 1


def test_files_of_empty_lines_are_refused(tmp_path: Path) -> None:
    (tmp_path / "xx.txt").write_bytes(b"\n\n\n")
    with pytest.raises(UserError, match=r"match '.*\*\.txt' have only empty lines"):
        span_corruption.text_task(f"{tmp_path}/*.txt")


def test_real_text_of_fifteen_languages_fills_every_batch(shared: Path) -> None:
    name = span_corruption.text_task(f"{shared}/data/multilingual/validation/*.txt")
    data = DataConfig(name, (name,), 1024, 189, 64, 64)
    batch = next(batches.train_batches(data, seed=0))
    assert batch["encoder_input_tokens"].all()
    assert batch["decoder_target_tokens"].all()
    assert (batch["decoder_target_tokens"][:, 0] == 258).all()
    sentinels = (batch["encoder_input_tokens"] >= 250).sum(axis=1)
    np.testing.assert_array_equal(sentinels, 9)

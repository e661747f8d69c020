"""Span corruption from text files, as a seqio task."""

import gzip
import hashlib
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from mrt5_jax.config import DataConfig
from mrt5_jax.data import batches, vocabulary
from mrt5_jax.data.span_corruption import Corruption
from mrt5_jax.data.task_names import label_of, names_as_saved
from mrt5_jax.errors import UserError
from mrt5_jax.tasks import span_corruption


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRT5_CACHE_DIR", str(tmp_path / "cache"))


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


def key_of_paths(splits: dict[str, list[tuple[str, Path, int, int]]], input_length: int) -> str:
    """What versions that knew files by paths and sizes made of (language, file, begin, end)."""
    corruption = Corruption()
    regions = {
        split: [(language, ((str(path), path.stat().st_size),), begin, end) for language, path, begin, end in own]
        for split, own in splits.items()
    }
    settings = (regions, corruption, corruption.lengths_for_inputs(input_length))
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:12]


def test_names_of_earlier_versions_stand_for_the_same_examples(corpus: Path) -> None:
    held_out = corpus / "held_out.txt"
    write(held_out, 100, "mot")
    sizes = {
        path.stem: sum(len(line) + 1 for line in path.read_bytes().split(b"\n") if line)
        for path in corpus.glob("*.txt")
    }
    files = ([f"{corpus}/de.txt", f"{corpus}/en.txt"], str(held_out))
    validation = [("held_out", held_out, 0, sizes["held_out"])]
    train = [(language, corpus / f"{language}.txt", 0, sizes[language]) for language in ("de", "en")]
    task, mixture = (make(*files, 64) for make in (span_corruption.text_task, span_corruption.text_mixture))
    former = f"span_corruption.files_{key_of_paths({'train': train, 'validation': validation}, 64)}"
    tasks = [f"span_corruption.files_{key_of_paths({'train': [one], 'validation': []}, 64)}.{one[0]}" for one in train]
    key = hashlib.sha256(repr((sorted(tasks), None)).encode()).hexdigest()[:12]
    former_mixture = f"span_corruption.files_{key}"
    assert names_as_saved([task, mixture, "other"], [former, former_mixture, "other"]) == {
        task: former,
        mixture: former_mixture,
        "other": "other",
    }
    assert sorted(one.name for one in seqio.MixtureRegistry.get(former_mixture).tasks) == sorted(tasks)
    examples = [
        next(iter(seqio.TaskRegistry.get(name).get_dataset(split="train", seed=1).as_numpy_iterator()))
        for name in (task, former)
    ]
    np.testing.assert_array_equal(examples[0]["inputs"], examples[1]["inputs"])


def test_what_is_read_otherwise_now_has_no_former_name(corpus: Path) -> None:
    """A run over such files would go on with other documents than it began with."""
    for name, content in {"crlf.txt": b"a b c d e f g\r\n" * 99, "nd.ndjson": b'{"text": "a b c d"}\n' * 99}.items():
        (corpus / name).write_bytes(content)
        task = span_corruption.text_task(f"{corpus}/{name}", input_length=64)
        path = corpus / name
        former = key_of_paths({"train": [(name.partition(".")[0], path, 0, len(content))]}, 64)
        assert names_as_saved([task], [f"span_corruption.files_{former}"]) == {task: task}


def test_moved_files_are_the_same_task_and_changed_ones_another(corpus: Path, tmp_path_factory) -> None:
    first = span_corruption.text_task(f"{corpus}/*.txt", input_length=128)
    assert label_of(first) == "span_corruption.de_en"
    moved = tmp_path_factory.mktemp("elsewhere") / "deep"
    shutil.copytree(corpus, moved)
    assert span_corruption.text_task(f"{moved}/*.txt", input_length=128) == first
    path = corpus / "en.txt"
    path.write_text(path.read_text().replace("word", "sord"))
    assert span_corruption.text_task(f"{corpus}/*.txt", input_length=128) != first


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


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_language_without_text_is_named(content: bytes, tmp_path: Path) -> None:
    """It would be missing in every table; an empty file beside others of its language is no harm."""
    (tmp_path / "en.txt").write_bytes(b"some words of text\n")
    (tmp_path / "en.2.txt").write_bytes(content)
    assert span_corruption.text_task(f"{tmp_path}/en*.txt")
    (tmp_path / "sw.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"no line of text in .*sw\.txt: let '.*\*\.txt' match no file of a language"):
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


def languages_seen(name: str, split: str = "train", rows: int = 300) -> list[str]:
    """Of a task or mixture, as evaluation sees them."""
    data = DataConfig(name, (name,), 128, 32, 4, 4)
    found = batches.eval_batches(name, data, split=split, num_examples=rows)
    return [info.language for batch in found for info in batch.examples]


def test_a_mixture_has_a_task_a_language_at_equal_rates(corpus: Path) -> None:
    write(corpus / "zh-Latn.txt", 200, "ci")
    name = span_corruption.text_mixture(f"{corpus}/*.txt", input_length=128)
    mixture = seqio.MixtureRegistry.get(name)
    assert sorted(label_of(task.name).rpartition(".")[2] for task in mixture.tasks) == ["de", "en", "zh_Latn"]
    assert {mixture.get_rate(task) for task in mixture.tasks} == {1.0}
    assert set(languages_seen(name, "validation")) == {"de", "en", "zh-Latn"}


def test_temperature_moves_rates_from_shares_towards_equality(corpus: Path) -> None:
    write(corpus / "sw.txt", 500, "neno")
    sizes, rates = {}, {}
    for temperature in (1.0, 2.0):
        name = span_corruption.text_mixture(
            f"{corpus}/*.txt", input_length=128, languages=("en", "sw"), temperature=temperature
        )
        mixture = seqio.MixtureRegistry.get(name)
        sizes = {task.name: task.num_input_examples("train") for task in mixture.tasks}
        rates[temperature] = [mixture.get_rate(task) for task in mixture.tasks]
    np.testing.assert_allclose(rates[1.0], list(sizes.values()))
    np.testing.assert_allclose(rates[2.0], np.sqrt(list(sizes.values())))


def test_a_language_without_files_is_named(corpus: Path) -> None:
    with pytest.raises(UserError, match="no file is of the language 'fr': there are de, en"):
        span_corruption.text_mixture(f"{corpus}/*.txt", languages=("en", "fr"))


def write_c4(folder: Path, language: str, lines: int) -> None:
    for part, count in (("", lines), ("-validation", 20)):
        with gzip.open(folder / f"c4-{language}{part}.tfrecord-00000-of-00001.json.gz", "wt") as file:
            for number in range(count):
                json.dump({"text": f"{language} text\n{part} {number}", "url": "u", "timestamp": "t"}, file)
                file.write("\n")


def test_published_c4_shards_make_the_mixture(tmp_path: Path) -> None:
    for language in ("en", "zh-Latn"):
        write_c4(tmp_path, language, 100)
    name = span_corruption.c4_mixture(str(tmp_path), languages=("en", "zh-Latn"), input_length=128)
    assert set(languages_seen(name)) == {"en", "zh-Latn"}
    (task,) = (task for task in seqio.MixtureRegistry.get(name).tasks if label_of(task.name).endswith(".en"))
    example = next(task.get_dataset(split="train", shuffle=False).as_numpy_iterator())
    text = "</s>".join(f"en text\n {number}" for number in range(100)).encode()
    raw = restore(example, vocabulary.sentinel_ids(1))
    assert vocabulary.decode_to_text(raw) == text[: len(vocabulary.decode_to_text(raw))].decode()
    with pytest.raises(UserError, match=r"has no shard c4-fr\.\*\.json\.gz"):
        span_corruption.c4_mixture(str(tmp_path), languages=("fr",))


def test_the_mixture_of_the_paper_is_registered_with_its_languages() -> None:
    mixture = seqio.MixtureRegistry.get("span_corruption.multilingual")
    assert len(mixture.tasks) == 15
    assert "span_corruption.zh_Latn" in seqio.TaskRegistry.names()
    with pytest.raises(UserError, match=r"c4/multilingual/3\.1\.0 is not prepared in .*published shards"):
        next(iter(seqio.TaskRegistry.get("span_corruption.en").get_dataset()))


def test_mc4_from_tensorflow_datasets_is_cut_into_chunks() -> None:
    documents = [f"document {number} ".encode() * 40 for number in range(300)]

    def as_dataset(self: object, *args: object, **kwargs: object) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices({"text": documents, "url": [b""] * len(documents)})

    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        examples = list(
            seqio.TaskRegistry.get("span_corruption.sw").get_dataset(split="train", shuffle=False).as_numpy_iterator()
        )
    raw = [i for example in examples for i in restore(example, vocabulary.sentinel_ids(9))]
    assert raw == [i for document in documents for i in [*vocabulary.encode(document), vocabulary.EOS_ID]]
    assert np.mean([len(example["inputs"]) == 1024 for example in examples]) > 0.95
    assert {example["language"] for example in examples} == {b"sw"}

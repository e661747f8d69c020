"""Dealing: the same rows lie elsewhere, and the k-th rows of all devices are alike."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.config import DataConfig
from mrt5_jax.data import chunk_classes, registry, text_files
from mrt5_jax.data.arrangements import FEATURES, LANGUAGE_IDS, LANGUAGE_TOKENS, ROW, Batch
from mrt5_jax.data.batches import TrainBatches, train_batches
from mrt5_jax.data.byte_classes import BYTE_CLASSES, count_classes
from mrt5_jax.data.dealing import Dealing, deal, features_of
from mrt5_jax.data.expectation import Expectation, expected, feature_names
from mrt5_jax.data.vocabulary import EOS_ID, encode
from mrt5_jax.tasks import diagnostics, span_corruption

LENGTH, ROWS, PLACES = 24, 16, 4
NUM_BATCHES = 6
TEXTS = {"de": "Zwölf Boxkämpfer jagen Viktor. ", "el": "Ξεσκεπάζω την ψυχοφθόρα. ", "th": "เป็นมนุษย์สุดประเสริฐ "}


@given(st.lists(st.integers(0, 3), min_size=12, max_size=12), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_every_row_has_one_place_and_no_slot_is_fuller_than_the_next(fullness: list[int], num_places: int) -> None:
    rows = deal(np.array(fullness, float), num_places)
    assert sorted(rows.ravel()) == list(range(12))
    by_slot = np.array(fullness)[rows]
    assert (by_slot.max(axis=0)[:-1] <= by_slot.min(axis=0)[1:]).all()
    in_turn = rows.T.ravel()
    assert all(one < other for one, other in itertools.pairwise(in_turn) if fullness[one] == fullness[other])


def test_every_byte_has_one_class_and_what_is_no_byte_has_none() -> None:
    every_byte = count_classes(encode(bytes(range(256)))[None])[0]
    assert every_byte.sum() == 256
    assert every_byte.min() > 0
    assert count_classes(np.array([[0, EOS_ID, 2, 259, 383, 10**6]], np.int32)).sum() == 0


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("Ab 1.\t", {"letter": 2, "space": 2, "digit": 1, "other ASCII": 1}),
        ("ψ", {"first of Greek": 1, "continuation 80": 1}),
        ("ก", {"first of Indic, Thai": 1, "continuation B0": 1, "continuation 80": 1}),
        ("的", {"first of Chinese, Japanese": 1, "continuation 90": 1, "continuation 80": 1}),
    ],
)
def test_classes_are_counted(text: str, counts: dict[str, int]) -> None:
    (found,) = count_classes(encode(text)[None])
    assert {name: count for name, count in zip(BYTE_CLASSES, found, strict=True) if count} == counts


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("text")
    for language, text in TEXTS.items():
        (folder / f"{language}.txt").write_text("".join(f"{text * (i % 5)}{i}\n" for i in range(150)))
    files = f"{folder}/*.txt"
    strings, without_vowels = (
        diagnostics.diagnostic_task(name, length=LENGTH, num_train=40, num_validation=4)
        for name in ("copy", "vowel_removal")
    )
    return {
        "text": span_corruption.text_task(files, input_length=LENGTH, mean_span_length=3.0),
        "mixture": span_corruption.text_mixture(files, input_length=LENGTH, mean_span_length=3.0),
        "strings": strings,
        "mixture without languages": registry.add_mixture("copied", {strings: 1.0, without_vowels: 2.0}),
    }


def learned(task: str) -> Expectation:
    """Knows from the first batch on: Thai is kept whole, of other bytes few."""
    names = feature_names(registry.task_languages(task))
    found = Expectation(names)
    weights = [1.0 if "Thai" in name or name == "continuation B0" else 0.1 for name in names]
    found.restore(found.state() | {"steps": 32, "weights": {"1": weights, "2": weights}})
    return found


def batches_of(
    task: str, *, places: tuple[int, ...] | None = None, rows: str = "one_a_row", processes: int = 1, process: int = 0
) -> TrainBatches:
    """Dealt to some places of PLACES, or for None as they come."""
    data = DataConfig(task, (task,), LENGTH, LENGTH, ROWS, ROWS)
    if rows == "packed":
        data = DataConfig(task, (task,), 3 * LENGTH, 3 * LENGTH, ROWS, ROWS, rows="packed")
    elif rows == "buckets":
        data = DataConfig(task, (task,), LENGTH, LENGTH, ROWS, ROWS, length_buckets=(LENGTH // 2, LENGTH))
    dealing = None if places is None else Dealing(learned(task), PLACES, places, data.input_length)
    return train_batches(data, seed=0, shard_index=process, num_shards=processes, dealing=dealing)


def take(batches: TrainBatches) -> list[Batch]:
    return list(itertools.islice(batches, NUM_BATCHES))


@pytest.mark.parametrize("rows", ["one_a_row", "packed", "buckets"])
@pytest.mark.parametrize("task", ["text", "mixture", "strings", "mixture without languages"])
def test_a_dealt_batch_has_the_same_rows(tasks: dict[str, str], task: str, rows: str) -> None:
    dealt = take(batches_of(tasks[task], places=tuple(range(PLACES)), rows=rows))
    moved = 0
    for one, as_they_come in zip(dealt, take(batches_of(tasks[task], rows=rows)), strict=True):
        assert sorted(one[ROW]) == list(range(ROWS))
        moved += not np.array_equal(one[ROW], np.arange(ROWS))
        for name, array in as_they_come.items():
            np.testing.assert_array_equal(one[name], array[one[ROW]], err_msg=name)
    assert moved > 0


@pytest.mark.parametrize("rows", ["one_a_row", "packed", "buckets"])
@pytest.mark.parametrize("task", ["text", "mixture"])
def test_two_processes_read_the_rows_of_their_places_of_one_deal(tasks: dict[str, str], task: str, rows: str) -> None:
    alone = take(batches_of(tasks[task], places=(0, 1, 2, 3), rows=rows))
    halves = [
        take(batches_of(tasks[task], places=own, rows=rows, processes=2, process=process))
        for process, own in enumerate([(0, 1), (2, 3)])
    ]
    for whole, *parts in zip(alone, *halves, strict=True):
        for name, array in whole.items():
            np.testing.assert_array_equal(array, np.concatenate([part[name] for part in parts]), err_msg=name)


def test_a_source_that_says_nothing_of_unread_examples_is_dealt_by_process(tasks: dict[str, str]) -> None:
    own = batches_of(tasks["strings"], places=(2, 3), processes=2, process=1)
    assert own.is_dealt_by_process
    assert not batches_of(tasks["text"], places=(2, 3), processes=2, process=1).is_dealt_by_process
    as_they_come = take(batches_of(tasks["strings"], processes=2, process=1))
    for dealt, rows in zip(take(own), as_they_come, strict=True):
        assert sorted(dealt[ROW]) == list(range(1, ROWS, 2))
        for name, array in rows.items():
            np.testing.assert_array_equal(dealt[name], array[dealt[ROW] // 2], err_msg=name)


def test_rows_of_equal_places_are_alike_in_what_is_expected(tasks: dict[str, str]) -> None:
    weights = learned(tasks["text"]).weights(32)
    for batch in take(batches_of(tasks["text"], places=(0, 1, 2, 3))):
        by_slot = expected(batch[FEATURES], weights).reshape(PLACES, -1)
        assert (by_slot.max(axis=0)[:-1] <= by_slot.min(axis=0)[1:]).all()
        assert by_slot.max() > 2 * by_slot.min()


def test_a_process_reads_no_example_of_another(tasks: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    take(batches_of(tasks["text"], places=(0,), processes=4))  # the classes are counted
    read: list[int] = []
    whole = text_files.TextStream.read

    def noted(self: text_files.TextStream, begin: int, end: int) -> np.ndarray:
        read.append(begin)
        return whole(self, begin, end)

    monkeypatch.setattr(text_files.TextStream, "read", noted)
    take(batches_of(tasks["text"], places=(0,), processes=4))
    most_batches = NUM_BATCHES + 3  # some are read ahead
    assert NUM_BATCHES * ROWS // PLACES <= len(read) <= most_batches * ROWS // PLACES


def test_a_packed_row_has_the_features_of_its_examples(tasks: dict[str, str]) -> None:
    (batch,) = itertools.islice(batches_of(tasks["text"], places=(0, 1, 2, 3), rows="packed"), 1)
    for tokens, segments, of_languages, features in zip(
        *(batch[name] for name in ("encoder_input_tokens", "encoder_segment_ids", LANGUAGE_TOKENS, FEATURES)),
        strict=True,
    ):
        assert of_languages.sum() == np.count_nonzero(tokens)
        classes = sum(count_classes(tokens[segments == own][None])[0] for own in range(1, segments.max() + 1))
        rounded = np.floor(64 * np.append(classes, of_languages) / (3 * LENGTH) + 0.5)
        np.testing.assert_array_equal(features, rounded)


def test_a_language_is_a_feature(tasks: dict[str, str]) -> None:
    (batch,) = itertools.islice(batches_of(tasks["mixture"], places=(0, 1, 2, 3)), 1)
    languages = batch[FEATURES][:, len(BYTE_CLASSES) :]
    assert languages.shape[1] == len(TEXTS)
    np.testing.assert_array_equal(languages.argmax(axis=1), batch[LANGUAGE_IDS])
    assert (np.count_nonzero(languages, axis=1) == 1).all()


def test_chunks_are_counted_once(tasks: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRT5_CACHE_DIR", str(tmp_path))
    chunks = np.random.default_rng(0).integers(0, 259, (50, 7)).astype(np.int32)

    def counts(content: str) -> np.ndarray:
        return np.array(chunk_classes.kept_class_counts(content, 50, 7, chunks.__getitem__))

    first = counts("a text")
    np.testing.assert_array_equal(first, count_classes(chunks))
    monkeypatch.setattr(chunk_classes, "count_classes", lambda ids: pytest.fail("counted again"))
    np.testing.assert_array_equal(counts("a text"), first)
    (kept,) = (tmp_path / "byte_classes").iterdir()
    monkeypatch.undo()
    monkeypatch.setenv("MRT5_CACHE_DIR", str(tmp_path))
    kept.write_bytes(kept.read_bytes()[:100])  # damaged: counted again
    np.testing.assert_array_equal(counts("a text"), first)
    np.testing.assert_array_equal(counts("another text"), first)
    assert len(list((tmp_path / "byte_classes").iterdir())) == 2


def test_classes_that_an_older_version_counted_are_counted_anew_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MRT5_CACHE_DIR", str(tmp_path))
    chunks = np.random.default_rng(0).integers(0, 259, (5, 7)).astype(np.int32)
    for version, counted in ((0, True), (1, True), (1, False)):
        monkeypatch.setattr(chunk_classes, "COUNTS_VERSION", version)
        chunk_classes._say_that_bytes_are_counted.cache_clear()
        chunk_classes.kept_class_counts("a text", 5, 7, chunks.__getitem__)
        assert ("counting the bytes of text" in capsys.readouterr().err) == counted


def test_a_text_of_lines_of_one_byte_is_dealt(tmp_path: Path) -> None:
    """And one whose last chunk is shorter than a row."""
    (tmp_path / "one.txt").write_text("a\n" * 200)
    (tmp_path / "other.txt").write_text("b\n")
    task = span_corruption.text_task(f"{tmp_path}/*.txt", input_length=LENGTH, mean_span_length=3.0)
    for dealt, rows in zip(take(batches_of(task, places=(0, 1, 2, 3))), take(batches_of(task)), strict=True):
        np.testing.assert_array_equal(dealt["encoder_input_tokens"], rows["encoder_input_tokens"][dealt[ROW]])


def test_texts_of_one_byte_are_dealt() -> None:
    tokens = np.zeros((4, 8), np.int32)
    tokens[:, 0] = [100, 3, 258, EOS_ID]
    features = features_of({"encoder_input_tokens": tokens}, 0, 8)
    assert features.sum(axis=1).tolist() == [8, 8, 8, 0]
    assert deal(expected(features, np.ones(len(BYTE_CLASSES))), 4).shape == (4, 1)


def test_batches_go_on_where_they_stood(tasks: dict[str, str]) -> None:
    whole = batches_of(tasks["mixture"], places=(1, 2))
    take(whole)
    state = json.loads(json.dumps(whole.state()))
    resumed = batches_of(tasks["mixture"], places=(1, 2))
    resumed.restore(state)
    for one, other in zip(take(whole), take(resumed), strict=True):
        np.testing.assert_array_equal(one["encoder_input_tokens"], other["encoder_input_tokens"])
    undealt = batches_of(tasks["mixture"])
    undealt.restore(state)  # dealing may change at a resume

"""XNLI, question answering and TSV tasks: formats, splits, languages, metrics; datasets are fixtures."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

from mrt5_jax.config import DataConfig
from mrt5_jax.data import batches, registry, vocabulary
from mrt5_jax.data.tables import Table
from mrt5_jax.errors import UserError
from mrt5_jax.tasks import (
    characters,
    question_answering,  # noqa: F401 its tasks are found by name
    xnli,
)

from .tfds_fixtures import NUM_EXAMPLES, fixture


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch):
    with tfds.testing.mock_data(as_dataset_fn=fixture):
        yield


def first(task: str, split: str) -> dict[str, np.ndarray]:
    dataset = seqio.TaskRegistry.get(task).get_dataset({"inputs": 2048, "targets": 256}, split, shuffle=False)
    return next(dataset.as_numpy_iterator())


def texts(example: dict[str, np.ndarray]) -> tuple[str, str]:
    return vocabulary.decode_to_text(example["inputs"]), vocabulary.decode_to_text(example["targets"])


def data(task: str, input_length: int = 128) -> DataConfig:
    return DataConfig(task, (task,), input_length, 16, 4, 4)


@pytest.mark.usefixtures("datasets")
def test_xnli_has_the_papers_format_in_every_language() -> None:
    for language in ("ar", "zh"):
        example = first(f"xnli.{language}", "test")
        expected = f"Premise: premise {language} 0 Hypothesis: {language} xnli/1.1.0 test"
        assert texts(example) == (expected, "0")
        assert example["language"].decode() == language


@pytest.mark.usefixtures("datasets")
def test_xnli_trains_on_english_multinli_and_is_validated_by_language() -> None:
    batch = next(batches.train_batches(data("xnli"), seed=0))
    for row in batch["encoder_input_tokens"]:
        assert vocabulary.decode_to_text(row).endswith(" Hypothesis: hypothesis multi_nli/1.1.0 train")
    validated = {task.name for task in seqio.MixtureRegistry.get("xnli").tasks if "validation" in task.splits}
    assert validated == {f"xnli.{language}" for language in xnli.LANGUAGES}
    infos = [info for batch in batches.eval_batches("xnli.th", data("xnli")) for info in batch.examples]
    assert {info.language for info in infos} == {"th"}


@pytest.mark.usefixtures("datasets")
def test_translated_xnli_trains_on_all_languages() -> None:
    example = first("xnli_translated.sw", "train")
    assert texts(example)[0] == "Premise: premise sw 0 Hypothesis: sw xtreme_xnli/1.1.0 train"


@pytest.mark.usefixtures("datasets")
@pytest.mark.parametrize(
    ("task", "split", "language", "place"),
    [
        ("squad", "train", "en", "squad/v1.1/3.0.0 train"),
        ("squad", "validation", "en", "squad/v1.1/3.0.0 validation"),
        ("xquad.en", "train", "en", "squad/v1.1/3.0.0 train"),
        ("xquad.zh", "validation", "zh", "xquad/zh/3.0.0 test"),
        ("tydiqa.train", "train", "sw", "tydi_qa/goldp/3.0.0 train"),
        ("tydiqa.fi", "validation", "fi", "tydi_qa/goldp/3.0.0 validation-fi"),
    ],
)
def test_question_answering_has_the_papers_format(task: str, split: str, language: str, place: str) -> None:
    example = first(task, split)
    assert texts(example) == (f"Question: who? 0 Context: {place}", "first")
    assert example["language"].decode() == language


@pytest.mark.usefixtures("datasets")
def test_evaluation_has_all_accepted_answers() -> None:
    found = [info for batch in batches.eval_batches("xquad.el", data("xquad.el")) for info in batch.examples]
    assert {info.answers for info in found} == {("first",), ("first", "the second")}
    assert {info.answers for info in found if info.index == 1} == {("first", "the second")}


@pytest.mark.usefixtures("datasets")
def test_seqio_evaluates_answers_with_the_tasks_metric() -> None:
    task = seqio.TaskRegistry.get("tydiqa.sw")
    examples = task.get_dataset(split="validation", shuffle=False).take(2).as_numpy_iterator()
    targets = [task.postprocess_fn("first", example=example, is_target=True) for example in examples]
    assert targets == [["first"], ["first", "the second"]]
    (metric,) = task.predict_metric_fns
    assert metric(targets, ["The first!", "second"]) == {"exact_match": 100.0, "f1": 100.0}


@pytest.mark.usefixtures("datasets")
@pytest.mark.parametrize(("task", "num_shards"), [("xquad", 1), ("test.pair", 2)])
def test_a_resumed_run_over_tfds_gives_what_an_uninterrupted_one_gives(task: str, num_shards: int) -> None:
    registry.add_mixture("test.pair", {"squad": 1.0, "xnli_translated.sw": 3.0})

    def fresh() -> batches.TrainBatches:
        return batches.train_batches(data(task), seed=3, shard_index=num_shards - 1, num_shards=num_shards)

    whole = fresh()
    expected = [next(whole) for _ in range(9)]  # several epochs of the fixture
    for stop in (2, 7):
        resumed = fresh()
        state = {"position": stop, "layout": resumed.state()["layout"]}
        resumed.restore(state)
        for batch in expected[stop:]:
            np.testing.assert_array_equal(next(resumed)["encoder_input_tokens"], batch["encoder_input_tokens"])


@pytest.mark.usefixtures("datasets")
def test_an_epoch_over_tfds_has_every_example_once_in_an_order_of_its_own() -> None:
    iterator = batches.train_batches(data("squad"), seed=0)
    epochs = [
        [vocabulary.decode_to_text(row) for _ in range(3) for row in next(iterator)["encoder_input_tokens"]]
        for _ in range(2)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(set(epochs[0]))
    assert len(set(epochs[0])) == NUM_EXAMPLES
    assert epochs[0] != epochs[1]


@pytest.mark.usefixtures("datasets")
def test_long_inputs_are_cut_and_keep_their_eos() -> None:
    batch = next(batches.train_batches(data("squad", input_length=12), seed=0))
    np.testing.assert_array_equal(batch["encoder_input_tokens"][:, -1], vocabulary.EOS_ID)


def test_a_dataset_that_is_not_prepared_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"squad/v1\.1/3\.0\.0 is not prepared in .*: tfds build squad/v1\.1:3\.0\.0"):
        next(batches.train_batches(data("squad"), seed=0))


@pytest.fixture
def tsv(tmp_path: Path) -> Path:
    for split in ("train", "dev", "random", "overlap"):
        rows = [f"{split} inpt {number}\t{split} input {number}" for number in range(5)]
        (tmp_path / f"{split}.tsv").write_bytes("\n".join(rows).encode() + (b"\n\n" if split == "dev" else b""))
    (tmp_path / "random.tsv").write_bytes(b"a\xff\tb\r\nc\t\r\n")
    return tmp_path


def test_rows_of_other_systems_are_the_same_rows(tsv: Path) -> None:
    rows = (tsv / "train.tsv").read_bytes()
    contents = {
        "crlf.tsv": rows.replace(b"\n", b"\r\n\r\n"),
        "mac.tsv": rows.replace(b"\n", b"\r"),
        "marked.tsv": b"\xef\xbb\xbf" + rows,
        "packed.tsv.gz": gzip.compress(rows),
    }
    expected = [Table(tsv / "train.tsv").row(number) for number in range(Table(tsv / "train.tsv").size)]
    for name, content in contents.items():
        (tsv / name).write_bytes(content)
        table = Table(tsv / name)
        assert [table.row(number) for number in range(table.size)] == expected
    (tsv / "crlf.tsv").write_bytes(b"a\tb\r\n\r\nlonely\r\n")
    with pytest.raises(UserError, match=r"crlf\.tsv, line 3: 1 column"):
        Table(tsv / "crlf.tsv")


def test_rows_that_are_trained_on_measure_nothing(tsv: Path) -> None:
    with pytest.raises(UserError, match=r"train\.tsv: in the train and in the test_seen files"):
        characters.tsv_task("rows", f"{tsv}/train.tsv", f"{tsv}/dev.tsv", {"test_seen": f"{tsv}/t*.tsv"})


def test_tsv_files_are_a_task_with_all_their_splits(tsv: Path) -> None:
    name = characters.tsv_task(
        "spelling",
        f"{tsv}/train.tsv",
        f"{tsv}/dev.tsv",
        {"test_random": f"{tsv}/random.tsv", "test_overlap": [f"{tsv}/overlap.tsv", f"{tsv}/dev.tsv"]},
    )
    task = seqio.TaskRegistry.get(name)
    sizes = {split: task.num_input_examples(split) for split in task.splits}
    assert sizes == {"train": 5, "validation": 5, "test_random": 2, "test_overlap": 10}
    found = [texts(example) for example in task.get_dataset(split="test_random", shuffle=False).as_numpy_iterator()]
    assert found == [("a\\xff", "b"), ("c", "")]
    last = [texts(example) for example in task.get_dataset(split="test_overlap", shuffle=False).as_numpy_iterator()][-1]
    assert last == ("overlap inpt 4", "overlap input 4")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\tb\n\nlonely\n", r"train\.tsv, line 3: 1 column, not input<TAB>target"),
        (b"a\tb\tc\n", r"train\.tsv, line 1: 3 columns, not input<TAB>target"),
        (b"\n\n", r"train\.tsv has only empty lines"),
        (b"", r"all 1 files that match .* are empty"),
    ],
)
def test_broken_tsv_files_are_refused_with_the_line(content: bytes, message: str, tsv: Path) -> None:
    (tsv / "train.tsv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        characters.tsv_task("broken", f"{tsv}/train.tsv", f"{tsv}/dev.tsv")

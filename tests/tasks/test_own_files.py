"""Pairs, inference and questions from the user's own JSON lines and Parquet files, without TensorFlow."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from mrt5_jax.config import DataConfig
from mrt5_jax.data import batches
from mrt5_jax.data.registry import tasks_of
from mrt5_jax.data.vocabulary import decode
from mrt5_jax.errors import UserError
from mrt5_jax.tasks import characters, question_answering, xnli

PAIRS = [{"question": f"what\tis\n{n}, größer?", "answer": f"{n}\u2028!", "rest": n} for n in range(5)]


def write(path: Path, records: list[dict[str, Any]]) -> str:
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return str(path)


def texts(task: str, split: str = "train") -> set[tuple[str, str]]:
    (spec,) = tasks_of(task)
    return {(decode(row["inputs"]).decode(), decode(row["targets"]).decode()) for row in spec.read_once(split)}


def infos(task: str) -> list[batches.ExampleInfo]:
    """Of all validation examples."""
    data = DataConfig(task, (task,), 64, 8, 2, 2)
    return [info for batch in batches.eval_batches(task, data) for info in batch.examples]


@pytest.mark.parametrize("name", ["train.jsonl", "train.parquet", "train.jsonl.gz"])
def test_named_fields_are_pairs_with_whatever_is_in_them(name: str, tmp_path: Path) -> None:
    train = write(tmp_path / name, PAIRS)
    validation = write(tmp_path / "validation.jsonl", [{"question": "q", "answer": "a"}])
    task = characters.pair_task("own", train, validation, input_field="question", target_field="answer", language="de")
    assert texts(task) == {(pair["question"], pair["answer"]) for pair in PAIRS}
    assert texts(task, "validation") == {("q", "a")}
    batch = next(batches.train_batches(DataConfig(task, (task,), 64, 16, 2, 2), seed=0))
    assert batch["language_ids"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"inputs": "a"}, r"line 1: no field 'targets'; the fields are inputs"),
        ({"inputs": "a", "targets": 3}, r"record 1: field 'targets' holds no text, but 3"),
        (["a", "b"], r"line 1: no JSON object with the fields inputs, targets"),
    ],
)
def test_records_without_their_fields_are_named(record: Any, message: str, tmp_path: Path) -> None:
    train, validation = (
        write(tmp_path / f"{split}.jsonl", [own])
        for split, own in (("train", record), ("validation", {"inputs": "q", "targets": "a"}))
    )
    with pytest.raises(UserError, match=message):
        characters.pair_task("broken", train, validation)


def test_own_files_of_inference_have_the_papers_format(tmp_path: Path) -> None:
    train = write(tmp_path / "train.parquet", [{"premise": "p", "hypothesis": "h", "label": 2}])
    validation = write(tmp_path / "v.jsonl", [{"premise": "p v", "hypothesis": "h", "label": "neutral"}])
    task = xnli.inference_task("mine", "sw", train, validation)
    assert texts(task) == {("Premise: p Hypothesis: h", "2")}
    assert texts(task, "validation") == {("Premise: p v Hypothesis: h", "1")}
    (info,) = [
        info for batch in batches.eval_batches(task, DataConfig(task, (task,), 64, 8, 2, 2)) for info in batch[1]
    ]
    assert info.language == "sw"


@pytest.mark.parametrize("answers", [{"text": ["first", "second"], "answer_start": [0, 1]}, ["first", "second"]])
def test_own_files_of_questions_keep_all_accepted_answers(answers: Any, tmp_path: Path) -> None:
    train = write(tmp_path / "train.parquet", [{"question": "q", "context": "c\td", "answers": answers}])
    validation = write(tmp_path / "v.jsonl", [{"question": "v", "context": "c", "answers": answers}])
    task = question_answering.question_task("mine", "fi", train, validation)
    assert texts(task) == {("Question: q Context: c\td", "first")}
    (info,) = [
        info for batch in batches.eval_batches(task, DataConfig(task, (task,), 64, 8, 2, 2)) for info in batch[1]
    ]
    assert info.answers == ("first", "second")

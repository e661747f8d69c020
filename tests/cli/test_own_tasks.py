"""Runs over tasks that a user brings: pairs with named fields, a spec, seqio's; and those that are refused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import seqio

from mrt5_jax.cli.main import main

from .small_run import SIZES

RUN = """
from __gin__ import dynamic_registration
from mrt5_jax import config
from mrt5_jax.tasks import diagnostics
import {module}
include 'models/byt5_tiny.gin'
include 'runs/base.gin'
TRAIN_TASK = '{task}'
INPUT_LENGTH = 24
TARGET_LENGTH = 24
DROPOUT_RATE = 0.0
"""
SMALL = [
    *(f"--gin.config.ModelConfig.{name}={value}" for name, value in SIZES.items()),
    *("--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=4", "--gin.config.OptimizerConfig.warmup_steps=0"),
    *("--gin.config.TrainingConfig.eval_batches=1", "--gin.config.ExecutionConfig.log_every=1"),
]
SEQIO = """
import seqio
import tensorflow as tf

def numbers(split, shuffle_files, seed=None):
    return tf.data.Dataset.range(300).map(lambda number: {"text": tf.strings.as_string(number)})

def pairs(dataset):
    return dataset.map(lambda example: {"inputs": example["text"], "targets": example["text"]})

def accuracy(targets, predictions):
    return {"accuracy": sum(map(str.__eq__, targets, predictions)) / len(targets)}

def add(name, vocabulary):
    feature = seqio.Feature(vocabulary, add_eos=True)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(numbers, splits=["train", "validation"]),
        preprocessors=[pairs, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={"inputs": feature, "targets": feature},
        metric_fns=[accuracy],
    )

add("test.own.numbers", seqio.ByteVocabulary())
add("test.own.foreign", seqio.PassThroughVocabulary(1000))
seqio.MixtureRegistry.add("test.own.mixture", [("test.own.numbers", 3.0), ("diagnostics.copy", 1.0)])
seqio.MixtureRegistry.add("test.own.mixed", [("test.own.numbers", 1.0), ("test.own.foreign", 1.0)])
"""
SPEC = """
from mrt5_jax.data.registry import add_task
from mrt5_jax.data.sources import IndexedSource, one_by_one
from mrt5_jax.data.task_specs import TaskSpec

def example(split, index):
    return {"inputs": f"{split} {index}", "targets": str(index), "language": ("de", "sw")[index % 2]}

for name, sizes in (("both", {"train": 9, "validation": 5}), ("train_only", {"train": 9}), ("nothing", {})):
    add_task(TaskSpec(f"test.own.{name}", IndexedSource(one_by_one(example), sizes), languages=("de", "sw")))
"""


@pytest.fixture
def gin_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """The flag of a run whose gin file imports a module of a user's, which is written first, and names a task."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str, task: str) -> str:
        (tmp_path / "own_tasks.py").write_text(source)
        (tmp_path / "run.gin").write_text(RUN.format(module="own_tasks", task=task))
        return f"--gin_file={tmp_path}/run.gin"

    yield write
    sys.modules.pop("own_tasks", None)
    for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
        for name in [name for name in registry.names() if name.startswith("test.own.")]:
            registry.remove(name)


def trains(model_dir: Path, *flags: str) -> list[str]:
    """Trains two steps; returns the names of what the last evaluation measured."""
    assert main(["train", *flags, f"--gin.MODEL_DIR='{model_dir}'", *SMALL]) == 0
    lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] > 0 for line in lines if "loss" in line] == [True, True]
    return [name for name in lines[-1] if name.startswith("eval/")]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_pairs_with_named_fields_are_trained_on(suffix: str, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        records = [{"question": f"{split}\t{number}\nwhat?", "answer": f"{number}"} for number in range(8)]
        path = tmp_path / f"{split}.{suffix}"
        if suffix == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
        else:
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
    flags = [
        *("--gin_file=runs/finetune_pairs.gin", "--gin.TASK_NAME='qa'", "--gin.GATE_LAYER=1"),
        *("--gin.config.EvaluationConfig.deletions=('hard',)", "--gin.config.ExecutionConfig.max_rungs=1"),
        *(f"--gin.{split.upper()}_FILES='{tmp_path}/{split}.{suffix}'" for split in ("train", "validation")),
        *("--gin.INPUT_FIELD='question'", "--gin.TARGET_FIELD='answer'", "--gin.LANGUAGE='en'"),
    ]
    assert all(name.startswith("eval/characters.qa:") for name in trains(tmp_path / "model", *flags))


@pytest.mark.slow
def test_a_users_mixture_of_seqio_is_trained_on_and_its_task_evaluated(gin_file, tmp_path: Path) -> None:
    flags = [gin_file(SEQIO, "test.own.mixture"), "--gin.EVAL_TASKS=('test.own.numbers',)"]
    assert any(name.startswith("eval/test.own.numbers/") for name in trains(tmp_path / "model", *flags))


@pytest.mark.slow
def test_a_users_module_imports_seqio_without_a_word_and_mixes_tasks_that_were_imported_before(
    gin_file, tmp_path: Path
) -> None:
    """In a process of its own, where nothing has imported seqio yet."""
    flags = ["--gin.MODEL_DIR='unused'", "--gin.BATCH_SIZE=4", "--gin.TRAIN_STEPS=1", "--num_examples=2"]
    command = [sys.executable, "-m", "mrt5_jax", "data", "show", gin_file(SEQIO, "test.own.mixture"), *flags]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment["PYTHONPATH"] = str(tmp_path)
    shown = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert {line.split()[0] for line in shown.stdout.splitlines()[::3]} == {"test.own.numbers", "diagnostics.copy"}


@pytest.mark.slow
def test_a_users_spec_is_trained_on(gin_file, tmp_path: Path) -> None:
    assert trains(tmp_path / "model", gin_file(SPEC, "test.own.both"))


@pytest.mark.parametrize(
    ("source", "task", "message"),
    [
        (SEQIO, "test.own.foreign", "its inputs are in PassThroughVocabulary of 1000 ids, not in ByT5's bytes"),
        (SEQIO, "test.own.mixed", "'test.own.foreign': its inputs are in PassThroughVocabulary of 1000 ids, not in"),
        (SEQIO, "test.own.number", "no task or mixture is called 'test.own.number': did you mean test.own.numbers"),
        (SPEC, "test.own.nothing", "task 'test.own.nothing' has no train split, nor any other"),
        (SPEC, "test.own.train_only", "task 'test.own.train_only' has no validation split, only train"),
    ],
)
def test_a_task_that_cannot_be_trained_on_is_refused_at_the_start(
    source: str, task: str, message: str, gin_file, refused, tmp_path: Path
) -> None:
    assert message in refused("train", gin_file(source, task), f"--gin.MODEL_DIR='{tmp_path / 'model'}'", *SMALL)

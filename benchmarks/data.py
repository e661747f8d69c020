"""How fast examples come, and how long training waits for them: `python -m benchmarks.data`.

Span corruption 1024 -> 189 of text files, as the pretraining recipes have it: documents joined with EOS, every example
a full cut of 1193 ids. Packed and plain rows take turns in one process on the same cores, and so do rows as they come
and rows dealt to eight devices, of text and of the mixture of its languages. Then the training loop runs
over the same files with the model of the other benchmarks (emb 512, mlp 1024, 9 + 3 layers, gate at 3) in batches of 8,
and reports the share of each step that it waited for its batch.

First of all the files are opened with an empty cache, as every host does once: they are read to their end, and what is
compressed or lies in a bucket is copied. Without --files, text in four scripts is made of random words.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.bench_model import CONFIG, EXECUTION
from mrt5_jax.config import CheckpointConfig, DataConfig, EvaluationConfig, RunConfig, TrainingConfig
from mrt5_jax.data.batches import TrainBatches, train_batches
from mrt5_jax.data.dealing import Dealing
from mrt5_jax.data.expectation import Expectation, Weights, feature_names
from mrt5_jax.data.registry import task_languages
from mrt5_jax.data.text_files import TextFile, find_files
from mrt5_jax.tasks.span_corruption import text_mixture, text_task
from mrt5_jax.training.loop import train

INPUT_LENGTH, TARGET_LENGTH, BATCH = 1024, 189, 8
DEVICES = 8
"""That rows are dealt to."""
WARM_UP = 2
"""Steps that are not counted: the first one compiles, and the second finds batches that were made meanwhile."""

ALPHABETS = {
    "en": "abcdefghijklmnopqrstuvwxyz",
    "ru": "абвгдежзиклмнопрстуфхцчшы",
    "hi": "अआइकखगघचजतदनपबमयरलवसह",
    "zh": "的一是不了人我在有他这中大来上国",
}
CORPUS_BYTES = 1 << 23  # of every language


class Measured(NamedTuple):
    name: str
    unit: str
    values: Sequence[float]

    def summary(self) -> dict[str, Any]:
        values = self.values
        return {"unit": self.unit, "median": statistics.median(values), "least": min(values), "most": max(values)}


def write_corpus(folder: Path) -> str:
    """Text files of random words, a line a document; returns their glob."""
    generator = np.random.default_rng(0)
    for language, letters in ALPHABETS.items():
        words = ["".join(generator.choice(list(letters), size)) for size in generator.integers(1, 12, 5000)]
        lines, written = [], 0
        while written < CORPUS_BYTES:
            lines.append(" ".join(generator.choice(words, generator.integers(5, 600))))
            written += len(lines[-1].encode()) + 1
        (folder / f"{language}.txt").write_text("\n".join(lines), encoding="utf-8")
    return f"{folder}/*.txt"


def data_config(task: str) -> DataConfig:
    return DataConfig(task, (task,), INPUT_LENGTH, TARGET_LENGTH, BATCH, BATCH)


class Size(NamedTuple):
    """Of batches, of which one of several processes reads its share."""

    task: str
    rows: int
    processes: int = 1
    packed: bool = False

    def label(self) -> str:
        of = f", one of {self.processes} processes" if self.processes > 1 else ""
        return f"{self.task}, {self.rows}{' packed' if self.packed else ''} rows{of}"


class Unfed(Expectation):
    """Knows nothing, without a run that would tell it what rows keep."""

    def weights(self, batch: int) -> Weights:
        return super().weights(0)


def examples_per_second(batches: TrainBatches, num_batches: int) -> float:
    count, begin = 0, time.perf_counter()
    for _ in range(num_batches):
        batch = next(batches)
        packed = batch.get("encoder_segment_ids")
        count += len(batch["encoder_input_tokens"]) if packed is None else int(packed.max(axis=1).sum())
    return count / (time.perf_counter() - begin)


def measure_opening(files: str, rounds: int) -> list[Measured]:
    """Bytes a second of files that the cache does not know."""
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, MRT5_CACHE_DIR=cache):
            begin = time.perf_counter()
            size = sum(TextFile(path).index.num_bytes for path in find_files(files))
            found.append(size / 1e6 / (time.perf_counter() - begin))
    return [Measured("opened for the first time", "MB/s", found)]


def in_turns(contestants: Mapping[str, TrainBatches], rounds: int, num_batches: int) -> list[Measured]:
    """Examples a second of each, in turns of so many batches."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for batches in contestants.values():
        examples_per_second(batches, num_batches)  # opens files, fills buffers
    for _ in range(rounds):
        for name, batches in contestants.items():
            found[name].append(examples_per_second(batches, num_batches))
    return [Measured(name, "examples/s", values) for name, values in found.items()]


def measure_speed(task: str, rounds: int, num_batches: int) -> list[Measured]:
    plain = data_config(task)
    contestants = {
        "packed rows": train_batches(dataclasses.replace(plain, rows="packed"), seed=0),
        "one example a row": train_batches(plain, seed=0),
    }
    return in_turns(contestants, rounds, num_batches)


def measure_dealing(tasks: Mapping[str, str], rounds: int, num_batches: int) -> list[Measured]:
    """Pairs of the same batches as they come and dealt to 8 devices, and how much of the speed is left."""
    found = []
    for size in (
        Size("text", 8),
        Size("text", 128),
        Size("text", 8, processes=2),
        Size("text", 128, processes=2),
        Size("mixture", 8),
        Size("mixture", 128),
        Size("text", 8, packed=True),
    ):
        task = tasks[size.task]
        data = dataclasses.replace(
            data_config(task), batch_size=size.rows, rows="packed" if size.packed else "one_a_row"
        )
        own = tuple(range(DEVICES // size.processes))
        dealing = Dealing(Unfed(feature_names(task_languages(task))), DEVICES, own, INPUT_LENGTH)
        pair = {
            name: train_batches(data, seed=0, num_shards=size.processes, dealing=how)
            for name, how in {size.label(): None, f"{size.label()}, dealt": dealing}.items()
        }
        turns = in_turns(pair, rounds, max(1, num_batches * BATCH * size.processes // size.rows))
        of_undealt = [dealt / as_they_come for as_they_come, dealt in zip(*(one.values for one in turns), strict=True)]
        found += [*turns, Measured("  dealt over as they come", "", of_undealt)]
    return found


def measure_waiting(task: str, rounds: int, model_dir: str) -> list[Measured]:
    run = RunConfig(
        model_dir=model_dir,
        model=CONFIG,
        execution=dataclasses.replace(EXECUTION, log_every=1),
        data=data_config(task),
        training=TrainingConfig(num_steps=WARM_UP + rounds, eval_every=WARM_UP + rounds, eval_batches=1),
        checkpoints=CheckpointConfig(every=WARM_UP + rounds),
        evaluation=EvaluationConfig(deletions=("none",)),
    )
    train(run)
    lines = [json.loads(line) for line in (Path(model_dir) / "timing.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "seconds_per_step" in line][WARM_UP:]
    shares = [100 * line["data_seconds_per_step"] / line["seconds_per_step"] for line in steps]
    return [
        Measured("training step", "s", [line["seconds_per_step"] for line in steps]),
        Measured("of it waiting for data", "%", shares),
    ]


def measure_all(files: str, model_dir: str, args: argparse.Namespace) -> list[Measured]:
    opening = [] if args.dealing else measure_opening(files, args.rounds)
    task = text_task(files, input_length=INPUT_LENGTH)
    tasks = {"text": task, "mixture": text_mixture(files, input_length=INPUT_LENGTH)}
    dealing = measure_dealing(tasks, args.rounds, args.batches)
    if args.dealing:
        return dealing
    speed = measure_speed(task, args.rounds, args.batches)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    waiting = measure_waiting(task, args.rounds, model_dir)
    return [*opening, *speed, *dealing, Measured("most memory before training", "GB", [memory]), *waiting]


def print_table(measured: Sequence[Measured]) -> None:
    table = Table("", "", "median", "least", "most")
    for one in measured:
        summary = one.summary()
        table.add_row(
            one.name,
            one.unit,
            *(
                f"{summary[key]:,.3g}" if summary[key] < 100 else f"{summary[key]:,.0f}"
                for key in ("median", "least", "most")
            ),
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", metavar="GLOB", help="text files, here or in a bucket (default: random words)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant, and steps (default: 5)")
    parser.add_argument("--batches", type=int, default=500, help="batches of 8 in a turn (default: 500)")
    parser.add_argument("--json", metavar="FILE", help="writes the figures here as well")
    parser.add_argument("--dealing", action="store_true", help="measures what dealing costs and nothing else")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = args.files or write_corpus(Path(folder))
        measured = measure_all(files, f"{folder}/model", args)
    print(f"{INPUT_LENGTH} -> {TARGET_LENGTH}, batch {BATCH}; devices: {jax.devices()}")
    print_table(measured)
    if args.json:
        summary = {one.name: one.summary() for one in measured}
        Path(args.json).write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Streams of examples out of registered tasks and mixtures, addressed by position."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from mrt5_jax.config import DataConfig
from mrt5_jax.data.arrangements import ExampleInfo
from mrt5_jax.data.source_files import count_documents, name_files
from mrt5_jax.data.sources import PositionedSource, cut_feature, map_examples
from mrt5_jax.data.task_names import label_of
from mrt5_jax.data.text_files import SourceFile
from mrt5_jax.errors import UserError

_CHOICES = 1 << 16  # choices between a mixture's tasks that are drawn together


def find_task(name: str) -> seqio.Task | seqio.Mixture:
    """The registered task or mixture of that name.

    Raises:
        UserError: there is none; the nearest names are offered.
    """
    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    if name not in known:
        labelled = [other for other in known if label_of(other) == name]
        if len(labelled) == 1:
            return seqio.get_mixture_or_task(labelled[0])
        near = labelled or difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        offer = f"did you mean {' or '.join(near)}?" if near else "is the module that registers it imported?"
        raise UserError(f"no task or mixture is called '{name}': {offer}")
    return seqio.get_mixture_or_task(name)


def find_split(name: str, split: str) -> list[seqio.Task]:
    """The tasks behind a name that have the split.

    Raises:
        UserError: an unknown task, a mixture of no tasks, no such split, or one that is not there to be read.
    """
    tasks = seqio.get_subtasks(find_task(name))
    if not tasks:
        raise UserError(f"the mixture '{label_of(name)}' has no tasks: name at least one")
    having = [task for task in tasks if split in task.splits]
    if not having:
        splits = sorted({have for task in tasks for have in task.splits})
        files = [file for task in tasks for file in source_files(task)]
        if files and split == "validation":
            raise UserError(
                f"{name_files(files)}: too little text to hold a part out for validation ({count_documents(files)}): "
                "give more text, or files for validation"
            )
        raise UserError(f"task '{label_of(name)}' has no {split} split, only {', '.join(splits)}")
    for task in having:
        if isinstance(task.source, PositionedSource):
            task.source.check(split)
    return having


def source_files(task: seqio.Task) -> Sequence[SourceFile]:
    """The user's files that a task reads; none where it reads something else."""
    return task.source.files if isinstance(task.source, PositionedSource) else ()


class TrainStream:
    """One shard of the endless training examples of a task or mixture."""

    def __init__(self, data: DataConfig, *, seed: int, shard_index: int, num_shards: int):
        self._data = data
        self._seed = seed
        self._shard = seqio.ShardInfo(index=shard_index, num_shards=num_shards)
        self._tasks = find_split(data.train_task, "train")
        self.files = [file for task in self._tasks for file in source_files(task)]
        if len(self._tasks) > 1:
            mixture = seqio.MixtureRegistry.get(data.train_task)
            rates = np.array([mixture.get_rate(task) for task in self._tasks], np.float64)
            self._shares = rates / rates.sum()

    def batches(self, *, start: int, rows: int) -> Iterator[Any]:
        """`inputs` and `targets`, padded, int32 [rows length], from this shard's example `start` on."""
        starts = self._starts(start)
        lengths = {"inputs": self._data.input_length, "targets": self._data.target_length}
        datasets = [self._dataset(task, begin, lengths) for task, begin in zip(self._tasks, starts, strict=True)]
        if len(datasets) == 1:
            dataset = datasets[0]
        else:
            dataset = tf.data.Dataset.choose_from_datasets(datasets, self._choice_dataset(start))
        dataset = dataset.padded_batch(rows, padded_shapes={key: [length] for key, length in lengths.items()})
        return dataset.prefetch(2).as_numpy_iterator()

    def _dataset(self, task: seqio.Task, start: int, lengths: Mapping[str, int]) -> tf.data.Dataset:
        order = {"seed": self._seed, "shuffle": self._data.shuffle, "shard_info": self._shard, "num_epochs": None}
        if isinstance(task.source, PositionedSource):
            dataset = _transform(task, task.source.stream("train", start=start, **order), lengths, self._seed)
        else:  # anyone's task: its transformations may drop or add examples, so the way to `start` leads through them
            dataset = task.get_dataset(lengths, "train", **order).skip(start)
        return map_examples(dataset, lambda example: {key: example[key][:length] for key, length in lengths.items()})

    def _choices(self, block: int | np.integer) -> np.ndarray:
        """int64 [_CHOICES]: which task each example of a block comes from; every shard draws its own."""
        key = np.array([self._seed, (self._shard.index << 32) + int(block)], np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        return generator.choice(len(self._shares), size=_CHOICES, p=self._shares)

    def _starts(self, start: int) -> Sequence[int]:
        """How many of the first `start` examples came from each task."""
        if len(self._tasks) == 1:
            return [start]
        counts = np.zeros(len(self._tasks), np.int64)
        for block in range(-(-start // _CHOICES)):
            chosen = self._choices(block)[: start - block * _CHOICES]
            counts += np.bincount(chosen, minlength=len(self._tasks))
        return counts.tolist()

    def _choice_dataset(self, start: int) -> tf.data.Dataset:
        def choices(block: tf.Tensor) -> tf.data.Dataset:
            drawn = tf.numpy_function(self._choices, [block], tf.int64)
            return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(drawn, [_CHOICES]))

        blocks = tf.data.Dataset.range(start // _CHOICES, tf.int64.max)
        return blocks.flat_map(tf.autograph.experimental.do_not_convert(choices)).skip(start % _CHOICES)


def eval_examples(
    name: str, data: DataConfig, *, split: str, num_examples: int | None
) -> Iterator[tuple[ExampleInfo, Mapping[str, Any]]]:
    """The examples of a split, task by task, in an order that never changes and mixes the languages of a task."""
    lengths = {"inputs": data.input_length, "targets": data.target_length}
    for task in find_split(name, split):
        if isinstance(task.source, PositionedSource):
            raw = task.source.stream(split, seed=0, shuffle=True, num_epochs=1)
            dataset = _transform(task, raw, lengths, seed=0)
        else:
            dataset = task.get_dataset(lengths, split, shuffle=False, seed=0)
        if num_examples is not None:
            dataset = dataset.take(num_examples)
        examples: Any = dataset.as_numpy_iterator()
        for number, example in enumerate(examples):
            language = example.get("language", b"").decode()
            answers = tuple(answer.decode(errors="replace") for answer in example.get("answers", ()))
            cut = [
                bool(example.get(cut_feature(key), False)) or len(example[key]) > length
                for key, length in lengths.items()
            ]
            yield ExampleInfo(task.name, language, int(example.get("index", number)), answers, *cut), example


def _transform(task: seqio.Task, dataset: tf.data.Dataset, lengths: Mapping[str, int], seed: int) -> tf.data.Dataset:
    """A task's own transformations, which know how long rows may be (ours cut them and keep their EOS)."""
    return task.preprocess_postcache(task.preprocess_precache(dataset, seed), lengths, seed)

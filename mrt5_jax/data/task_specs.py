"""What a task is: where its examples come from, how they become rows, and how answers to them are measured.

    add_task(TaskSpec("shouting", source, preprocess=lambda example: {**example, "targets": example["inputs"].upper()}))

Training, evaluation and inference need nothing more of a task; a mixture is names of tasks with rates.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mrt5_jax.data.sources import (
    SEED_FEATURE,
    Addresses,
    Example,
    ExampleSource,
    IndexedSource,
    Order,
    Positions,
    RowLengths,
)
from mrt5_jax.data.text_files import SourceFile
from mrt5_jax.data.vocabulary import EOS_ID, encode

Metric = Callable[[Sequence[Any], Sequence[Any]], Mapping[str, Any]]
"""(targets, predictions), both after `postprocess` -> values by name; seqio's order of arguments."""

INPUTS, TARGETS = "inputs", "targets"
LANGUAGE = "language"
_END = np.array([EOS_ID], np.int32)
ANSWERS = "answers"


def unchanged(example: Example) -> Example:
    """Returns the example as its source gives it."""
    return example


def ended_rows(example: Example, lengths: RowLengths | None) -> Example:
    """Makes `inputs` and `targets` int32 ids with their EOS, cut so that it fits; SEED_FEATURE goes.

    Texts stay, as `inputs_pretokenized` and `targets_pretokenized`. `inputs_cut` and `targets_cut` (bool) say whether
    something was cut off.

    Args:
        lengths: None cuts nothing.
    """
    ended = {key: value for key, value in example.items() if key != SEED_FEATURE}
    for key in (INPUTS, TARGETS):
        value = example[key]
        if isinstance(value, str | bytes):
            ended[f"{key}_pretokenized"] = value
            value = encode(value)
        ids = value if lengths is None else value[: lengths[key] - 1]
        ended[cut_feature(key)] = len(ids) < len(value)
        ended[key] = np.concatenate((ids, _END))
    return ended


def cut_feature(key: str) -> str:
    """Names what says of an example whether its `inputs` or `targets` were cut."""
    return f"{key}_cut"


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """A task.

    Attributes:
        name: under which runs know it.
        source: of its examples; what it reads decides which splits there are.
        preprocess: an example of the source -> `inputs` and `targets` (text, or int32 ids without EOS) and, where
            there are any, `answers` (all texts that are accepted) and `language`. It draws from `seed` alone.
        postprocess: (text, example, is_target) -> what metrics compare; as seqio's `postprocess_fn`.
        metrics: of all targets and predictions.
        languages: that its examples have. Where there is one, all of them are of it.
        labels: all targets that a classification has, as texts; evaluation can compare their probabilities.
        make_rows: what `preprocess` gives, with the run's lengths -> rows of ids.
    """

    name: str
    source: ExampleSource
    preprocess: Callable[[Example], Example] = unchanged
    postprocess: Callable[..., Any] | None = None
    metrics: Sequence[Metric] = ()
    languages: tuple[str, ...] = ()
    make_rows: Callable[[Example, RowLengths | None], Example] = ended_rows
    labels: tuple[str, ...] = ()

    @property
    def splits(self) -> Sequence[str]:
        """Their names."""
        return self.source.splits

    @property
    def files(self) -> Sequence[SourceFile]:
        """The user's that it reads."""
        return self.source.files

    def read(
        self, split: str, positions: Positions, order: Order, lengths: RowLengths | None = None
    ) -> Iterator[Example]:
        """Yields rows at some positions of an order, see `ExampleSource.read`."""
        return self._rows(self.source.read(split, positions, order, lengths), lengths)

    def read_at(
        self, split: str, blocks: Iterator[Addresses], order: Order, lengths: RowLengths | None = None
    ) -> Iterator[Example]:
        """Yields rows at some addresses, see `IndexedSource.read_at`; of a task with such a source."""
        assert isinstance(self.source, IndexedSource)
        return self._rows(self.source.read_at(split, blocks, order), lengths)

    def read_once(self, split: str, lengths: RowLengths | None = None) -> Iterator[Example]:
        """Yields all rows of a split, always in the same order."""
        return self._rows(self.source.read_once(split, lengths), lengths)

    def _rows(self, examples: Iterator[Example], lengths: RowLengths | None) -> Iterator[Example]:
        only = {LANGUAGE: self.languages[0]} if len(self.languages) == 1 else {}
        for example in examples:
            yield {**only, **self.make_rows(self.preprocess(example), lengths)}


Rate = float | Callable[[TaskSpec], float]
"""How often a task is drawn, relative to the others; or what tells it of the task."""


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Tasks that are trained together.

    Attributes:
        rates: by the names of the tasks.
    """

    name: str
    tasks: tuple[TaskSpec, ...]
    rates: Mapping[str, Rate]

    def rate(self, task: TaskSpec) -> float:
        """Returns how often a task is drawn, relative to the others."""
        rate = self.rates[task.name]
        return float(rate(task) if callable(rate) else rate)

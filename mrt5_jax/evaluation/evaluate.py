"""Teacher-forced evaluation under any deletion: batches in, records out."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Int

from mrt5_jax.config import Deletion, ModelConfig
from mrt5_jax.data.arrangements import INDEX, ExampleInfo
from mrt5_jax.data.batches import EvalBatch
from mrt5_jax.data.vocabulary import decode_to_text
from mrt5_jax.evaluation.programs import Evaluator, RowResults
from mrt5_jax.evaluation.records import Record
from mrt5_jax.model.parameters import Params


class Evaluation(NamedTuple):
    records: list[Record]
    """In the order of the batches; of each batch, all of one deletion before the next."""
    milliseconds: dict[Deletion, float]
    """Median of the model's time for a batch, compilation left out."""
    num_inputs_cut: int = 0
    """Examples of which a part of the input was left out, since it is longer than the run's rows."""
    num_targets_cut: int = 0


def deletions_for(config: ModelConfig, wanted: Sequence[Deletion]) -> tuple[Deletion, ...]:
    """Returns the deletions to evaluate a model under: `wanted`, or "none" for a model without a gate."""
    return tuple(dict.fromkeys(wanted)) if config.gate else ("none",)


def evaluate(
    evaluator: Evaluator,
    params: Params,
    batches: Iterable[EvalBatch],
    deletions: Sequence[Deletion],
    put: Callable[[dict[str, np.ndarray]], Mapping[str, Array]] = jax.device_put,
) -> Evaluation:
    """Runs `collect_records` by the clock: of each input length the first batch runs twice, first to compile."""
    timed = _Timed(evaluator)
    examples: list[ExampleInfo] = []

    def noted() -> Iterator[EvalBatch]:
        for batch in batches:
            examples.extend(batch.examples)
            yield batch

    records = collect_records(timed, params, noted(), deletions, put)
    num_inputs_cut = sum(example.input_cut for example in examples)
    num_targets_cut = sum(example.target_cut for example in examples)
    return Evaluation(records, timed.milliseconds(), num_inputs_cut, num_targets_cut)


def collect_records(
    evaluator: Evaluator,
    params: Params,
    batches: Iterable[EvalBatch],
    deletions: Sequence[Deletion],
    put: Callable[[dict[str, np.ndarray]], Mapping[str, Array]] = jax.device_put,
) -> list[Record]:
    """Evaluates every example under every deletion, reading the data once.

    Args:
      batches: of few shapes; a program is compiled for each.
      deletions: run one after another on each batch, so that their times meet the same conditions.
      put: brings a batch of host arrays [batch ...] to where the parameters are.
    """
    records: list[Record] = []
    for batch in batches:
        arrays = put({**batch.arrays, INDEX: _indices(batch)})
        for deletion in deletions:
            records += make_records(batch.examples, evaluator(params, arrays, deletion), deletion)
    return records


class _Timed:
    """An evaluator that takes the time of every batch; where a program may have to compile, it runs it once before."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._compiled: set[tuple[int, Deletion]] = set()
        self._seconds: dict[Deletion, list[float]] = {}

    def __call__(self, params: Params, batch: Mapping[str, Array], deletion: Deletion) -> RowResults:
        program = batch["encoder_input_tokens"].shape[1], deletion
        if program not in self._compiled:
            jax.block_until_ready(self._evaluator(params, batch, deletion))
            self._compiled.add(program)
        start = time.perf_counter()
        results = jax.block_until_ready(self._evaluator(params, batch, deletion))
        self._seconds.setdefault(deletion, []).append(time.perf_counter() - start)
        return results

    def milliseconds(self) -> dict[Deletion, float]:
        """Returns the median of each deletion's batches."""
        return {deletion: 1000 * statistics.median(times) for deletion, times in self._seconds.items()}


def _on_host(results: RowResults) -> Any:
    """The results of all rows, in every process."""
    if jax.process_count() == 1:
        return jax.device_get(results)
    return multihost_utils.process_allgather(results, tiled=True)


def _indices(batch: EvalBatch) -> Int[np.ndarray, " batch"]:
    indices = np.zeros(batch.arrays["encoder_input_tokens"].shape[0], np.int32)
    indices[: len(batch.examples)] = [example.index for example in batch.examples]
    return indices


def make_records(examples: Sequence[ExampleInfo], results: RowResults, deletion: Deletion) -> list[Record]:
    """Makes the records of a batch's first rows; the rows after them are padding."""
    host = _on_host(results)
    return [
        Record(
            task=example.task,
            language=example.language,
            index=int(example.index),
            deletion=deletion,
            nll=float(host.losses.nll[row]),
            num_target_tokens=int(host.losses.num_tokens[row]),
            num_correct_tokens=int(host.losses.num_correct[row]),
            sequence_correct=bool(host.losses.all_correct[row]),
            num_input_tokens=int(host.num_input_tokens[row]),
            num_kept_tokens=int(host.num_kept_tokens[row]),
            rung=int(host.rung[row]),
            rescued=bool(host.rescued[row]),
            prediction=decode_to_text(host.predictions[row]),
            num_dropped_tokens=int(host.num_dropped_tokens[row]),
        )
        for row, example in enumerate(examples)
    ]

"""Teacher-forced evaluation under any deletion: batches in, records out."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Int

from mrt5_jax.config import Deletion, ModelConfig
from mrt5_jax.data.batches import EvalBatch, ExampleInfo
from mrt5_jax.data.vocabulary import decode_to_text
from mrt5_jax.evaluation.programs import INDEX, Evaluator, RowResults
from mrt5_jax.evaluation.records import Record
from mrt5_jax.forward import Params


class Cut(NamedTuple):
    """Examples of which something was left out, since it is longer than the run's rows."""

    inputs: int
    targets: int


class Evaluation(NamedTuple):
    records: list[Record]
    """In the order of the batches; of each batch, all of one deletion before the next."""
    milliseconds: dict[Deletion, float]
    """Median of the model's time for a batch, compilation left out."""
    cut: Cut = Cut(0, 0)


def deletions_for(config: ModelConfig, wanted: Sequence[Deletion]) -> tuple[Deletion, ...]:
    """The deletions to evaluate a model under: `wanted`, or "none" for a model without a gate."""
    return tuple(dict.fromkeys(wanted)) if config.gate else ("none",)


def evaluate(
    evaluator: Evaluator,
    params: Params,
    batches: Iterable[EvalBatch],
    deletions: Sequence[Deletion],
    put: Callable[[dict[str, np.ndarray]], Mapping[str, Array]] = jax.device_put,
) -> Evaluation:
    """Evaluates every example under every deletion, reading the data once.

    Args:
      batches: of few shapes; a program is compiled for each.
      deletions: run one after another on each batch, so that their times meet the same conditions.
      put: brings a batch of host arrays [batch ...] to where the parameters are.
    """
    records: list[Record] = []
    examples: list[ExampleInfo] = []
    seconds: dict[Deletion, list[float]] = {deletion: [] for deletion in deletions}
    compiled: set[int] = set()  # input lengths
    for batch in batches:
        arrays = put({**batch.arrays, INDEX: _indices(batch)})
        length = arrays["encoder_input_tokens"].shape[1]
        for deletion in deletions:
            if length not in compiled:
                jax.block_until_ready(evaluator(params, arrays, deletion))  # compiles
            start = time.perf_counter()
            results = jax.block_until_ready(evaluator(params, arrays, deletion))
            seconds[deletion].append(time.perf_counter() - start)
            records += make_records(batch.examples, results, deletion)
        compiled.add(length)
        examples += batch.examples
    milliseconds: dict[Deletion, float] = {
        deletion: 1000 * statistics.median(times) for deletion, times in seconds.items() if times
    }
    cut = Cut(sum(example.input_cut for example in examples), sum(example.target_cut for example in examples))
    return Evaluation(records, milliseconds, cut)


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
    """The records of a batch's first rows; the rows after them are filler."""
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
        )
        for row, example in enumerate(examples)
    ]

"""Teacher-forced evaluation under any deletion: batches in, records out."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Bool, Int

from mrt5_jax.compaction.ladder import BodyCost
from mrt5_jax.config import Deletion, ModelConfig
from mrt5_jax.data.arrangements import INDEX, ExampleInfo
from mrt5_jax.data.batches import EvalBatch
from mrt5_jax.data.vocabulary import BYTE_OFFSET, MAX_SENTINELS, NUM_BYTES, decode_to_text
from mrt5_jax.evaluation.costs import Costs, WindowTime
from mrt5_jax.evaluation.programs import Evaluator, RowResults
from mrt5_jax.evaluation.records import Record, deletions_in, of_deletion, summarize
from mrt5_jax.evaluation.window_dealing import WindowDealing, undealt
from mrt5_jax.model.forward import DeviceBatch
from mrt5_jax.model.parameters import Params


class Evaluation(NamedTuple):
    """What an evaluation found: a record for each example and deletion, and what was clocked.

    Examples:
        >>> found = mrt5_jax.evaluate(model, "diagnostics.copy", num_examples=4)
        >>> len(found.records), sorted(found.summary())
        (8, ['hard', 'soft'])
    """

    records: list[Record]
    """In the order of the batches; of each batch, all of one deletion before the next."""
    milliseconds: dict[Deletion, float]
    """Median of the model's time for a batch, compilation left out."""
    num_inputs_cut: int = 0
    """Examples of which a part of the input was left out, since it is longer than the run's rows."""
    num_targets_cut: int = 0
    body: BodyCost | None = None
    """By which records tell what was saved; None: in a model without a gate."""
    task_metrics: dict[str, dict[str, dict[str, float]]] | None = None
    """By deletion and task, the task's own metrics of all its examples together; None where nothing was generated."""
    costs: Costs = Costs()

    def summary(self) -> dict[Deletion, dict[str, float]]:
        """Computes the metrics of each deletion, see `records.summarize`."""
        return {
            deletion: summarize(of_deletion(self.records, deletion), self.body)
            for deletion in deletions_in(self.records)
        }


def deletions_for(config: ModelConfig, wanted: Sequence[Deletion]) -> tuple[Deletion, ...]:
    """Returns the deletions to evaluate a model under: `wanted`, or "none" for a model without a gate."""
    return tuple(dict.fromkeys(wanted)) if config.gate else ("none",)


def evaluate(
    evaluator: Evaluator,
    params: Params,
    batches: Iterable[EvalBatch],
    deletions: Sequence[Deletion],
    put: Callable[[dict[str, np.ndarray]], Mapping[str, Array]] = jax.device_put,
    dealing: WindowDealing | None = None,
    rounds: int = 1,
) -> Evaluation:
    """Runs `collect_records` by the clock: the first batch of each input length runs once before, to compile."""
    timed = _Timed(evaluator)
    languages: list[list[str]] = []
    num_inputs_cut = num_targets_cut = 0

    def noted() -> Iterator[EvalBatch]:
        nonlocal num_inputs_cut, num_targets_cut
        for batch in batches:
            languages.append([example.language for example in batch.examples])
            num_inputs_cut += sum(example.input_cut for example in batch.examples)
            num_targets_cut += sum(example.target_cut for example in batch.examples)
            yield batch

    records = collect_records(timed, params, noted(), deletions, put, dealing, rounds)
    costs = Costs(timed.window_times(languages, rounds * len(deletions)))
    return Evaluation(records, timed.milliseconds(), num_inputs_cut, num_targets_cut, costs=costs)


def collect_records(
    evaluator: Evaluator,
    params: Params,
    batches: Iterable[EvalBatch],
    deletions: Sequence[Deletion],
    put: Callable[[dict[str, np.ndarray]], Mapping[str, Array]] = jax.device_put,
    dealing: WindowDealing | None = None,
    rounds: int = 1,
) -> list[Record]:
    """Evaluates every example under every deletion, reading the data once, as many batches as the evaluator takes.

    Args:
      batches: of few shapes; a program is compiled for each.
      deletions: run one after another on the same batches, so that their times meet the same conditions.
      put: brings a batch of host arrays [batch ...] to where the parameters are.
      dealing: how the rows of several batches are dealt to the devices; None: they lie as they come.
      rounds: how often all deletions take their turn on the same batches, so that there are more times to compare; all
        rounds give the same records.
    """
    records: list[Record] = []
    batches = iter(batches)
    while window := list(islice(batches, evaluator.window)):
        rows = [{**batch.arrays, INDEX: _indices(batch)} for batch in window]
        dealt = None if dealing is None else dealing.deal(rows)
        arrays = [put(batch) for batch in (rows if dealt is None else dealt.batches)]
        for _ in range(rounds - 1):
            for deletion in deletions:
                evaluator(params, arrays, deletion)
        results = {deletion: [_on_host(of) for of in evaluator(params, arrays, deletion)] for deletion in deletions}
        if dealing is not None and dealt is not None:
            results = {deletion: undealt(of, dealt.places) for deletion, of in results.items()}
            for batch, of_batch in zip(rows, results[deletions[-1]], strict=True):
                dealing.learn(batch, of_batch.num_kept_tokens)
        for number, batch in enumerate(window):
            length = batch.arrays["encoder_input_tokens"].shape[1]
            num_text_bytes = count_text_bytes(np.asarray(batch.arrays["decoder_target_tokens"]))
            for deletion in deletions:
                records += make_records(batch.examples, results[deletion][number], deletion, length, num_text_bytes)
    return records


class _Timed:
    """An evaluator by the clock: a batch takes its share of its window's time.

    What a deletion and an input length need is compiled before, by running one such batch.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.window = evaluator.window
        self._compiled: set[tuple[int, Deletion]] = set()
        self._calls: list[tuple[Deletion, float, int]] = []
        """Deletion, seconds and number of batches of each."""

    def __call__(self, params: Params, batches: Sequence[DeviceBatch], deletion: Deletion) -> list[RowResults]:
        for batch in batches:
            program = batch["encoder_input_tokens"].shape[1], deletion
            if program not in self._compiled:
                jax.block_until_ready(self._evaluator(params, [batch], deletion))
                self._compiled.add(program)
        jax.block_until_ready(batches)  # else the first deletion would wait for what brings them to the devices
        start = time.perf_counter()
        results = jax.block_until_ready(self._evaluator(params, batches, deletion))
        self._calls.append((deletion, time.perf_counter() - start, len(batches)))
        return results

    def milliseconds(self) -> dict[Deletion, float]:
        """Returns the median of each deletion's batches."""
        times: dict[Deletion, list[float]] = {}
        for deletion, seconds, num_batches in self._calls:
            times.setdefault(deletion, []).extend([seconds / num_batches] * num_batches)
        return {deletion: 1000 * statistics.median(own) for deletion, own in times.items()}

    def window_times(self, languages: Sequence[Sequence[str]], calls_of_a_window: int) -> tuple[WindowTime, ...]:
        """Returns what each call took; `languages` has those of the examples of each batch."""
        found = []
        for number, (deletion, seconds, num_batches) in enumerate(self._calls):
            first = number // calls_of_a_window * self.window
            own = Counter(language for batch in languages[first : first + num_batches] for language in batch)
            found.append(WindowTime(deletion, 1000 * seconds, dict(own)))
        return tuple(found)


def _on_host(results: RowResults) -> Any:
    """The results of all rows, in every process that has computed some of them."""
    if all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(results)):
        return jax.device_get(results)
    return multihost_utils.process_allgather(results, tiled=True)


def _indices(batch: EvalBatch) -> Int[np.ndarray, " batch"]:
    indices = np.zeros(batch.arrays["encoder_input_tokens"].shape[0], np.int32)
    indices[: len(batch.examples)] = [example.index for example in batch.examples]
    return indices


def count_text_bytes(targets: Int[np.ndarray, "batch target"]) -> Int[np.ndarray, " batch"]:
    """Counts the ids of each row that are bytes of text: 0x00 to 0xF4, of which alone UTF-8 is made.

    Ends of sequences and pads are none, nor are sentinels under either way of counting them.
    """
    first_other = BYTE_OFFSET + NUM_BYTES - MAX_SENTINELS["bytes"]
    return np.sum((targets >= BYTE_OFFSET) & (targets < first_other), axis=1)


def make_records(
    examples: Sequence[ExampleInfo],
    results: RowResults,
    deletion: Deletion,
    input_length: int,
    num_text_bytes: Int[np.ndarray, " batch"],
) -> list[Record]:
    """Makes the records of a batch's first rows, from results on the host; the rows after them are padding."""
    return [
        Record(
            task=example.task,
            language=example.language,
            index=int(example.index),
            deletion=deletion,
            nll=float(results.losses.nll[row]),
            num_target_tokens=int(results.losses.num_tokens[row]),
            num_correct_tokens=int(results.losses.num_correct[row]),
            sequence_correct=bool(results.losses.all_correct[row]),
            num_input_tokens=int(results.num_input_tokens[row]),
            num_kept_tokens=int(results.num_kept_tokens[row]),
            rung=int(results.rung[row]),
            rescued=bool(results.rescued[row]),
            prediction=decode_to_text(results.predictions[row]),
            num_dropped_tokens=int(results.num_dropped_tokens[row]),
            input_length=input_length,
            num_text_bytes=int(num_text_bytes[row]),
            kept_spans=spans_of(np.asarray(results.kept[row])),
        )
        for row, example in enumerate(examples)
    ]


def spans_of(kept: Bool[np.ndarray, " length"]) -> list[list[int]]:
    """Returns where a mask is true, as spans [start, end) in order: of 0110 1 it is [[1, 3], [4, 5]]."""
    edges = np.flatnonzero(np.diff(kept.astype(np.int8), prepend=0, append=0))
    return edges.reshape(-1, 2).tolist()

"""Rows regrouped over several batches: the records are those of batches that run by themselves, but for the rung."""

from typing import Any

import numpy as np
import pytest

from mrt5_jax.compaction.ladder import ByLength, Ladder
from mrt5_jax.config import Deletion, Dispatch
from mrt5_jax.data.arrangements import ExampleInfo, model_batch
from mrt5_jax.data.batches import EvalBatch
from mrt5_jax.data.vocabulary import EOS_ID
from mrt5_jax.evaluation.evaluate import collect_records, evaluate
from mrt5_jax.evaluation.programs import BatchByBatch, Evaluator, WindowEvaluator, evaluation_program
from mrt5_jax.evaluation.records import Record

from ..compaction.compilations import compilations

LADDERS = {6: Ladder((3, 6)), 8: Ladder((4, 8))}
TARGET, ROWS, EXAMPLES = 4, 4, 18


def make_batches(lengths: tuple[int, ...], examples: int = EXAMPLES) -> list[EvalBatch]:
    """Random examples, each a function of its index, in batches of 4 rows; their input lengths take turns.

    The last batch is filled up.
    """
    batches = []
    for number, start in enumerate(range(0, examples, ROWS)):
        length = lengths[number % len(lengths)]
        inputs, targets = np.zeros((ROWS, length), np.int32), np.zeros((ROWS, TARGET), np.int32)
        here = range(start, min(start + ROWS, examples))
        for row, index in enumerate(here):
            generator = np.random.default_rng(index)
            for ids in (inputs, targets):
                end = int(generator.integers(1, ids.shape[1]))
                ids[row, :end], ids[row, end] = generator.integers(3, 259, end), EOS_ID
        infos = tuple(ExampleInfo("toy", "en", index) for index in here)
        batches.append(EvalBatch(model_batch(inputs, targets), infos))
    return batches


def same_but_for_the_rung(found: list[Record], expected: list[Record]) -> None:
    """In the same order."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.nll == pytest.approx(other.nll, rel=1e-5)
        assert one._replace(nll=0.0, rung=0) == other._replace(nll=0.0, rung=0)


@pytest.fixture(scope="module")
def by_batch(tiny) -> Evaluator:
    """In one program for each deletion and length."""
    return BatchByBatch(ByLength(LADDERS, lambda ladder: evaluation_program(tiny.model, ladder)))


@pytest.mark.parametrize(
    ("dispatch", "deletion", "num_chunks", "num_shards"),
    [
        ("in_graph", "random", 1, 2),
        pytest.param("in_graph", "hard", 1, 1, marks=pytest.mark.slow),
        pytest.param("host", "random", 1, 1, marks=pytest.mark.slow),
        pytest.param("host", "hard", 2, 2, marks=pytest.mark.slow),
    ],
)
def test_records_are_those_without_a_window(
    tiny, by_batch: Evaluator, dispatch: Dispatch, deletion: Deletion, num_chunks: int, num_shards: int
) -> None:
    """Five batches, the last of which has a window of its own and is half filled up."""
    batches = make_batches((8,))
    expected = collect_records(by_batch, tiny.params, batches, (deletion,))
    evaluator = WindowEvaluator(
        tiny.model, LADDERS, dispatch=dispatch, window=4, num_chunks=num_chunks, num_shards=num_shards
    )
    found = collect_records(evaluator, tiny.params, batches, (deletion,))
    same_but_for_the_rung(found, expected)
    slots, alone = ([record.rung for record in records] for records in (found, expected))
    assert sum(slots) < sum(alone)
    assert len(set(slots)) > 1


@pytest.mark.parametrize("lengths", [(8,), pytest.param((8, 6, 8), marks=pytest.mark.slow)])
def test_nothing_compiles_after_the_first_batch_of_each_length(
    tiny, by_batch: Evaluator, lengths: tuple[int, ...]
) -> None:
    """Whatever is kept, however many batches of a length a window has; and the records are those without one."""
    batches = make_batches(lengths, 6 * ROWS)
    evaluator = WindowEvaluator(tiny.model, LADDERS, window=4)
    with compilations() as first:
        evaluate(evaluator, tiny.params, batches[: len(lengths)], ("hard",))
    assert len(first) > 3, "the listener hears"
    with compilations() as later:
        found = [evaluate(evaluator, tiny.params, some, ("hard",)).records for some in (batches, batches[:1])]
    assert later == []
    expected = collect_records(by_batch, tiny.params, batches, ("hard",))
    same_but_for_the_rung(found[0], expected)
    same_but_for_the_rung(found[1], expected[:ROWS])


@pytest.mark.slow
@pytest.mark.parametrize("deletion", ["none", "soft"])
def test_where_nothing_is_removed_nothing_is_regrouped(tiny, deletion: Deletion) -> None:
    """The very programs of a batch by itself, so the very records."""
    batches = make_batches((8,), 2 * ROWS)
    alone, together = (WindowEvaluator(tiny.model, LADDERS, window=window) for window in (1, 2))
    with compilations() as programs:
        expected = collect_records(alone, tiny.params, batches, (deletion,))
    with compilations() as programs_of_windows:
        assert collect_records(together, tiny.params, batches, (deletion,)) == expected
    assert programs_of_windows == programs


def test_a_batch_takes_its_share_of_the_window_s_time(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two windows, of two batches and of one, each of a second by a clock that we hold."""
    ticks: Any = iter(float(second) for second in range(100))
    monkeypatch.setattr("mrt5_jax.evaluation.evaluate.time.perf_counter", lambda: next(ticks))

    class Instant:
        window = 2

        def __call__(self, params: Any, batches: Any, deletion: Deletion) -> Any:
            return tiny.evaluator(params, batches, deletion)

    found = evaluate(Instant(), tiny.params, make_batches((8,), 2 * ROWS + 1), ("soft",))
    assert found.milliseconds == {"soft": 500.0}

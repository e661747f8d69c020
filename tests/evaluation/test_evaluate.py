"""Evaluation: records follow from examples alone, not from batches; programs are compiled once for each deletion."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.compaction.ladder import ByLength, Ladder
from mrt5_jax.compaction.staged import Begun, Part
from mrt5_jax.config import Deletion, GateConfig, ModelConfig
from mrt5_jax.data.arrangements import ExampleInfo, model_batch, smallest_length
from mrt5_jax.data.batches import EvalBatch
from mrt5_jax.data.vocabulary import EOS_ID, decode_to_text
from mrt5_jax.evaluation import programs as module
from mrt5_jax.evaluation.evaluate import Evaluation, collect_records, deletions_for, evaluate, spans_of
from mrt5_jax.evaluation.programs import BatchByBatch, WindowEvaluator, evaluation_program
from mrt5_jax.evaluation.records import Record, deletions_in, of_deletion, soft_hard_gap, summarize
from mrt5_jax.model.forward import AtGate
from mrt5_jax.selection.protocol import Selection, Signals

LENGTH, TARGET, BATCH = 8, 4, 4
DELETIONS: tuple[Deletion, ...] = ("soft", "hard", "random")


def make_batches(order: list[int]) -> list[EvalBatch]:
    """Random examples of random lengths in batches of 4, each a function of its index; the last batch is filled up."""
    batches = []
    for start in range(0, len(order), BATCH):
        inputs, targets = (np.zeros((BATCH, size), np.int32) for size in (LENGTH, TARGET))
        here = order[start : start + BATCH]
        for row, index in enumerate(here):
            generator = np.random.default_rng(index)
            for ids, shortest in ((inputs, 3), (targets, 1)):
                end = int(generator.integers(shortest, ids.shape[1]))
                ids[row, :end], ids[row, end] = generator.integers(3, 259, end), EOS_ID
        batches.append(
            EvalBatch(model_batch(inputs, targets), tuple(ExampleInfo("toy", "en", index) for index in here))
        )
    return batches


@pytest.fixture(scope="module")
def evaluated(tiny) -> Evaluation:
    return evaluate(tiny.evaluator, tiny.params, make_batches([*range(7)]), DELETIONS)


def test_examples_that_were_cut_are_counted(tiny) -> None:
    flags = [(True, False), (False, True), (False, False), (True, False)]
    (batch,) = make_batches([*range(4)])
    examples = [
        example._replace(input_cut=input_cut, target_cut=target_cut)
        for example, (input_cut, target_cut) in zip(batch.examples, flags, strict=True)
    ]
    found = evaluate(tiny.evaluator, tiny.params, [batch._replace(examples=tuple(examples))], ("soft", "hard"))
    assert (found.num_inputs_cut, found.num_targets_cut) == (2, 1)


def test_every_batch_runs_once_and_by_the_clock_the_first_of_a_length_twice(tiny) -> None:
    seen: list[tuple[list[int], str]] = []

    class Counting:
        def __init__(self, window: int) -> None:
            self.window = window

        def __call__(self, params, batches, deletion):
            seen.append(([int(batch[module.INDEX][0]) for batch in batches], deletion))
            return tiny.evaluator(params, batches, deletion)

    batches = make_batches([*range(7)])
    records = collect_records(Counting(1), tiny.params, batches, ("soft", "hard"))
    assert seen == [([0], "soft"), ([0], "hard"), ([4], "soft"), ([4], "hard")]
    seen.clear()
    assert evaluate(Counting(1), tiny.params, batches, ("soft", "hard")).records == records
    assert seen == [([0], "soft"), ([0], "soft"), ([0], "hard"), ([0], "hard"), ([4], "soft"), ([4], "hard")]
    seen.clear()
    assert evaluate(Counting(5), tiny.params, batches, ("soft", "hard")).records == records
    assert seen == [([0], "soft"), ([0, 4], "soft"), ([0], "hard"), ([0, 4], "hard")]


def test_deletions_take_turns_in_every_round_and_each_call_has_its_time(tiny) -> None:
    """Two windows, of 8 examples and of 1, twice under either deletion; the records are those of one round."""

    class Windowed:
        window = 2

        def __call__(self, params, batches, deletion):
            return tiny.evaluator(params, batches, deletion)

    batches = make_batches([*range(9)])
    found = evaluate(Windowed(), tiny.params, batches, ("soft", "hard"), rounds=2)
    clocked = [(time.deletion, time.examples) for time in found.costs.times]
    assert clocked == [(deletion, {"en": count}) for count in (8, 1) for _ in range(2) for deletion in ("soft", "hard")]
    assert all(time.milliseconds > 0 for time in found.costs.times)
    assert found.records == collect_records(tiny.evaluator, tiny.params, batches, ("soft", "hard"))


def test_what_a_capacity_drops_is_not_deleted(tiny, evaluated) -> None:
    """3 slots of 8: the deletion rate stays the gate's, and what has no slot is counted apart."""
    evaluator = BatchByBatch(evaluation_program(tiny.model, Ladder((3,), LENGTH)))
    records = collect_records(evaluator, tiny.params, make_batches([*range(7)]), ("hard",))
    hard = of_deletion(evaluated.records, "hard")
    for record, free in zip(records, hard, strict=True):
        assert record.num_kept_tokens == min(free.num_kept_tokens, 3)
        assert record.num_kept_tokens + record.num_dropped_tokens == free.num_kept_tokens
        assert len(positions(record)) == record.num_kept_tokens
        assert positions(record) <= positions(free)
    found, expected = summarize(records), summarize(hard)
    assert found["deletion_rate"] == expected["deletion_rate"]
    assert found["kept_length"] + found["dropped"] == pytest.approx(expected["kept_length"])
    assert found["dropped"] > 0


def positions(record: Record) -> set[int]:
    """Those that are kept."""
    return {position for start, end in record.kept_spans or () for position in range(start, end)}


def by_example(records: list[Record]) -> dict[tuple[str, int], Record]:
    return {(record.deletion, record.index): record for record in records}


def test_one_record_an_example_and_deletion(evaluated) -> None:
    """Filler makes no records; every deletion has its time."""
    assert len(evaluated.records) == 7 * len(DELETIONS)
    assert by_example(evaluated.records).keys() == {(deletion, index) for deletion in DELETIONS for index in range(7)}
    assert set(deletions_in(evaluated.records)) == set(evaluated.milliseconds) == set(DELETIONS)


def test_records_do_not_depend_on_batching(tiny, evaluated) -> None:
    """Other neighbours, other rows, other filler: the same records but for the rung, random deletion included."""
    other = evaluate(tiny.evaluator, tiny.params, make_batches([6, 3, 0, 11, 5, 4, 10, 1, 2]), DELETIONS)
    there = by_example(other.records)
    for key, record in by_example(evaluated.records).items():
        assert there[key].nll == pytest.approx(record.nll, rel=1e-5)
        assert there[key]._replace(nll=0.0, rung=0) == record._replace(nll=0.0, rung=0)


@pytest.mark.slow
def test_records_do_not_depend_on_length_buckets(tiny, evaluated) -> None:
    """Batches cut to shorter rows run at the rungs of their own ladder; but for lengths the records are the same."""
    ladders = {length: Ladder((length // 2, length)) for length in (7, LENGTH)}
    evaluator = BatchByBatch(ByLength(ladders, lambda ladder: evaluation_program(tiny.model, ladder)))
    batches = [cut(batch, tuple(ladders)) for batch in make_batches(sorted(range(7), key=length_of))]
    assert {batch.arrays["encoder_input_tokens"].shape[1] for batch in batches} == set(ladders)
    there = by_example(evaluate(evaluator, tiny.params, batches, DELETIONS).records)
    for key, record in by_example(evaluated.records).items():
        assert there[key].nll == pytest.approx(record.nll, rel=1e-5)
        one, other = (each._replace(nll=0.0, rung=0, input_length=0) for each in (there[key], record))
        assert one == other


def length_of(index: int) -> int:
    return int((make_batches([index])[0].arrays["encoder_input_tokens"][0] > 0).sum())


def cut(batch: EvalBatch, lengths: tuple[int, ...]) -> EvalBatch:
    tokens = batch.arrays["encoder_input_tokens"]
    return batch._replace(
        arrays={**batch.arrays, "encoder_input_tokens": tokens[:, : smallest_length(tokens, lengths)]}
    )


def test_deletions_relate(evaluated) -> None:
    """Random deletes as much as hard in every row, but others; soft runs at full length."""
    found = by_example(evaluated.records)
    for index in range(7):
        soft, hard, random = (found[deletion, index] for deletion in DELETIONS)
        assert soft.num_kept_tokens == hard.num_kept_tokens == random.num_kept_tokens
        assert [len(positions(one)) for one in (soft, hard, random)] == [hard.num_kept_tokens] * 3
        assert soft.kept_spans == hard.kept_spans
        assert soft.rung == LENGTH
        assert hard.rung in (4, 8)
    assert 0 < summarize(of_deletion(evaluated.records, "hard"))["deletion_rate"] < 1
    assert soft_hard_gap(evaluated.records) not in (None, 0.0)
    losses = [[found[deletion, index].nll for index in range(7)] for deletion in ("hard", "random")]
    assert losses[0] != losses[1]


NO_PARAMS = {"token_embedder": {}, "encoder": {}, "decoder": {}}


def pretend(monkeypatch, logits_of, at_gate_of) -> None:
    """Logits from the rows' random keys, and what happens at the gate from the mask, in the place of a model."""

    def up_to_gate(setting, params, tokens, own, segments, keys):
        at_gate = at_gate_of(tokens > 0)
        return Begun(own | {"logits": logits_of(keys)}, jnp.zeros(BATCH, jnp.int32), at_gate)

    def teacher_forced(setting, measure):
        return lambda slots: lambda params, shared, rows: Part((), measure(rows["logits"], rows))

    monkeypatch.setattr(module, "up_to_gate", up_to_gate)
    monkeypatch.setattr(module, "teacher_forced", teacher_forced)


def test_random_deletion_draws_from_seed_and_index(tiny, monkeypatch) -> None:
    """Wherever an example lies in whichever batch, its key is that of (seed, index); seeds differ."""

    def logits_of(keys):
        return jnp.zeros((BATCH, TARGET, 384)).at[:, :, :2].set(jax.random.key_data(keys)[:, None, :] / 2.0**32)

    pretend(monkeypatch, logits_of, lambda mask: AtGate(mask, mask, None, jnp.zeros(BATCH, jnp.int32)))
    targets = np.full((BATCH, TARGET), 5, np.int32)

    def losses(seed: int, indices: list[int]) -> dict[int, float]:
        examples = tuple(ExampleInfo("toy", "", index) for index in indices)
        batch = EvalBatch(model_batch(np.ones((BATCH, LENGTH), np.int32), targets), examples)
        records = evaluate(
            BatchByBatch(evaluation_program(tiny.model, Ladder((8,)), seed)), NO_PARAMS, [batch], ("random",)
        ).records
        return {record.index: record.nll for record in records}

    here, elsewhere = losses(3, [0, 1, 2, 9]), losses(3, [9, 70_000, 0])
    assert here[0] == elsewhere[0]
    assert here[9] == elsewhere[9]
    assert len({*here.values(), *elsewhere.values(), losses(4, [0])[0]}) == 6


@pytest.mark.slow
def test_nothing_compiles_after_warm_up(tiny, evaluated) -> None:
    """Whatever is kept and however the last batch is filled, the programs of the first batches serve."""
    program: Any = evaluation_program(tiny.model, Ladder((4, 8)))
    evaluator = BatchByBatch(program)
    evaluate(evaluator, tiny.params, make_batches([0, 1]), DELETIONS)
    assert program._cache_size() == len(DELETIONS)
    evaluate(evaluator, tiny.params, make_batches([*range(20, 33)]), DELETIONS)
    assert program._cache_size() == len(DELETIONS)


@pytest.mark.slow
@pytest.mark.parametrize("num_chunks", [1, 2])
def test_the_host_s_choice_of_lengths_changes_no_record_but_the_rung(tiny, evaluated, num_chunks: int) -> None:
    """Host dispatch, with and without chunks, against one program."""
    evaluator = WindowEvaluator(tiny.model, {LENGTH: Ladder((4, 8))}, dispatch="host", num_chunks=num_chunks)
    there = by_example(evaluate(evaluator, tiny.params, make_batches([*range(7)]), DELETIONS).records)
    for key, record in by_example(evaluated.records).items():
        assert there[key].nll == pytest.approx(record.nll, rel=1e-5)
        assert there[key].rung <= record.rung
        assert there[key]._replace(nll=0.0, rung=0) == record._replace(nll=0.0, rung=0)


@pytest.mark.parametrize("has_gate", [True, False])
def test_records_from_logits(tiny, monkeypatch, has_gate: bool) -> None:
    """Log-likelihoods, correct tokens, counts and predicted text of given logits and masks, against NumPy."""
    (batch,) = make_batches([0, 1, 2])
    tokens, targets = batch.arrays["encoder_input_tokens"], batch.arrays["decoder_target_tokens"]
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(BATCH, TARGET, 384)).astype(np.float32)
    logits[0, range(TARGET), targets[0]] = 9.0  # one row is all correct
    keep = (tokens > 0) & (generator.random(tokens.shape) < 0.5)
    rescued = np.array([False, True, False, False])

    def at_gate_of(mask) -> AtGate:
        values = jnp.zeros(keep.shape)
        statistics = {"rescued": jnp.asarray(rescued, jnp.float32)}
        selection = Selection(jnp.asarray(keep), None, values, Signals(), {}, statistics) if has_gate else None
        return AtGate(mask, jnp.asarray(keep) if has_gate else mask, selection, jnp.zeros(BATCH, jnp.int32))

    pretend(monkeypatch, lambda keys: jnp.asarray(logits), at_gate_of)
    found = evaluate(BatchByBatch(evaluation_program(tiny.model, Ladder((6,)))), NO_PARAMS, [batch], ("hard",))
    log_likelihood = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    assert len(found.records) == 3
    for row, record in enumerate(found.records):
        count, inputs = int((targets[row] > 0).sum()), int((tokens[row] > 0).sum())
        best = logits[row, :count].argmax(-1)
        assert record == Record(
            task="toy",
            language="en",
            index=row,
            deletion="hard",
            nll=pytest.approx(-log_likelihood[row, range(count), targets[row, :count]].sum(), rel=1e-5),
            num_target_tokens=count,
            num_correct_tokens=(best == targets[row, :count]).sum(),
            sequence_correct=row == 0,
            num_input_tokens=inputs,
            num_kept_tokens=keep[row].sum() if has_gate else inputs,
            rung=6,
            rescued=has_gate and rescued[row],
            prediction=decode_to_text(best),
            input_length=LENGTH,
            num_text_bytes=int(((targets[row] >= 3) & (targets[row] < 3 + 0xF5)).sum()),
            kept_spans=spans_of(keep[row] if has_gate else tokens[row] > 0),
        )


@given(st.lists(st.booleans(), max_size=20))
def test_spans_give_back_the_mask(kept: list[bool]) -> None:
    """Whatever is kept; no two spans touch, so that there are as few as can be."""
    spans = spans_of(np.array(kept, bool))
    assert [position for start, end in spans for position in range(start, end)] == np.flatnonzero(kept).tolist()
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))


def test_deletions_for() -> None:
    """The order wanted, each once; a model without a gate is evaluated once whatever is wanted."""
    config = ModelConfig(16, 2, 8, 16, 2, 1)
    assert deletions_for(config, ("soft", "hard")) == ("none",)
    gated = ModelConfig(16, 2, 8, 16, 2, 1, gate=GateConfig())
    assert deletions_for(gated, ("hard", "none", "hard")) == ("hard", "none")


def test_no_batches_no_records(tiny) -> None:
    assert evaluate(tiny.evaluator, tiny.params, [], ("soft",)) == Evaluation([], {})


def test_put_brings_every_array(tiny) -> None:
    """On a mesh, everything that the program takes goes through `put`."""
    seen = []

    def put(arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        seen.append({name: type(array) for name, array in arrays.items()})
        return jax.device_put(arrays)

    evaluate(tiny.evaluator, tiny.params, make_batches([0]), ("soft",), put=put)
    assert set(seen[0].values()) == {np.ndarray}
    assert set(seen[0]) == {*make_batches([0])[0].arrays, module.INDEX}

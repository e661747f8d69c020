"""What is chosen follows from shapes, histogram and table alone, and is never dearer by the table."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import DataConfig, ExecutionConfig, GateConfig, ModelConfig, RunConfig, TrainingConfig
from mrt5_jax.objectives.kept_lengths import BINS
from mrt5_jax.parallel.mesh import make_mesh
from mrt5_jax.training.choice import WORTH_IT, StepShape, choose, chunks_of, step_shape
from mrt5_jax.training.platform_costs import ESTIMATED, TIMED, PlatformCosts, estimate_line, platform_costs

from ..model.small import param_shapes

LENGTH = 256
FREE = PlatformCosts(0.0, 0.0, 0.0, 0.0, 0.0)

histograms = st.lists(st.integers(0, 50).map(float), min_size=BINS, max_size=BINS).filter(any)
costs = st.builds(
    PlatformCosts, st.floats(0, 1e10), st.floats(0, 1e3), st.floats(0, 1e3), st.floats(0, 0.5), st.floats(0, 1e13)
)


def shape_of(costs: PlatformCosts, length: int = LENGTH, rows: int = 64, embed: int = 512) -> StepShape:
    """A model of 3 + 6 + 3 layers, 16 rungs."""
    run = RunConfig(
        "",
        ModelConfig(embed, 6, 64, 2 * embed, 9, 3, gate=GateConfig(layer=3)),
        DataConfig("", (), length, length // 4, rows, rows),
        TrainingConfig(1, "auto"),
        execution=ExecutionConfig(chunks="auto"),
    )
    step = max(1, length // 16)
    ladder = Ladder(tuple(range(step, length + 1, step)))
    shape = step_shape(run, ladder, make_mesh(run.execution.mesh), param_shapes(run.model))
    return dataclasses.replace(shape, costs=costs)


SHAPE = shape_of(FREE)


@settings(max_examples=30)
@given(histograms, costs, st.sampled_from([0, 1, 4, 16]), st.booleans())
def test_a_choice_is_repeatable_and_never_dearer(
    counts: list[float], costs: PlatformCosts, before: int, may_remove_nothing: bool
) -> None:
    shape = dataclasses.replace(SHAPE, costs=costs)
    chosen = choose(shape, counts, before, may_remove_nothing=may_remove_nothing)
    assert choose(shape, list(counts), before, may_remove_nothing=may_remove_nothing) == chosen
    options = [shape.expect(counts, number) for number in shape.allowed]
    options += [shape.without_removing()] if may_remove_nothing else []
    assert chosen in options
    present = shape.expect(counts, max(before, 1)) if before or not may_remove_nothing else shape.without_removing()
    assert chosen.cost <= present.cost, "it is no dearer than what there was"
    assert chosen.cost <= min(option.cost for option in options) + WORTH_IT, "nor much dearer than anything else"
    again = choose(shape, counts, chosen.num_chunks, may_remove_nothing=may_remove_nothing)
    assert again == chosen or again.cost < chosen.cost - WORTH_IT


def kept(*positions: int) -> list[float]:
    """A histogram of rows that keep so many of LENGTH positions."""
    return np.bincount([-(-count * BINS // LENGTH) - 1 for count in positions], minlength=BINS).astype(float).tolist()


@pytest.mark.parametrize("platform_s_costs", [FREE, TIMED["cpu"], ESTIMATED], ids=["free", "timed", "estimated"])
def test_rows_that_are_alike_take_one_chunk(platform_s_costs: PlatformCosts) -> None:
    assert choose(shape_of(platform_s_costs), kept(100), 0, may_remove_nothing=False).num_chunks == 1


def test_short_rows_of_a_small_model_take_one_chunk() -> None:
    """Of 32 bytes, in a model of 16: a chunk costs more than its rows."""
    mixed = [1.0] * BINS
    assert choose(shape_of(TIMED["cpu"], 32, 16, 16), mixed, 0, may_remove_nothing=False).num_chunks == 1


def test_mixed_rows_of_a_large_model_take_several() -> None:
    """Rows that keep 1 to 256 of 256 positions, in the benchmarks' model: one chunk would run at full length."""
    mixed = [1.0] * BINS
    chosen = choose(shape_of(TIMED["cpu"]), mixed, 0, may_remove_nothing=True)
    assert chosen.num_chunks > 1
    assert chosen.slots < 0.7 * LENGTH
    assert shape_of(TIMED["cpu"]).expect(mixed, 1).slots > 0.95 * LENGTH


def test_where_everything_is_kept_nothing_is_removed() -> None:
    """Nor goes on being removed, where a program with several lengths costs more than a change has to save."""
    assert choose(shape_of(TIMED["cpu"]), kept(LENGTH), 0, may_remove_nothing=True).num_chunks == 0
    dear = shape_of(TIMED["cpu"]._replace(branch=0.05))
    assert choose(dear, kept(LENGTH), 4, may_remove_nothing=True).num_chunks == 0


def test_another_program_is_compiled_where_the_steps_that_are_left_win_it_back() -> None:
    """From one chunk to several of mixed rows; to remove positions at all waits for nothing."""
    mixed, shape = [1.0] * BINS, shape_of(TIMED["cpu"])
    saved = shape.expect(mixed, 1).cost - choose(shape, mixed, 1, may_remove_nothing=True).cost
    enough = shape.program / (saved - WORTH_IT)
    few, many = (choose(shape, mixed, 1, may_remove_nothing=True, steps=times * enough) for times in (0.9, 2.0))
    assert few.num_chunks == 1 < many.num_chunks
    assert choose(shape, mixed, 0, may_remove_nothing=True, steps=1.0).num_chunks > 1


def test_expected_slots_are_those_of_drawn_rows() -> None:
    """Rows drawn from the histogram, sorted, cut, each chunk at its rung: on average as expected, to 2 %."""
    shape, counts = shape_of(FREE), kept(*range(8, 200, 3), *[LENGTH] * 3)
    lengths = np.repeat(np.arange(1, BINS + 1) * LENGTH // BINS, np.int32(counts))
    drawn = np.sort(np.random.default_rng(0).choice(lengths, (500, shape.rows)), axis=1)
    for number in shape.allowed:
        fullest = drawn.reshape(500, number, -1).max(axis=2)
        rungs = [shape.ladder.host_rung(int(count)) for count in fullest.reshape(-1)]
        expected = shape.expect(counts, number)
        assert expected.slots == pytest.approx(np.mean(rungs), rel=0.02)
        assert expected.body == pytest.approx(np.mean([shape.share(rung) for rung in rungs]), rel=0.02)


def test_other_rows_on_a_device_take_as_many_chunks_as_they_allow() -> None:
    shape = shape_of(FREE, rows=6)
    assert [chunks_of(shape, chosen) for chosen in (0, 1, 4, 16)] == [1, 1, 3, 6]


def test_a_platform_that_nobody_timed_is_named(repository: Path) -> None:
    assert platform_costs("abacus") == ESTIMATED
    assert "'abacus'" in estimate_line("abacus")
    assert not estimate_line("cpu")
    assert (repository / "benchmarks/chunk_costs.py").exists(), "what times a platform"

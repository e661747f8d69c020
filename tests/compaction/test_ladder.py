"""The ladder's rungs, and which of them is chosen."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.compaction.ladder import Ladder, make_ladder
from mrt5_jax.compaction.plan import count_kept, gather, plan
from mrt5_jax.compaction.staged import Begun, Part, Staged, in_graph
from mrt5_jax.config import ExecutionConfig
from mrt5_jax.errors import UserError

from . import oracle


@st.composite
def _ladder_arguments(draw, roundings, most):
    length = draw(st.integers(1, 3000))
    config = ExecutionConfig(rounding=roundings(draw, length), max_rungs=draw(most))
    return length, config, draw(st.sampled_from(["cpu", "gpu", "tpu"]))


@given(_ladder_arguments(lambda draw, length: draw(st.integers(1, length)), st.integers(1, 20)))
def test_rungs_of_a_given_rounding_are_evenly_chosen_multiples_up_to_the_length(arguments):
    length, config, backend = arguments
    rungs, rounding = make_ladder(length, config, backend).rungs, config.rounding
    assert rungs[-1] == length
    assert 1 <= len(rungs) <= config.max_rungs
    assert all(rung % rounding == 0 for rung in rungs[:-1])
    steps = np.diff([0, *rungs[:-1]])
    if len(steps):
        assert steps.max() - steps.min() <= rounding, "even"
    assert len(rungs) == min(config.max_rungs, -(-length // rounding)), "as many as there may be"


@given(
    _ladder_arguments(lambda draw, length: None, st.none() | st.integers(1, 20)),
    st.sampled_from([("in_graph", 8), ("host", 16)]),
    st.integers(0, 3000),
    st.floats(0, 5),
)
def test_every_rung_chosen_by_default_earns_its_program(arguments, who_and_most, decoder, curvature):
    """It saves 8 positions and a twentieth of the body; of a cheap decoder's there are nearly as many as may be."""
    (length, config, backend), (dispatch, most) = arguments, who_and_most
    most = config.max_rungs or most

    def cost(slots):
        return decoder + slots + curvature * slots**2 / length

    rungs = make_ladder(length, config, backend, body_cost=cost, dispatch=dispatch).rungs
    assert rungs[-1] == length
    assert len(rungs) <= most
    for shorter, longer in itertools.pairwise(rungs):
        assert longer - shorter >= 8
        assert cost(longer) - cost(shorter) >= cost(length) / 20
    if decoder == curvature == 0 and backend != "tpu" and 128 <= length <= 1024:
        assert len(rungs) >= min(most, 16) - 2


def test_default_ladders():
    assert make_ladder(1024, ExecutionConfig(), "cpu").rungs == tuple(range(128, 1025, 128))
    assert make_ladder(64, ExecutionConfig(), "cpu").rungs == tuple(range(8, 65, 8))
    assert make_ladder(1024, ExecutionConfig(), "cpu", dispatch="host").rungs == tuple(range(64, 1025, 64))
    assert make_ladder(24, ExecutionConfig(), "cpu").rungs == (6, 15, 24)
    assert make_ladder(7, ExecutionConfig(), "cpu").rungs == (7,)
    assert make_ladder(64, ExecutionConfig(), "cpu", body_cost=lambda slots: 2000 + slots).rungs == (64,)
    assert make_ladder(1024, ExecutionConfig(max_rungs=16), "tpu").rungs == tuple(range(128, 1025, 128))
    assert make_ladder(100, ExecutionConfig(rounding=32), "cpu").rungs == (32, 64, 96, 100)


@given(st.sets(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 40))
def test_the_smallest_rung_that_fits_is_chosen(rungs, count):
    rungs = tuple(sorted(rungs))
    ladder = Ladder(rungs)
    expected = oracle.rung_index(rungs, count)
    assert int(ladder.rung_index(jnp.int32(count))) == expected
    assert int(ladder.rung(jnp.int32(count))) == rungs[expected]


def test_the_rung_index_of_many_counts():
    index = jax.jit(Ladder((2, 4)).rung_index)(jnp.array([[0, 2], [3, 5]]))
    np.testing.assert_array_equal(index, [[0, 0], [1, 1]])
    assert index.dtype == jnp.int32


@pytest.mark.parametrize("rungs", [(), (0, 4), (4, 4), (8, 4), (-1,)])
def test_rungs_that_do_not_increase_are_refused(rungs):
    with pytest.raises(UserError, match="positive and increasing"):
        Ladder(rungs)


@pytest.mark.parametrize(
    ("length", "config", "message"),
    [
        (64, ExecutionConfig(rounding=65), "rounding = 65: .* input length, 64"),
        (64, ExecutionConfig(rounding=0), "rounding = 0"),
        (64, ExecutionConfig(max_rungs=0), "max_rungs = 0"),
        (0, ExecutionConfig(), "input length 0"),
    ],
)
def test_settings_that_leave_no_ladder_are_refused_in_one_line(length, config, message):
    with pytest.raises(UserError, match=message) as caught:
        make_ladder(length, config, "cpu")
    assert "\n" not in str(caught.value)


def test_one_program_runs_every_rung_and_reports_it():
    """The branch that runs is the smallest that holds the fullest row, and nothing recompiles between rungs."""
    compilations = 0
    ladder = Ladder((2, 4, 6))

    def body(rung):
        def run(params, shared, rows):
            values, keep = rows
            planned = plan(keep, rung)
            return Part((), jnp.sum(jnp.where(planned.mask, gather(values, planned.positions), 0), axis=1))

        return run

    def begin(params, shared, rows):
        nonlocal compilations
        compilations += 1
        return Begun(rows, count_kept(rows[1]), ())

    sums = jax.jit(in_graph(Staged(begin, body, lambda carry, out, rungs: Part((), (out, rungs)), ladder)))
    rng = np.random.default_rng(0)
    for most in range(7):
        keep = np.argsort(rng.random((3, 6)), axis=1) < np.array([[0], [most // 2], [most]])
        values = rng.integers(-9, 9, (3, 6)).astype(np.float32)
        found, rungs = sums((), (), (values, keep)).rows
        np.testing.assert_array_equal(found, np.sum(values * keep, axis=1))
        assert int(rungs[0]) == ladder.host_rung(most) == ladder.rungs[oracle.rung_index(ladder.rungs, most)]
    assert compilations == 1

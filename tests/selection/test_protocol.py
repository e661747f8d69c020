"""The protocol of selectors, by four small models: staged gradients are those of plain `jax.grad`, however they run.

python -m pytest tests/selection/test_protocol.py -s      prints a table: model, way, largest difference, temporaries
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.compaction.staged import Begun, Part, Staged, in_graph
from mrt5_jax.objectives.penalties import PenaltyScale
from mrt5_jax.selection.protocol import Signals, without_other_gradients
from mrt5_jax.training.staged_gradients import Cuts, gradient_stages

from . import toys
from .toys import ROWS, Rows, Shared, make_batch, make_params, split, stages_of
from .ways import TOYS, arrays, cuts_for, largest_difference, naive_gradient, staged_gradient

TOLERANCE = 1e-12
WAYS = {
    "in-graph": ("in_graph", 1),
    "on the host": ("host", 1),
    "4 chunks": ("in_graph", 4),
    "4 chunks on the host": ("host", 4),
}
QUICK = {("soft gate", "in-graph"), *itertools.product(TOYS, ("on the host", "4 chunks"))}


@pytest.fixture(autouse=True)
def _in_double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """The naive losses and gradients."""
    with jax.enable_x64(True):
        return {name: naive_gradient(name, arrays(make_params()), arrays(make_batch())) for name in TOYS}


def slow_unless(quick: Container[Any], *values: Any) -> Any:
    return pytest.param(*values, marks=() if values in quick else pytest.mark.slow)


@pytest.mark.parametrize(("name", "way"), [slow_unless(QUICK, *case) for case in itertools.product(TOYS, WAYS)])
def test_gradients_are_those_of_the_naive_function(name: str, way: str, expected: dict[str, Any]) -> None:
    """Of every parameter, in both stages; chunks of short rows run at lower rungs."""
    dispatch, num_chunks = WAYS[way]
    part, temporaries = staged_gradient(
        name, arrays(make_params()), arrays(make_batch()), cuts_for(num_chunks), dispatch
    )
    difference = largest_difference(part.total.loss, jax.tree.leaves(part.total.gradients), expected[name])
    rungs = sorted(set(np.asarray(part.rows["rung"]).tolist()))
    print(f"\n{name:20} {way:21} {difference:.1e} {temporaries or '':>9}  rungs {rungs}")
    assert difference < TOLERANCE
    assert len(rungs) > 1 or num_chunks == 1
    for path, leaf in jax.tree_util.tree_leaves_with_path(part.total.gradients):
        unused = jax.tree_util.keystr(path) in UNUSED[name]
        assert bool(np.any(np.asarray(leaf))) != unused, path


_SIMILARITY, _POOLED = ("['first']['query']", "['first']['key']"), ("['second']['queries']",)
_KERNEL, _RESIDUAL, _GATE = "['second']['convolution']", "['second']['residual']", "['first']['gate']"
UNUSED = {
    "soft gate": {*_SIMILARITY, _KERNEL, _RESIDUAL},
    "mean pooling": {*_SIMILARITY, _KERNEL, _RESIDUAL},
    "strided convolution": {*_SIMILARITY, _GATE, _RESIDUAL},
    "expanding": {*_POOLED, _KERNEL, _GATE},
}
"""Parameters that a toy does not read: the gradients of all others are not 0."""


@pytest.mark.parametrize(
    ("name", "num_chunks"), [slow_unless({("mean pooling", 4)}, *case) for case in itertools.product(TOYS, (4, 1))]
)
def test_eight_devices_give_the_same_and_exchange_no_more_than_gradients(
    repository: Path, name: str, num_chunks: int, expected: dict[str, Any]
) -> None:
    """Beside gradients at most 352 bytes are exchanged: numbers [batch length] alone would be 1,024 or more."""
    slack, gradients = 20 * 8, sum(leaf.nbytes for leaf in jax.tree.leaves(make_params()))
    done = subprocess.run(
        [sys.executable, "-m", "tests.selection.on_eight_devices", name, str(num_chunks)],
        env=os.environ,
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    difference, rungs = largest_difference(found["loss"], found["gradients"], expected[name]), sorted({*found["rungs"]})
    print(f"\n{name:20} {num_chunks} chunks, 8 devices  {difference:.1e}            rungs {rungs}")
    assert difference < TOLERANCE
    exchanged = found["collectives"]
    # The embedding's gradient comes from both stages.
    allowed = gradients + make_params()["embedding"].nbytes + slack
    assert {one["kind"] for one in exchanged} == {"all-reduce"}
    for branch in {one["branch"] for one in exchanged}:
        taken = [one for one in exchanged if one["branch"] in ("", branch)]
        assert sum(one["bytes"] * one["times"] for one in taken) <= allowed, taken


@pytest.mark.parametrize("name", TOYS)
def test_signals_and_penalties_alone_have_a_gradient(name: str) -> None:
    """Whatever selectors compute them from: here priority, statistics and counts depend on parameters."""
    toy, penalty = TOYS[name]
    first, _ = split(arrays(make_params()))
    batch = arrays(make_batch())

    def of_others(params: Any, *, stopped: bool) -> jax.Array:
        hidden = toys.first_layer(params, batch["tokens"])
        selection = toy.select(params, hidden, batch["tokens"] > 0, batch)
        moving = jnp.sum(hidden, axis=(1, 2))
        penalties = {penalty: selection.penalties[penalty]._replace(count=moving)}
        selection = selection._replace(statistics={"moving": moving}, priority=hidden[..., 0], penalties=penalties)
        selection = without_other_gradients(selection) if stopped else selection
        others = (selection.priority, selection.statistics, selection.penalties[penalty].count)
        return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(others)), jnp.zeros(()))

    stopped, free = (
        jax.jit(jax.grad(lambda params, stopped=stopped: of_others(params, stopped=stopped)))(first)
        for stopped in (True, False)
    )
    assert not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(stopped))
    assert np.any(np.asarray(free["mix"])), "the control: without the protocol they have one"


def test_signals_cost_no_memory_beside_a_bias_alone() -> None:
    """Of a switch over three rungs, for the soft gate; compared with its own stages, the gate's term in the body."""
    length, embed = 512, 64
    toy, penalty = TOYS["soft gate"]
    ladder = Ladder((128, 256, length))
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            tuple(embed if size == toys.EMBED else size for size in leaf.shape), "float64"
        ),
        make_params(),
    )
    batch = {
        name: jax.ShapeDtypeStruct((ROWS, length if leaf.shape[1] == toys.LENGTH else leaf.shape[1]), leaf.dtype)
        for name, leaf in make_batch().items()
    }
    number = jax.ShapeDtypeStruct((), "float64")
    shared = Shared(number, {penalty: PenaltyScale(number, number)})

    def temporaries(staged: Staged) -> int:
        memory: Any = jax.jit(in_graph(staged)).lower(params, shared, batch).compile().memory_analysis()
        return memory.temp_size_in_bytes

    ours, before = temporaries(gradient_stages(stages_of(toy, penalty), Cuts(ladder))), temporaries(by_bias(ladder))
    print(f"\ntemporaries of the soft gate: {ours:,} bytes, with one bias and the gate's term in the body {before:,}")
    assert ours <= 1.05 * before


def by_bias(ladder: Ladder) -> Staged:
    """The soft gate's gradient with its bias as the only way to the first stage, and its term a part of the body."""
    toy, penalty = TOYS["soft gate"]

    def begin(params: Any, shared: Shared, batch: Any) -> Begun:
        def first(params: Any) -> Any:
            hidden = toys.first_layer(params, batch["tokens"])
            selection = toy.select(params, hidden, batch["tokens"] > 0, batch)
            return (hidden, selection.signals.key_bias), selection

        (hidden, bias), pull_back, selection = jax.vjp(first, params, has_aux=True)
        rows = Rows(hidden, Signals(key_bias=bias), batch["tokens"] > 0, selection.keep, None, batch)
        return Begun(rows, count_kept(selection.keep), (pull_back, selection.statistics))

    def body(slots: int) -> Any:
        def loss(params: Any, hidden: Any, bias: Any, shared: Shared, rows: Rows) -> Any:
            losses = toy.second(params, rows._replace(hidden=hidden, signals=Signals(key_bias=bias)), slots)
            scale = shared.penalties[penalty]
            mean = jnp.sum(jnp.where(rows.mask, bias, 0)) / scale.count
            target = jnp.sum(losses) / shared.num_targets
            return target + scale.weight * mean, (target, mean, losses)

        def run(params: Any, shared: Shared, rows: Rows) -> Part:
            gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
            (value, (target, mean, losses)), bars = gradient(params, rows.hidden, rows.signals.key_bias, shared, rows)
            total = jax.tree.map(lambda leaf: leaf[None], (value, target, mean, bars[0]))
            return Part(total, (bars[1:], losses))

        return run

    def finish(carry: Any, out: Any, rungs: Any) -> Part:
        (pull_back, statistics), (bars, losses) = carry, out
        return Part(pull_back(bars)[0], (losses, rungs, statistics))

    def combine(second: Any, first: Any) -> Any:
        value, target, mean, gradients = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), second)
        return value, target, mean, toys.merge(first, gradients)

    return Staged(begin, body, finish, ladder, split, combine=combine)

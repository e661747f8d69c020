"""docs/compiling.md says how many programs a staged computation is compiled into; here they are counted."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.on_host import OnHost, Programs
from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.compaction.staged import Begun, InGraph, Part, Staged

from .compilations import compilations

RUNGS = (2, 3, 5, 8)
SHAPES = jax.ShapeDtypeStruct((), jnp.float32), (), jax.ShapeDtypeStruct((4, RUNGS[-1]), jnp.float32)
"""Of parameters, of what is shared, of a batch."""


def scaled_sums(num_chunks: int) -> Staged:
    """Sums of the rows' first numbers times a parameter, at the rung that holds those that are not 0."""

    def begin(params: Any, shared: Any, rows: Any) -> Begun:
        return Begun(rows, count_kept(rows != 0), ())

    def body(rung: int) -> Any:
        return lambda params, shared, rows: Part((), params * jnp.sum(rows[:, :rung], axis=1))

    def finish(carry: Any, sums: Any, rungs: Any) -> Part:
        return Part((), (sums, rungs))

    return Staged(begin, body, finish, Ladder(RUNGS), num_chunks=num_chunks)


def promised(repository: Path, dispatch: str) -> tuple[set[str], int]:
    """The guide's row: names of programs, and how many there are with RUNGS."""
    guide = (repository / "docs/compiling.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{dispatch}` \| (.*) \| (?:(\d+) \+ )?(\d+|rungs) \|$", guide, re.MULTILINE)
    assert row
    names, fixed, last = row.groups()
    return set(re.findall(r"`(\w+)`", names)), int(fixed or 0) + (len(RUNGS) if last == "rungs" else int(last))


def test_the_host_s_programs_are_those_of_the_guide(repository: Path) -> None:
    names, number = promised(repository, "host")
    always = {field.name for field in dataclasses.fields(Programs) if field.default is dataclasses.MISSING}
    assert names == always
    run = OnHost(scaled_sums(num_chunks=2))
    with compilations() as programs:
        run.compile(*SHAPES)
    assert len(programs) == number


def test_in_graph_there_is_one_program(repository: Path) -> None:
    names, number = promised(repository, "in_graph")
    assert not names
    params, rows = jnp.float32(2), jnp.ones((4, RUNGS[-1]))
    run = InGraph(scaled_sums(num_chunks=2))
    with compilations() as programs:
        run.start(params, (), rows)()
    assert len(programs) == number

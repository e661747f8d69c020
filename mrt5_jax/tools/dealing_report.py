"""What dealing would save a run on the devices of a plan, and which rows and chunks save more: for the dry run."""

from collections.abc import Iterator
from typing import NamedTuple

from mrt5_jax.compaction.chunk_counts import TRIED
from mrt5_jax.config import RunConfig
from mrt5_jax.data.expectation import EXPECTATION
from mrt5_jax.model.multiply_adds import body_share
from mrt5_jax.parallel.mesh import row_shards
from mrt5_jax.runs.restoring import data_state_of
from mrt5_jax.tools.dealt_saving import Sample, held_out_sample, read_kept_rows, sample_of_run, share_saved
from mrt5_jax.tools.dry_run import RunPlan

_BATCHES = 40
_FOLD = (1, 2, 4)
"""So many times the run's rows a device are tried."""


class Tried(NamedTuple):
    """Shares of the saving of exact lengths that remain."""

    rows: int
    """Of a device."""
    chunks: int
    as_they_come: float
    dealt: float


def dealing_report(run: RunConfig, plan: RunPlan, kept: str | None) -> str:
    """Reports, for the plan's devices, how much of the saving of exact lengths remains with and without dealing.

    Args:
        kept: a file of kept lengths; None: what the run itself has seen so far, and nothing where that is nothing.

    Raises:
        UserError: the file is none of kept lengths.
    """
    found = _sample(run, kept)
    if found is None or len(plan.ladder.rungs) == 1:
        return ""
    sample, source = found
    return "\n".join(f"# {line}" for line in _lines(source, run.data.batch_size, plan, tried(run, plan, sample)))


def tried(run: RunConfig, plan: RunPlan, sample: Sample) -> list[Tried]:
    """Returns what remains with as many rows a device as the run has, and with more, in several numbers of chunks."""
    devices, length = row_shards(plan.mesh).count, plan.ladder.full_length
    share = body_share(run.model, run.data.target_length, length)
    rungs = [rung / length for rung in plan.ladder.rungs]

    def remains(rows: int, chunks: int, dealt: bool) -> float:
        size = devices, rows, chunks
        return share_saved(sample, *size, rungs, dealt=dealt, body=lambda kept: share(kept * length), batches=_BATCHES)

    return [
        Tried(rows, chunks, remains(rows, chunks, False), remains(rows, chunks, True))
        for rows in (fold * run.data.batch_size // devices for fold in _FOLD)
        for chunks in sorted({count for count in (1, 2, *TRIED, rows) if rows % count == 0})
    ]


def _sample(run: RunConfig, kept: str | None) -> tuple[Sample, str] | None:
    if kept is not None:
        rows = read_kept_rows(kept)
        how = "languages" if rows.class_counts is None else "languages and bytes"
        return held_out_sample(rows), f"rows that keep what those in {kept} do, dealt by their {how}"
    saved = (data_state_of(run.model_dir) or {}).get(EXPECTATION)
    if saved is None or not saved["steps"]:
        return None
    return sample_of_run(saved), "rows that keep what this run's do, dealt by what it has learned of them"


def _lines(source: str, batch_size: int, plan: RunPlan, found: list[Tried]) -> Iterator[str]:
    yield f"of the multiply-adds that exact lengths would save after the gate, {source}:"
    yield "  rows a device  chunks  as they come  dealt"
    for one in found:
        yield f"  {one.rows:13}  {one.chunks:6}  {one.as_they_come:12.0%}  {one.dealt:5.0%}"
    own = batch_size // row_shards(plan.mesh).count
    best, best_of_own = (
        max(options, key=lambda one: (one.dealt, -one.rows, -one.chunks))
        for options in (found, [one for one in found if one.rows == own])
    )
    yield (
        f"best with {own} rows a device, as here: {best_of_own.chunks} chunks ({best_of_own.dealt:.0%}); of all tried: "
        f"{best.rows} rows a device in {best.chunks} chunks ({best.dealt:.0%})"
    )

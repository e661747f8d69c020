"""In how many chunks steps are expected to cost least, and whether removing positions saves anything at all.

A function of shapes, of a histogram of kept positions and of the platform's table of costs: pure, on the host, and the
same on every process to the last bit.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from mrt5_jax.compaction.chunk_counts import allowed_chunks, cut, rung_chances
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import ExecutionConfig, RunConfig
from mrt5_jax.model.multiply_adds import BACKWARD, BodyShare, body_share, forward_multiply_adds
from mrt5_jax.model.parameters import Params, split_stages
from mrt5_jax.objectives.kept_lengths import BINS
from mrt5_jax.parallel.mesh import row_shards
from mrt5_jax.training.platform_costs import PlatformCosts, platform_costs

WORTH_IT = 1 / 50
"""The least share of a step that a change has to save."""


class Expected(NamedTuple):
    """What a step in so many chunks is expected to be like."""

    num_chunks: int
    """0: the step removes nothing."""
    slots: float
    """Mean over rows."""
    body: float
    """The share of the multiply-adds after the gate that is left."""
    cost: float
    """Of the whole step, as a share of that of one that removes nothing."""


@dataclasses.dataclass(frozen=True)
class StepShape:
    """What the cost of steps of one input length depends on, besides what rows keep."""

    ladder: Ladder
    rows: int
    """Of a device, at once."""
    execution: ExecutionConfig
    num_shards: int
    """Devices that rows are spread over."""
    allowed: tuple[int, ...]
    """Numbers of chunks to choose from."""
    share: BodyShare
    before_gate: float
    """Multiply-adds of a row before the gate, as a share of those after it at full length."""
    full: int
    """Multiply-adds of a row after the gate at full length, forward and backward."""
    hidden: int
    """Numbers that a row's hidden states have."""
    gradient: int
    """Numbers that the gradient after the gate has."""
    costs: PlatformCosts

    @property
    def program(self) -> float:
        """Returns what compiling a program for steps in another number of chunks costs, as a share of a step."""
        step = self.full * (1 + self.before_gate) * self.rows * self.execution.microbatches
        return self.costs.rung * len(self.ladder.rungs) / step

    def without_removing(self) -> Expected:
        """Returns what a step is like that removes nothing."""
        return Expected(0, float(self.ladder.full_length), 1.0, 1.0)

    def expect(self, counts: Sequence[float], num_chunks: int, explained: float = 0.0) -> Expected:
        """Returns what a step is expected to be like in so many chunks.

        Args:
            counts: rows by what they keep, see `objectives.kept_lengths`; at least one.
            explained: see `rung_chances`.
        """
        rungs, length = self.ladder.rungs, self.ladder.full_length
        total = sum(counts)
        below = [sum(counts[: BINS * rung // length]) / total for rung in rungs]
        # Microbatches are alike in what is expected of them; sorted ones are chunks of the whole batch.
        (of_part, rows_in_parts), parts = cut(self.execution, num_chunks), self.execution.microbatches
        is_sorted = parts > 1 and rows_in_parts == "sorted"
        together = parts if is_sorted else 1
        num_groups = of_part * together
        slots = body = 0.0
        for group in rung_chances(rungs, below, self.rows * together, num_groups, self.num_shards, explained):
            for rung, chance in zip(rungs, group, strict=True):
                slots += chance * rung / num_groups
                body += chance * self.share(rung) / num_groups
        overhead = self.costs.moved * self.hidden
        if of_part > 1:
            overhead += (self.costs.chunk + self.costs.added * self.gradient) * of_part / self.rows
        spent = self.before_gate + body * (1 + self.costs.branch) + overhead / self.full
        if is_sorted:  # what rows keep is known when they have been through the first stage once
            spent += self.before_gate / (1 + BACKWARD)
        return Expected(num_chunks, slots, body, spent / (self.before_gate + 1))

    def exact_body(self, counts: Sequence[float]) -> float:
        """Returns the share of the multiply-adds after the gate that exact lengths would leave."""
        length = self.ladder.full_length
        kept = [self.share((number + 1) * length / BINS) * count for number, count in enumerate(counts)]
        return sum(kept) / sum(counts)


def step_shape(run: RunConfig, ladder: Ladder, mesh: Mesh, params: Params) -> StepShape:
    """Returns the shape of a run's steps at the input length of a ladder.

    Args:
        params: the model's, or anything that has their shapes.
    """
    shards = row_shards(mesh).count
    rows = run.data.batch_size // shards // run.execution.microbatches
    data = dataclasses.replace(run.data, input_length=ladder.full_length)
    row = forward_multiply_adds(run.model, data, ladder.full_length)
    after_gate = row.suffix + row.decoder
    return StepShape(
        ladder,
        rows,
        run.execution,
        shards,
        allowed_chunks(run.execution, rows),
        body_share(run.model, run.data.target_length, ladder.full_length),
        row.prefix / after_gate,
        (1 + BACKWARD) * after_gate,
        ladder.full_length * run.model.emb_dim,
        sum(leaf.size for leaf in jax.tree.leaves(split_stages(params)[1])),
        platform_costs(mesh.devices.flat[0].platform),
    )


def choose(
    shape: StepShape,
    counts: Sequence[float],
    before: int,
    *,
    may_remove_nothing: bool,
    explained: float = 0.0,
    steps: float = math.inf,
) -> Expected:
    """Returns what steps should be like from here on: what they are, unless something else saves enough.

    Another number of chunks is another program, whose compilation the steps that are left have to win back. The first
    program that removes positions need not: it is what the deletion is for, and a later run finds it compiled.

    Args:
        counts: see `StepShape.expect`.
        before: chunks of the steps so far; 0 where they removed nothing, or nothing was chosen yet.
        may_remove_nothing: whether there is a deletion that takes this one's place.
        explained: of rows that are dealt, see `rung_chances`.
        steps: how many of these steps are left.
    """
    options = {number: shape.expect(counts, number, explained) for number in shape.allowed}
    if may_remove_nothing:
        options[0] = shape.without_removing()
    present = options[0 if may_remove_nothing and before == 0 else chunks_of(shape, before)]
    compiling = shape.program / steps if steps > 0 else math.inf

    def with_program(option: Expected) -> float:
        is_another = present.num_chunks > 0 < option.num_chunks != present.num_chunks
        return option.cost + (compiling if is_another else 0.0)

    best = min(options.values(), key=lambda option: (with_program(option), option.num_chunks))
    return best if with_program(best) < present.cost - WORTH_IT else present


def chunks_of(shape: StepShape, chosen: int) -> int:
    """Returns the chunks of a step that removes positions: those chosen, or as many fewer as are allowed now."""
    return max((number for number in shape.allowed if number <= chosen), default=shape.allowed[0])

"""Decides while a run goes on what is "auto": whether steps remove positions, and in how many chunks they run.

Decisions come before the same steps as the monitor's comparisons, from the histograms in the state; they are in the
state too, so that a resumed run goes on alike.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import RunConfig, TrainingDeletion
from mrt5_jax.data.expectation import Expectation
from mrt5_jax.objectives.kept_lengths import BINS, KeptLengths
from mrt5_jax.parallel.processes import say
from mrt5_jax.selection.deletions import DELETIONS
from mrt5_jax.selection.step_deletions import step_deletions
from mrt5_jax.training.choice import Expected, StepShape, choose, chunks_of, step_shape
from mrt5_jax.training.hooks import Hook, Moment
from mrt5_jax.training.monitor import is_due
from mrt5_jax.training.platform_costs import estimate_line
from mrt5_jax.training.state import TrainState


class Choices(Hook):
    """What was chosen, and the hook that chooses."""

    def __init__(
        self,
        run: RunConfig,
        mesh: Mesh,
        ladders: Mapping[int, Ladder],
        state: TrainState,
        expectation: Expectation | None = None,
    ) -> None:
        """Goes on from the state's choices, as far as the present execution allows them.

        `expectation` is what rows are dealt by; None where they lie as they come.
        """
        self._expectation = expectation
        self._run, self._deletions = run, step_deletions(run)
        self._shapes = {length: step_shape(run, ladder, mesh, state.params) for length, ladder in ladders.items()}
        self._chosen = {} if state.kept is None else {name: _on_host(kept)[1] for name, kept in state.kept.items()}
        self._open: list[TrainingDeletion] = [deletion for deletion in self._deletions.all if self._is_open(deletion)]
        if self._deletions.why:
            say(self._deletions.why)
        if self._open and (estimate := estimate_line(mesh.devices.flat[0].platform)):
            say(estimate)

    def removes(self, length: int) -> bool:
        """Says whether steps of an input length are to delete by the run's preferred deletion, not by its stand-in."""
        return not self._deletions.if_it_saves or self._chosen_for(self._deletions.preferred, length) > 0

    @property
    def removes_anywhere(self) -> bool:
        """Says so of any input length."""
        return any(map(self.removes, self._shapes))

    def num_chunks(self, deletion: TrainingDeletion, length: int) -> int:
        """Returns the chunks of a step under a deletion."""
        if self._run.execution.chunks == "auto" and not DELETIONS[deletion].removes:
            return 1
        return chunks_of(self._shapes[length], self._chosen_for(deletion, length))

    def possible_chunks(self, deletion: TrainingDeletion, length: int) -> tuple[int, ...]:
        """Returns all that `num_chunks` may come to return."""
        return self._shapes[length].allowed if deletion in self._open else (self.num_chunks(deletion, length),)

    def before(self, step: int, state: TrainState, batch: Mapping[str, Array]) -> TrainState:
        """See `Hook`; says what it changes, and why."""
        if state.kept is None or not self._open or not is_due(self._run.monitor, step):
            return state
        kept = dict(state.kept)
        explained = 0.0 if self._expectation is None else self._expectation.explained()
        for deletion in self._open:
            counts, before = _on_host(kept[deletion])
            of_lengths = zip(self._shapes, counts, before, strict=True)
            after = [self._choose(step, deletion, explained, *of) for of in of_lengths]
            if after != before:
                place = kept[deletion].num_chunks.sharding
                numbers = np.asarray(after, np.int32)
                array = jax.make_array_from_callback(numbers.shape, place, numbers.__getitem__)
                kept[deletion] = kept[deletion]._replace(num_chunks=array)
                self._chosen[deletion] = after
        return state._replace(kept=kept)

    def due(self, moment: Moment) -> bool:
        """Returns False: it acts before steps alone."""
        return False

    def _choose(
        self, step: int, deletion: TrainingDeletion, explained: float, length: int, counts: list[float], before: int
    ) -> int:
        shape, waits = self._shapes[length], self._waits(deletion)
        if not sum(counts):
            return before
        steps = self._deletions.share(deletion) * (self._run.training.num_steps - step + 1)
        expected = choose(shape, counts, before, may_remove_nothing=waits, explained=explained, steps=steps)
        now = (before > 0, chunks_of(shape, before)) if waits else chunks_of(shape, before)
        then = (expected.num_chunks > 0, chunks_of(shape, expected.num_chunks)) if waits else expected.num_chunks
        if now != then:
            say(f"step {step}: {self._line(deletion, shape, counts, expected)}")
        return expected.num_chunks

    def _line(self, deletion: TrainingDeletion, shape: StepShape, counts: list[float], expected: Expected) -> str:
        length = shape.ladder.full_length
        low, high = (_quantile(counts, share) * length for share in (0.1, 0.9))
        of = f" of inputs of {length}" if len(self._shapes) > 1 else ""
        keeps = f"it keeps {low:.0f} to {high:.0f} of {length} positions in 8 of 10 rows"
        exact = f"exact lengths would save {1 - shape.exact_body(counts):.0%}"
        if expected.num_chunks == 0:
            return (
                f"steps{of} delete by {self._deletions.stand_in} again: {keeps}, and {deletion} deletion saves "
                f"nothing by that ({exact} of the multiply-adds after the gate)"
            )
        chunks = "one chunk" if expected.num_chunks == 1 else f"{expected.num_chunks} chunks"
        return (
            f"{deletion} steps{of} run in {chunks} from here on: {keeps}; {expected.slots:.1f} slots are expected, "
            f"which saves {1 - expected.body:.0%} of the multiply-adds after the gate ({exact})"
        )

    def _waits(self, deletion: TrainingDeletion) -> bool:
        return self._deletions.if_it_saves and deletion == self._deletions.preferred

    def _is_open(self, deletion: TrainingDeletion) -> bool:
        """Whether there is anything to choose."""
        several = any(len(shape.allowed) > 1 for shape in self._shapes.values())
        has_rungs = any(len(shape.ladder.rungs) > 1 for shape in self._shapes.values())
        removes = self._run.model.gate is not None and DELETIONS[deletion].removes
        return removes and has_rungs and (several or self._waits(deletion))

    def _chosen_for(self, deletion: TrainingDeletion, length: int) -> int:
        return self._chosen[deletion][list(self._shapes).index(length)] if deletion in self._chosen else 0


def _on_host(kept: KeptLengths) -> tuple[list[list[float]], list[int]]:
    """Histograms, and what was chosen, by input length."""
    counts, num_chunks = jax.device_get(tuple(kept))
    return counts.tolist(), num_chunks.tolist()


def _quantile(counts: Sequence[float], share: float) -> float:
    """The share of a row that so large a share of rows keep at most."""
    wanted, seen = share * sum(counts), 0.0
    for number, count in enumerate(counts):
        seen += count
        if seen >= wanted:
            return (number + 1) / BINS
    return 1.0

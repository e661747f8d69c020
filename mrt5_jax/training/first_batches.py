"""Whether the first batches of a run bring what its selector needs: asked before anything is written."""

from collections.abc import Iterator

from mrt5_jax.config import RunConfig
from mrt5_jax.data.arrangements import Batch
from mrt5_jax.data.batches import TrainBatches
from mrt5_jax.evaluation.first_batches import check_first_evaluated
from mrt5_jax.parallel.processes import in_first_process
from mrt5_jax.selection.selectors import check_examples


def check_first_batches(run: RunConfig, batches: TrainBatches) -> None:
    """Refuses data of which the first batches lack what the selector needs, such as masks in its file.

    Of several processes the first looks at the rows that it reads. What comes later is not looked at: an example that
    lacks it makes its step's loss NaN.

    Args:
        batches: those of training; they stand afterwards where they stood before.

    Raises:
        UserError: names the first example that lacks it; in all processes.
    """

    def first() -> Iterator[Batch]:
        start = batches.state()
        yield next(batches)
        batches.restore(start)

    def check() -> None:
        check_examples(run.model.gate, first())
        for task in run.data.eval_tasks:
            check_first_evaluated(run.model.gate, task, run.data)

    in_first_process(check)

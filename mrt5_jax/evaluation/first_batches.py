"""Whether what a task is evaluated on first brings what a model's selector needs."""

from mrt5_jax.config import DataConfig, GateConfig
from mrt5_jax.data.batches import eval_batches
from mrt5_jax.selection.selectors import check_examples


def check_first_evaluated(gate: GateConfig | None, task: str, data: DataConfig, split: str = "validation") -> None:
    """Refuses a task whose first examples a selector cannot be evaluated on: those that an oracle's file lacks.

    Args:
        gate: of the model, if it has one. The task is read only where its selector needs something of it.

    Raises:
        UserError: names the first such example.
    """
    first = eval_batches(task, data, split=split, num_examples=data.eval_batch_size)
    check_examples(gate, (batch.arrays for batch in first), evaluation=True)

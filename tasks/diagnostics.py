"""The diagnostic tasks of MrT5 section 4.1, as `diagnostics.<kind>`, with 64 ids as in the paper; others by gin.

train_task = @diagnostics.diagnostic_task()
diagnostics.diagnostic_task.kind = "vowel_removal"
diagnostics.diagnostic_task.length = 32
"""

from typing import get_args

from mrt5_jax.data import diagnostics
from mrt5_jax.data.registry import add_task
from mrt5_jax.data.sources import IndexedSource
from mrt5_jax.data.task_specs import TaskSpec

_PAPER = {"length": 64, "train": 10_000_000, "validation": 10_000, "test": 10_000}


def diagnostic_task(
    kind: diagnostics.DiagnosticKind,
    length: int = _PAPER["length"],
    num_train: int = _PAPER["train"],
    num_validation: int = _PAPER["validation"],
    num_test: int = _PAPER["test"],
) -> str:
    """Registers a diagnostic task, once for each set of arguments, and returns its name.

    Args:
        length: of the inputs in ids, '#' and EOS counted.
        num_train: different strings before they come again; they are made on the fly, so a large number costs nothing.

    Raises:
        UserError: the length is too short.
    """
    sizes = {"train": num_train, "validation": num_validation, "test": num_test}
    given = {"length": length, **sizes}
    name = ".".join(["diagnostics", kind, *(f"{key}{value}" for key, value in given.items() if value != _PAPER[key])])
    return add_task(TaskSpec(name, IndexedSource(diagnostics.make_examples(kind, length), sizes)))


for _kind in get_args(diagnostics.DiagnosticKind):
    diagnostic_task(_kind)

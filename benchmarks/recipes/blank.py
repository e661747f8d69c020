"""A task whose inputs are blank: what a model learns of targets without reading anything."""

import dataclasses

import numpy as np

from mrt5_jax.data import task_names
from mrt5_jax.data.registry import add_task, tasks_of
from mrt5_jax.data.sources import Example


def blank_task(task: str) -> str:
    """Registers a task with its inputs left out but for their EOS, and returns the name of that."""
    (spec,) = tasks_of(task)

    def without_inputs(example: Example) -> Example:
        return {**spec.preprocess(example), "inputs": np.zeros(0, np.int32)}

    name = task_names.name_with_key(f"{task_names.label_of(task)}.blank", task_names.key_of(task))
    return add_task(dataclasses.replace(spec, name=name, preprocess=without_inputs))

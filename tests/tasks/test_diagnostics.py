"""Diagnostic tasks are seqio tasks like any others."""

import numpy as np
import seqio

from mrt5_jax.data import vocabulary
from mrt5_jax.tasks import diagnostics, register_with_seqio


def test_the_tasks_of_the_paper_are_registered_with_64_ids() -> None:
    register_with_seqio()
    for kind in ("copy", "vowel_removal", "contextual_vowel_removal", "merge_abc"):
        task = seqio.TaskRegistry.get(f"diagnostics.{kind}")
        example = next(task.get_dataset(split="test", shuffle=False).as_numpy_iterator())
        assert {"inputs", "targets", "index"} <= set(example)
        assert len(example["inputs"]) == 64
        assert example["inputs"][-1] == example["targets"][-1] == vocabulary.EOS_ID


def test_a_task_of_other_sizes_is_registered_once() -> None:
    name = diagnostics.diagnostic_task("vowel_removal", length=16, num_train=20, num_test=3)
    assert name == diagnostics.diagnostic_task("vowel_removal", length=16, num_train=20, num_test=3)
    assert name == "diagnostics.vowel_removal.length16.train20.test3"
    assert diagnostics.diagnostic_task("vowel_removal") == "diagnostics.vowel_removal"
    task = seqio.TaskRegistry.get(name)
    assert {split: task.num_input_examples(split) for split in task.splits} == {
        "train": 20, "validation": 10_000, "test": 3,
    }  # fmt: skip
    inputs = [example["inputs"] for example in task.get_dataset(split="train", seed=1).as_numpy_iterator()]
    assert np.shape(inputs) == (20, 16)
    assert len(np.unique(inputs, axis=0)) == 20

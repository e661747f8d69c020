"""Random records of a model in two languages, under several deletions."""

import numpy as np

from mrt5_jax.evaluation.records import Record


def random_evaluation(
    count: int,
    deletions: tuple[str, ...] = ("none", "hard"),
    languages: tuple[str, ...] = ("el", "de"),
    model: str = "small",
    seed: int = 0,
) -> list[Record]:
    """Of `count` examples; the more is deleted, the more their losses rise, with noise."""
    generator = np.random.default_rng(seed)
    records = []
    for index in range(count):
        inputs, targets = int(generator.integers(5, 60)), int(generator.integers(2, 9))
        nll = float(generator.gamma(2.0) * targets)
        language = languages[int(generator.integers(len(languages)))]
        for deletion in deletions:
            share = 0.0 if deletion == "none" else float(generator.uniform(0.1, 0.8))
            deleted = int(share * inputs)
            dropped = int(generator.integers(0, 2)) if deleted else 0
            rise = 1 + 0.3 * share + float(generator.normal(0, 0.1)) * (deletion != "none")
            correct = int(generator.integers(0, targets + 1))
            counts = (inputs, inputs - deleted - dropped, inputs, False, "")
            of_target = (nll * rise, targets, correct, correct == targets)
            record = Record("t", language, index, deletion, *of_target, *counts, dropped, inputs)
            records.append(
                record._replace(
                    num_text_bytes=targets - 1, mixture="tasks", split="test", model=model, step=7, threshold=None
                )
            )
    return records

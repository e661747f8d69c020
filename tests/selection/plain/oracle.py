import numpy as np

from mrt5_jax.config import GateConfig

from . import Given, Plain, by_rule

GATE = GateConfig(1, "oracle", scale=-60.0, settings=(("masks", "masks.jsonl"),))
"""The file has `mask_of` the examples."""
REFUSED = [
    ((), "needs a file of masks"),
    ((("masks", "nowhere.jsonl"),), "'masks'.*nowhere.jsonl"),
]


def mask_of(ids: np.ndarray) -> np.ndarray:
    return ids % 3 == 1


def example(given: Given) -> Plain:
    return by_rule(mask_of(given.ids), given)

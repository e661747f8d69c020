import numpy as np

from mrt5_jax.config import GateConfig
from mrt5_jax.selection.fixed_selector import SEPARATORS

from . import Given, Plain, by_rule

GATE = GateConfig(1, "fixed", scale=-60.0, deletion_probability=0.5)
REFUSED = [((("p", 0.5),), "names 'p': a selector of kind = 'fixed' has none")]


def example(given: Given) -> Plain:
    starts = [t for t, token in enumerate(given.ids) if t == 0 or token in SEPARATORS]
    keep = np.zeros(len(given.ids), bool)
    for start, end in zip(starts, [*starts, len(given.ids)][1:], strict=True):
        keep[start : start + (end - start + 1) // 2] = True
    return by_rule(keep, given)

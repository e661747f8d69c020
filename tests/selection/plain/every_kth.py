import numpy as np

from mrt5_jax.config import GateConfig

from . import Given, Plain, pooled

GATE = GateConfig(1, "every_kth", stride=3)
REFUSED = [((("stride", 3.0),), "names 'stride': a selector of kind = 'every_kth' has none")]


def example(given: Given) -> Plain:
    place = np.arange(len(given.ids))
    return pooled(((place % 3 == 2) | (place == len(place) - 1)).astype(float), {})

import numpy as np

from mrt5_jax.config import GateConfig

from . import Given, Plain, by_rule

GATE = GateConfig(1, "spacelike", scale=-60.0)
REFUSED = [((("prior", 0.2),), "names 'prior': a selector of kind = 'spacelike' has none")]


def spacelike(token: int) -> bool:
    byte = token - 3
    letter = 0 <= byte < 128 and chr(byte).isalnum()
    return not letter and not 0x80 <= byte <= 0xBF


def example(given: Given) -> Plain:
    kinds = [spacelike(int(token)) for token in given.ids]
    keep = [t == 0 or (kinds[t] and not kinds[t - 1]) for t in range(len(kinds))]
    return by_rule(np.array(keep), given)

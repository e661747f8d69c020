import numpy as np

from mrt5_jax.config import GateConfig

from . import Given, Plain

GATE = GateConfig(1, "hnet", settings=(("downsampling", 3.0),))
REFUSED = [((("downsampling", 1.0),), "'downsampling' = 1.0: should be greater than 1")]


def probabilities(router: dict[str, np.ndarray], hidden: np.ndarray) -> np.ndarray:
    found = [1.0]
    for t in range(1, len(hidden)):
        query, key = hidden[t - 1] @ router["query"], hidden[t] @ router["key"]
        found.append((1 - query @ key / np.linalg.norm(query) / np.linalg.norm(key)) / 2)
    return np.array(found)


def example(given: Given) -> Plain:
    p = probabilities(given.params["router"], given.hidden)
    keep, ratio = given.decisions.fixed(p > 0.5), given.setting("downsampling")
    share, mean = keep.mean(), p.mean()
    loss = ratio / (ratio - 1) * ((ratio - 1) * share * mean + (1 - share) * (1 - mean))
    return Plain(keep, confidence=np.where(keep, p, 1 - p), penalties={"ratio": (loss, 1)})

import numpy as np

from mrt5_jax.config import GateConfig

from . import Given, Plain, saved_from_nothing, sigmoid
from .learned import logits

GATE = GateConfig(1, "log_sigmoid", bias_init=0.0, threshold=-0.7)
REFUSED = [((("k", -30.0),), "names 'k': a selector of kind = 'log_sigmoid' has none")]


def entropy(p: np.ndarray) -> np.ndarray:
    return -p * np.log(p) - (1 - p) * np.log(1 - p)


def example(given: Given) -> Plain:
    p = sigmoid(logits(given))
    values, size = np.log(p), len(p)
    keep = given.decisions.fixed(saved_from_nothing(values > -0.7, values))
    penalties = {
        "gate": (values.sum(), size),
        "token_entropy": (entropy(p).sum(), size),
        "mean_entropy": (float(entropy(p.mean())), 1),
    }
    return Plain(keep, key_bias=values, penalties=penalties)

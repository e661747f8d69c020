import numpy as np

from mrt5_jax.config import GateConfig

from . import Given, Plain, normed, saved_from_nothing, sigmoid

GATE = GateConfig(1, "learned", bias_init=0.0, scale=-60.0)
REFUSED = [((("k", -30.0),), "names 'k': a selector of kind = 'learned' has none")]


def logits(given: Given) -> np.ndarray:
    kernel, bias = given.params["kernel"], given.params["bias"]
    return (normed(given.hidden, given.params["norm"]["scale"]) @ kernel)[:, 0] + bias


def example(given: Given) -> Plain:
    z = logits(given)
    values = given.gate.scale * sigmoid(-z)
    keep = given.decisions.fixed(saved_from_nothing(values > given.gate.scale / 2, values))
    return Plain(keep, key_bias=values, penalties={"gate": (values.sum(), len(z))})

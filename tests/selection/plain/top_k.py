import math
from fractions import Fraction

import numpy as np

from mrt5_jax.config import GateConfig

from . import Given, Plain, normed, sigmoid
from .hnet import probabilities

GATE = GateConfig(1, "top_k", settings=(("share", 0.4), ("score", "gate")))
REFUSED = [
    ((("share", 1.5),), "'share' = 1.5: should be between 0 and 1"),
    ((("score", "beauty"),), "'score' = 'beauty': should be 'gate' or 'router'"),
]


def example(given: Given) -> Plain:
    if given.setting("score") == "router":
        score = probabilities(given.params["router"], given.hidden)
    else:
        own = given.params["score"]
        score = sigmoid((normed(given.hidden, own["norm"]["scale"]) @ own["kernel"])[:, 0] + own["bias"])
    count = math.ceil(Fraction(str(given.setting("share"))) * len(score))
    keep = given.decisions.fixed(np.isin(np.arange(len(score)), np.argsort(-score, kind="stable")[:count]))
    return Plain(keep, confidence=np.where(keep, score, 1 - score))

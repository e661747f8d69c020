import numpy as np

from mrt5_jax.config import GateConfig

from . import Given, Plain, pooled
from .predictor import logits

GATE = GateConfig(1, "taught_boundaries", settings=(("teacher", "white_space"), ("bias_init", 0.0)))
REFUSED = [((("teacher", ""),), "'teacher' = '': should be 'white_space', or the path")]


def example(given: Given) -> Plain:
    z = logits(given)
    taught = np.isin(given.ids, [byte + 3 for byte in b" \t\n\r\v\f"]).astype(float)
    losses = 0 * z if given.noise is None else np.log1p(np.exp(z)) - taught * z
    ends = given.decisions.fixed(z > 0).astype(float) if given.noise is None else taught
    ends = np.where(np.arange(len(z)) == len(z) - 1, 1.0, ends)
    return pooled(ends, {"teacher": (losses.sum(), len(z))})

import numpy as np

from mrt5_jax.config import GateConfig

from . import Given, Plain, pooled
from .predictor import boundaries, logits, scripts_of, surprise

GATE = GateConfig(1, "magnet", settings=(("latin", 0.2), ("devanagari", 0.08), ("cyrillic", 0.1), ("temperature", 0.5)))
REFUSED = [
    ((("klingon", 0.2),), "names 'klingon': a selector of kind = 'magnet' has latin"),
    ((("latin", 0.0),), "'latin' = 0.0: should be between 0 and 1"),
    ((), "needs the prior of a script at least"),
]


def example(given: Given) -> Plain:
    priors = [(name, value) for name, value in given.gate.settings if name != "temperature"]
    names = [name for name, _ in priors]
    which = np.array([names.index(script) if script in names else 0 for script in scripts_of(given.ids)])
    ends, size = boundaries(given, logits(given, which), given.setting("temperature")), len(given.ids)
    terms = [surprise(ends[which == s].sum(), (which == s).sum(), prior) for s, (_, prior) in enumerate(priors)]
    return pooled(ends, {"boundaries": (sum(terms) / size, 1)})

from mrt5_jax.config import GateConfig

from . import Given, Plain, pooled
from .predictor import boundaries, logits, surprise

GATE = GateConfig(1, "boundary_predictor", settings=(("prior", 0.3), ("temperature", 0.7), ("bias_init", -0.5)))
REFUSED = [
    ((("prior", 1.0),), "'prior' = 1.0: should be between 0 and 1"),
    ((("temperature", 0.0),), "'temperature' = 0.0: should be greater than 0"),
    ((("prio", 0.2),), "names 'prio': .* has prior, temperature, bias_init; did you mean prior"),
    ((("prior", "a"),), "'prior' = 'a': should be between 0 and 1"),
    ((("prior", 0.2), ("prior", 0.3)), "one value a name"),
    (("prior", 0.2), "should be pairs of a name and a value"),
]


def example(given: Given) -> Plain:
    ends, size = boundaries(given, logits(given), given.setting("temperature")), len(given.ids)
    return pooled(ends, {"boundaries": (surprise(ends.sum(), size, given.setting("prior")) / size, 1)})

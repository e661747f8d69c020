from mrt5_jax.config import GateConfig

from . import Given, Plain, pooled
from .predictor import boundaries, logits, scripts_of

# No example has a share at a bound, where the hinge has no derivative.
GATE = GateConfig(
    1,
    "flexitokens",
    settings=(
        ("lower", 0.46),
        ("upper", 0.55),
        ("cyrillic_lower", 0.05),
        ("cyrillic_upper", 0.1),
        ("temperature", 0.5),
    ),
)
REFUSED = [
    ((("lower", 0.6), ("upper", 0.3)), "'lower' = 0.6 is above 'upper' = 0.3"),
    ((("latin_lower", 0.6),), "'latin_lower' = 0.6 is above 'latin_upper' = 0.3"),
    ((("klingon_lower", 0.1),), "names 'klingon_lower'"),
]


def example(given: Given) -> Plain:
    ends, size = boundaries(given, logits(given), given.setting("temperature")), len(given.ids)
    cyrillic = sum(script == "cyrillic" for script in scripts_of(given.ids)) / size
    lower, upper = 0.05 * cyrillic + 0.46 * (1 - cyrillic), 0.1 * cyrillic + 0.55 * (1 - cyrillic)
    share = ends.sum() / size
    return pooled(ends, {"bounds": (max(0.0, share - upper) + max(0.0, lower - share), 1)})

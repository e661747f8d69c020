"""The runs of the study: recipes and seeds, written down before anything is trained.

They read the text of `LANGUAGES`. A base is trained once, and beside it a model whose inputs are blank. From the base
go on, each for as many steps: the model as it is, MrT5, and selectors by rule that delete as much. MrT5 also begins
from scratch, and goes on towards other rates and with targets of their own for languages; and it removes vowels.
"""

from typing import NamedTuple

LANGUAGES = ("en", "de", "ru", "zh")
BASE = "base"
TARGET = 0.5

_MRT5, _BYT5, _POOLING = "runs/correct_text.gin", "runs/correct_text_base.gin", "models/mean_pooling.gin"
_HERE = "benchmarks/recipes"
_CONTINUED = ("TRAIN_STEPS=1000", "LEARNING_RATE=1e-3")
_BY_RULE = (
    "config.RunConfig.controller=None",
    f"config.GateConfig.deletion_probability={TARGET}",
    "config.TrainingConfig.deletion='hard'",
    "config.TrainingConfig.hard_probability=0.0",
)


class Recipe(NamedTuple):
    """A run, but for where its text and its MODEL_DIR are."""

    files: tuple[str, ...]
    """Gin files."""
    bindings: tuple[str, ...] = ()
    seed: int = 0
    base: str | None = None
    """The run whose parameters it begins with."""
    reads_text: bool = True
    targets: tuple[tuple[str, float], ...] = ()
    """Deletion rates that a controller leads to; of languages by name, of all other rows by ''."""
    deletions: tuple[str, ...] = ("hard",)
    """What it is evaluated under."""


def _controlled(target: float, seed: int, base: str | None, *bindings: str) -> Recipe:
    deletions = ("none", "soft", "hard", "random")
    bindings = (f"TARGET_DELETION_RATE={target}", *bindings)
    return Recipe((_MRT5,), bindings, seed, base, targets=(("", target),), deletions=deletions)


def recipes() -> dict[str, Recipe]:
    """Returns all runs by their names, those that others begin with first."""
    found = {
        BASE: Recipe((_MRT5, _BYT5), deletions=("none",)),
        "blank": Recipe((_MRT5, _BYT5, f"{_HERE}/blank.gin"), deletions=("none",)),
    }
    for seed in (1, 2):
        found |= {
            f"none_{seed}": Recipe((_MRT5, _BYT5), _CONTINUED, seed, BASE, deletions=("none",)),
            f"mrt5_{seed}": _controlled(TARGET, seed, BASE),
            f"random_{seed}": Recipe((_MRT5,), (*_BY_RULE, "config.GateConfig.kind='random'"), seed, BASE),
            f"fixed_{seed}": Recipe((_MRT5,), (*_BY_RULE, "config.GateConfig.kind='fixed'"), seed, BASE),
            f"every_kth_{seed}": Recipe((_MRT5, _POOLING), ("POOLING_LAYER=1",), seed, BASE),
        }
    found["mrt5_3"] = _controlled(TARGET, 3, BASE)
    for seed in (1, 2, 3):
        found[f"scratch_{seed}"] = _controlled(TARGET, seed, None, "TRAIN_STEPS=2000", "LEARNING_RATE=2e-3")
    found["mrt5_30"] = _controlled(0.3, 1, BASE)
    found["mrt5_70"] = _controlled(0.7, 1, BASE)
    return found | {"languages": _languages(), "vowels": _vowels()}


def _languages() -> Recipe:
    """Two targets for four languages, by a controller each."""
    targets = (("en", 0.5), ("de", 0.5), ("ru", 0.3), ("zh", 0.3))
    recipe = _controlled(TARGET, 1, BASE, f"LANGUAGE_TARGETS={targets}")
    return recipe._replace(targets=targets)


def _vowels() -> Recipe:
    """Vowel removal with a target two points above the vowels' share."""
    bindings = ("TARGET_DELETION_RATE=0.202", "config.LossConfig.regularizer_delay=0")
    files = ("runs/quickstart.gin", "runs/two_sided_control.gin")
    return Recipe(files, bindings, 1, reads_text=False, targets=(("", 0.202),), deletions=("soft", "hard"))

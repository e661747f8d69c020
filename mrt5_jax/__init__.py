"""MrT5 in JAX: a byte-level T5 that learns which bytes to delete, under static shapes.

    import mrt5_jax

    model = mrt5_jax.load("runs/vowels")
    model.deletions(["#HelloWorld"])
    model.generate(["#HelloWorld"])

The names below are imported when they are first used, so that `import mrt5_jax` itself imports no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` imports, for editors
    from mrt5_jax import config as config
    from mrt5_jax import presets as presets
    from mrt5_jax.api.loading import load as load
    from mrt5_jax.api.model import Model as Model
    from mrt5_jax.api.runs import evaluate as evaluate
    from mrt5_jax.api.runs import train as train
    from mrt5_jax.errors import UserError as UserError
    from mrt5_jax.inference.beam import Beam as Beam
    from mrt5_jax.inference.decoding import Greedy as Greedy
    from mrt5_jax.inference.sampling import Sampling as Sampling
    from mrt5_jax.inference.speculative import Speculative as Speculative

__version__ = "0.1.0"

_HOMES = {
    "load": "api.loading",
    "Model": "api.model",
    "train": "api.runs",
    "evaluate": "api.runs",
    "Greedy": "inference.decoding",
    "Speculative": "inference.speculative",
    "Sampling": "inference.sampling",
    "Beam": "inference.beam",
    "UserError": "errors",
    "presets": "presets",
    "config": "config",
}
"""Public name -> the module that has it, or that it is."""

__all__ = [*_HOMES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mrt5_jax' has no attribute {name!r}: it has {', '.join(_HOMES)}")
    module = importlib.import_module(f"mrt5_jax.{_HOMES[name]}")
    return module if _HOMES[name] == name else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

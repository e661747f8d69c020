"""Tasks of the package, one module a family. Importing a module registers its tasks; none of them knows the model."""

import importlib
import pkgutil

from mrt5_jax.data.registry import register_all_with_seqio


def import_all() -> None:
    """Registers every task that the package has."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def register_with_seqio() -> None:
    """Registers every task that the package has with seqio too, under the same names.

    A module of a user's calls this before it makes a seqio mixture of them. Where a gin file imports such a module,
    tasks that the gin file has imported before are registered as soon as the module imports seqio.

    Raises:
        UserError: seqio is not installed.
    """
    import_all()
    register_all_with_seqio()

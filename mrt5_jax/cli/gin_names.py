"""Names that a gin file or a flag may have meant."""

import dataclasses
import typing
from collections.abc import Iterable

from mrt5_jax import config
from mrt5_jax.cli.gin_statements import MACRO, Key


def known_settings(keys: Iterable[Key]) -> set[str]:
    """Returns the classes of config.py and their fields, and whatever a configuration binds."""
    names = set()
    for scope, selector, parameter in keys:
        names |= {scope} if selector == MACRO else {short(selector), f"{short(selector)}.{parameter}"}
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            names |= {f"config.{name}"} | {f"config.{name}.{field.name}" for field in dataclasses.fields(value)}
    return names


def readers_of(selector: str) -> list[str]:
    """Returns the fields of config.py's dataclasses that take what a selector makes, as "config.RunConfig.loss"."""
    found = []
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            for field, hint in typing.get_type_hints(value).items():
                if any(_selector(part) == selector for part in (hint, *typing.get_args(hint))):
                    found.append(f"config.{name}.{field}")
    return found


def short(selector: str) -> str:
    """Returns a name as one writes it after `from package import module`: module.name."""
    return ".".join(selector.split(".")[-2:])


def _selector(hint: object) -> str:
    return f"{hint.__module__}.{hint.__name__}" if isinstance(hint, type) else ""

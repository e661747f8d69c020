"""Settings of one selector alone: its file declares them, `config.GateConfig.settings` gives them by name."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from mrt5_jax.config import GateConfig
from mrt5_jax.errors import UserError
from mrt5_jax.spelling import nearest

SettingValue = float | str


@dataclasses.dataclass(frozen=True)
class SettingRule:
    """What a setting may be."""

    default: SettingValue | None
    """None: there is no value unless one is given."""
    holds: Callable[[Any], bool]
    expected: str


Settings = Mapping[str, SettingRule]


def is_number(value: Any) -> bool:
    """Says whether a setting is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def rate(default: float | None) -> SettingRule:
    """Returns a setting that is a share of positions."""
    return SettingRule(default, lambda value: is_number(value) and 0 < value < 1, "between 0 and 1")


def positive(default: float) -> SettingRule:
    """Returns a setting that is a positive number."""
    return SettingRule(default, lambda value: is_number(value) and value > 0, "greater than 0")


def number_above(lowest: float, default: float) -> SettingRule:
    """Returns a setting that is a number above `lowest`."""
    return SettingRule(default, lambda value: is_number(value) and value > lowest, f"greater than {lowest:g}")


def any_number(default: float) -> SettingRule:
    """Returns a setting that is a finite number."""
    return SettingRule(default, is_number, "a finite number")


def one_of(default: str, *others: str) -> SettingRule:
    """Returns a setting that is one of some words."""
    words = (default, *others)
    return SettingRule(default, lambda value: value in words, " or ".join(map(repr, words)))


def any_text(default: str | None, expected: str) -> SettingRule:
    """Returns a setting that is a text which is not empty."""
    return SettingRule(default, lambda value: isinstance(value, str) and value != "", expected)


def given(gate: GateConfig, declared: Settings, name: str) -> Any:
    """Returns the value of a setting: the given one, or its default."""
    return dict(gate.settings).get(name, declared[name].default)


def with_setting(gate: GateConfig, name: str, value: SettingValue) -> GateConfig:
    """Returns the gate with one setting replaced or added."""
    settings = {**dict(gate.settings), name: value}
    return dataclasses.replace(gate, settings=tuple(settings.items()))


def check_settings(gate: GateConfig, declared: Settings) -> None:
    """Refuses settings that the selector does not have, or that cannot be.

    Raises:
        UserError: names the first of them, and what it should be.
    """
    field = "config.GateConfig.settings"
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in gate.settings):
        raise UserError(f"{field} = {gate.settings!r}: should be pairs of a name and a value, as in (('prior', 0.2),)")
    for name, value in gate.settings:
        if name not in declared:
            known = f"has {', '.join(declared)}" if declared else "has none"
            raise UserError(
                f"{field} names {name!r}: a selector of kind = {gate.kind!r} {known}{nearest(name, list(declared))}"
            )
        if not declared[name].holds(value):
            raise UserError(f"{field}: {name!r} = {value!r}: should be {declared[name].expected}")
    if len(dict(gate.settings)) < len(gate.settings):
        raise UserError(f"{field} = {gate.settings!r}: should have one value a name")

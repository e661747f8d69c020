"""Configurations as JSON files in a MODEL_DIR: one reader for whoever wants them."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import FilePath, read_bytes
from mrt5_jax.validation import check_ranges

Config = TypeVar("Config")


def read_config(
    cls: type[Config], path: FilePath, renew: Callable[[dict[str, Any], str], dict[str, Any]]
) -> Config | None:
    """Reads a JSON file; None where there is no such file.

    Args:
        renew: from what an older version wrote, and the file, to the fields of today.

    Raises:
        UserError: it cannot be read, or has a field that is unknown, missing, of a wrong type or out of range.
    """
    try:
        values = json.loads(read_bytes(path).decode(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged, no JSON: {reason}; put its copy back, or give another MODEL_DIR") from None
    config = config_from_json(cls, renew(values, str(path)) if isinstance(values, dict) else values, str(path))
    try:
        check_ranges(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return config


def config_from_json(cls: type[Config], values: Any, place: str) -> Config:
    """Builds a configuration dataclass of what `json.loads` gives; fields with a default may be left out.

    Raises:
        UserError: a field is unknown, missing or of a wrong type; the message names it and `place`.
    """
    if not isinstance(values, dict):
        raise UserError(f"{place}: expected the fields of {cls.__name__}, found {_shown(values)}")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    if unknown := sorted(set(values) - set(fields)):
        raise UserError(
            f"{place}: unknown field(s) {', '.join(unknown)}; written by a newer version? Update mrt5_jax, or remove "
            f"them: {cls.__name__} has {', '.join(fields)}"
        )
    required = (name for name, field in fields.items() if field.default is dataclasses.MISSING)
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{place}: missing field(s) {', '.join(missing)}")
    hints = typing.get_type_hints(cls)
    return cls(**{name: _from_json(hints[name], value, f"{place}: {name}") for name, value in values.items()})


def _from_json(hint: Any, value: Any, place: str) -> Any:
    """`value` as the annotation `hint` wants it: dataclasses, Literals, optionals, tuples, scalars, or a Literal."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
        raise UserError(f"{place} is {_shown(value)}, not one of {', '.join(map(repr, arguments))}")
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        words = [word for argument in arguments for word in typing.get_args(argument) if _is_literal(argument)]
        if value in words:
            return value
        rest = [argument for argument in arguments if argument is not type(None) and not _is_literal(argument)]
        rest = [argument for argument in rest if type(value) is argument] or rest
        return _from_json(rest[0] if rest else Literal[tuple(words)], value, place)
    if origin is tuple and isinstance(value, list):
        items = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(items) != len(value):
            raise UserError(f"{place} is {_shown(value)}, not {len(items)} values")
        return tuple(_from_json(item, part, place) for item, part in zip(items, value, strict=True))
    if dataclasses.is_dataclass(hint):
        return config_from_json(typing.cast(type, hint), value, place)
    if hint is float and type(value) is int:
        return float(value) if abs(value) < 2**63 else math.inf
    if type(value) is not hint:
        raise UserError(f"{place} is {_shown(value)}, not of type {getattr(hint, '__name__', hint)}")
    return value


def _is_literal(hint: Any) -> bool:
    return typing.get_origin(hint) is Literal


def _shown(value: Any, longest: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")

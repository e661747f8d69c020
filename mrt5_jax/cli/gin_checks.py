"""What gin lets pass and a user did not mean: missing values, values of another type.

Walks the parsed configuration from the root as gin would evaluate it, without calling anything.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

import gin.config as gin_config
from beartype import BeartypeConf
from beartype.door import is_bearable
from gin.config import Configurable, ConfigurableReference

from mrt5_jax.cli.gin_names import known_settings, short
from mrt5_jax.cli.gin_statements import MACRO
from mrt5_jax.cli.gin_unread import CONSTANT
from mrt5_jax.errors import UserError
from mrt5_jax.spelling import nearest

Bound = Mapping[tuple[str, str], Mapping[str, Any]]
"""Gin's parsed configuration: (scope, full selector) -> parameter -> value; a macro is a scope of "gin.macro"."""

INT_IS_FLOAT = BeartypeConf(is_pep484_tower=True)


def check(bound: Bound, root: type) -> None:
    """Refuses a configuration that does not say what its author must have meant.

    Args:
      bound: what gin has parsed.
      root: the class that everything is evaluated for.

    Raises:
      UserError: a missing value, a macro that is not there, a literal of another type.
    """
    _Walk(bound).visit(root, _selector(root), ())


def check_types(node: Any) -> None:
    """Checks every field of a dataclass, and of the dataclasses in it, against its annotated type.

    Raises:
      UserError: a field has not, which a literal in a gin file cannot cause but a called function can.
    """
    cls = type(node)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        _check_type(_binding_name("", _selector(cls), field.name), value, hints[field.name])
        if dataclasses.is_dataclass(value):
            check_types(value)


class _Walk:
    """Visits whatever evaluating the root would call."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self._visited: set[tuple[str, tuple[str, ...]]] = set()

    def visit(self, function: Callable[..., Any], selector: str, scopes: tuple[str, ...]) -> None:
        """Checks what is bound to a configurable within nested scopes, outermost first."""
        if (selector, scopes) in self._visited:
            return
        self._visited.add((selector, scopes))
        scope_names = ["/".join(scopes[:depth]) for depth in range(len(scopes) + 1)]
        hints = _hints(function)
        for parameter in inspect.signature(function).parameters.values():
            binding_scopes = [scope for scope in scope_names if parameter.name in self.bound.get((scope, selector), {})]
            if binding_scopes:
                binding = _binding_name(binding_scopes[-1], selector, parameter.name)
                value = self._expand(self.bound[binding_scopes[-1], selector][parameter.name], binding, scopes)
                if parameter.name in hints and not _has_reference(value):
                    _check_type(binding, value, hints[parameter.name])
            elif _is_required(parameter):
                raise _missing(_binding_name(scope_names[-1], selector, parameter.name))

    def _expand(self, value: Any, name: str, scopes: tuple[str, ...], macros: tuple[str, ...] = ()) -> Any:
        """Replaces macros by their values, visits other references, and refuses gin.REQUIRED.

        Args:
          value: as gin parsed it.
          name: the binding or macro that holds it.
          scopes: those it is evaluated in.
          macros: those being replaced.
        """
        if isinstance(value, list | tuple):
            return type(value)(self._expand(item, name, scopes, macros) for item in value)
        if isinstance(value, dict):
            return {key: self._expand(item, name, scopes, macros) for key, item in value.items()}
        if not isinstance(value, ConfigurableReference):
            return value
        configurable = typing.cast(Configurable, value.configurable)
        selector = configurable.selector
        if selector == CONSTANT:
            if value.scopes == ["gin.REQUIRED"]:
                raise _missing(name)
            return value
        if selector != MACRO:
            self.visit(configurable.wrapped, selector, tuple(value.scopes) or scopes)
            return value
        macro = "/".join(value.scopes)
        if macro in macros:
            raise UserError(f"{name}: the macro {macro} is defined by itself")
        if (macro, MACRO) not in self.bound:
            names = known_settings((*owner, name) for owner, values in self.bound.items() for name in values)
            raise UserError(f"{name} = %{macro}: there is no macro {macro}{nearest(macro, names)}")
        # Gin evaluates a macro's value in the scope of that name.
        return self._expand(self.bound[macro, MACRO]["value"], macro, tuple(value.scopes), (*macros, macro))


def _is_required(parameter: inspect.Parameter) -> bool:
    variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variable


def _missing(name: str) -> UserError:
    return UserError(f"{name} needs a value: --gin.{name}=...")


def _check_type(name: str, value: Any, hint: Any) -> None:
    """A whole number will do for a float; True and False will do for neither."""
    bool_allowed = bool in (hint, *typing.get_args(hint))
    if not is_bearable(value, hint, conf=INT_IS_FLOAT) or (isinstance(value, bool) and not bool_allowed):
        raise UserError(f"{name} = {value!r}: should be {_describe(hint)}")


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(repr(value) for value in typing.get_args(hint))
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    if any(typing.get_origin(part) is Literal for part in typing.get_args(hint)):
        return " or ".join(map(_describe, typing.get_args(hint)))
    return str(hint).replace("typing.", "").replace("mrt5_jax.config.", "")


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # a function of the user's whose annotations cannot be looked up
        return {}


def _has_reference(value: Any) -> bool:
    return any(True for _ in gin_config.iterate_references({"": value}))


def _binding_name(scope: str, selector: str, parameter: str) -> str:
    return f"{scope}/{short(selector)}.{parameter}" if scope else f"{short(selector)}.{parameter}"


def _selector(cls: type) -> str:
    return f"{cls.__module__}.{cls.__name__}"

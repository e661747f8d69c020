"""Bindings and macros that nothing reads: refused, unless a later statement switched off or replaced what read them.

What is read is found as gin would evaluate the root, without calling anything.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gin.config import Configurable, ConfigurableReference

from mrt5_jax import config
from mrt5_jax.cli.gin_names import known_names, readers_of, short
from mrt5_jax.cli.gin_statements import DERIVED, FLAGS, MACRO, SAVED, Key, Statement, Statements
from mrt5_jax.errors import UserError
from mrt5_jax.spelling import nearest
from mrt5_jax.unread_settings import unread

CONSTANT = "gin.constant"


class Edge(NamedTuple):
    """How a key was reached: its owner is referred to by the value of another one."""

    by: Key
    statement: Statement | None


Lost = dict[str, list[str]]
"""A statement, with its place, that took the effect of earlier ones -> the names of those."""


def check_unread(statements: Statements, root: type) -> Lost:
    """Refuses what has no effect.

    Returns:
      What has none because of a later statement that switched off or replaced what would read it.

    Raises:
      UserError: any other binding or macro that nothing reads, with its place.
    """
    last = statements.last()
    selector = f"{root.__module__}.{root.__name__}"
    read = _Reached({key: [statement] for key, statement in last.items()}, exact=True)
    read.visit(root, selector, (), None)
    unread = [(at, made) for at, made in enumerate(statements.made) if last[made.key] is made and made.key not in read]
    unread.sort(key=lambda item: item[1].key[1] != MACRO)  # a macro's name tells more than what it should have set
    lost: Lost = {}
    for at, made in unread:
        switch = None if made.source == FLAGS else _switch(statements.made, at, last, root, selector)
        if switch is None:
            raise _refusal(made, last)
        lost.setdefault(_shown(switch), []).append(made.name)
    return lost


class SwitchedOff(NamedTuple):
    """Fields that nothing reads."""

    lost: Lost
    """Those that a later statement than theirs has brought about. They have got their defaults: evaluate again."""
    complaints: list[str]
    """What is wrong with the others."""


def switch_off(run: config.RunConfig, statements: Statements) -> SwitchedOff:
    """Finds the fields that the run's other settings leave without effect."""
    lost: Lost = {}
    complaints = []
    for field in unread(run):
        selector = f"{config.__name__}.{field.class_name}"
        at = _latest(statements.made, {(selector, field.field)})
        if at is None:
            continue
        switches = {(f"{config.__name__}.{owner}", name) for owner, name in map(_split, field.switches)}
        by, (place, made) = _latest(statements.made, switches), at
        if made.source != FLAGS and by is not None and by[0] > place:
            lost.setdefault(_shown(by[1]), []).append(made.name)
        elif made.source == SAVED:
            lost.setdefault(f"{SAVED}, where {field.why}", []).append(made.name)
        else:
            complaints.append(f"{made.place}: {field.complaint}")
            continue
        statements.bind_everywhere(selector, field.field, field.default)
    return SwitchedOff(lost, complaints)


def _latest(made: Sequence[Statement], fields: set[tuple[str, str]]) -> tuple[int, Statement] | None:
    """The last binding of some (selector, parameter); its number is that of the last macro that it reads, if later."""
    found = [(at, one) for at, one in enumerate(made) if one.key[1:] in fields]
    if not found:
        return None
    at, binding = found[-1]
    macros = {"/".join(reference.scopes) for reference in _references(binding.value)}
    later = [number for number, one in enumerate(made) if one.key[1] == MACRO and one.key[0] in macros]
    return max([at, *later]), binding


def _split(name: str) -> tuple[str, str]:
    owner, _, field = name.partition(".")
    return owner, field


class _Reached:
    """The keys that evaluating a root comes by, where a key may have had several values."""

    def __init__(self, values: Mapping[Key, Sequence[Statement]], *, exact: bool) -> None:
        """`exact`: of a parameter that several of the scopes bind, the innermost alone is read, as gin does."""
        self._values, self._exact = values, exact
        self._edges: dict[Key, Edge | None] = {}
        self._visited: set[tuple[str, tuple[str, ...]]] = set()
        self._bound: dict[tuple[str, str], set[str]] = {}
        for scope, selector, parameter in values:
            self._bound.setdefault((scope, selector), set()).add(parameter)

    def __contains__(self, key: Key) -> bool:
        return key in self._edges

    def path(self, key: Key) -> list[Statement]:
        """The statements that lead from the root to a key."""
        found, edge = [], self._edges[key]
        while edge is not None:
            if edge.statement is not None:
                found.append(edge.statement)
            edge = self._edges[edge.by]
        return found[::-1]

    def visit(self, function: Any, selector: str, scopes: tuple[str, ...], edge: Edge | None) -> None:
        """Reads what is bound to a configurable within nested scopes, outermost first."""
        if (selector, scopes) in self._visited:
            return
        self._visited.add((selector, scopes))
        inner_first = ["/".join(scopes[:depth]) for depth in range(len(scopes), -1, -1)]
        for parameter in _parameters(function, (self._bound.get((scope, selector), ()) for scope in inner_first)):
            keys = [(scope, selector, parameter) for scope in inner_first]
            bound = [key for key in keys if key in self._values]
            for key in bound[:1] if self._exact else bound:
                self._read(key, scopes, edge)

    def _read(self, key: Key, scopes: tuple[str, ...], edge: Edge | None) -> None:
        self._edges.setdefault(key, edge)
        for statement in self._values[key]:
            for reference in _references(statement.value):
                configurable, onwards = _configurable(reference), Edge(key, statement)
                if configurable.selector == MACRO:
                    macro = ("/".join(reference.scopes), MACRO, "value")
                    if macro in self._values and macro not in self._edges:
                        # Gin evaluates a macro's value in the scope of that name.
                        self._read(macro, tuple(reference.scopes), onwards)
                elif configurable.selector != CONSTANT:
                    inside = tuple(reference.scopes) or scopes
                    self.visit(configurable.wrapped, configurable.selector, inside, onwards)


def _switch(
    made: Sequence[Statement], at: int, last: Mapping[Key, Statement], root: type, selector: str
) -> Statement | None:
    """The statement behind `made[at]` without which that would be read; None if there is no such statement."""
    in_force: dict[Key, list[Statement]] = {}
    for number, statement in enumerate(made):
        if number <= at:
            in_force[statement.key] = [statement]
        else:
            in_force.setdefault(statement.key, []).append(statement)
    read = _Reached(in_force, exact=False)
    read.visit(root, selector, (), None)
    if made[at].key not in read:
        return None
    path = read.path(made[at].key)
    # Two references are equal for gin if only their scopes differ.
    return next((last[step.key] for step in path if repr(last[step.key].value) != repr(step.value)), None)


def _refusal(made: Statement, last: Mapping[Key, Statement]) -> UserError:
    scope, selector, _ = made.key
    if selector == MACRO:
        names = known_names(statement.key for statement in last.values()) - {made.name}
        place = made.place if made.source == FLAGS else f"{made.place}: {made.name}"
        return UserError(f"{place}: nothing reads this macro{nearest(made.name, names)}")
    what = made.place if made.source == FLAGS else f"{made.place}: {made.name}"
    why = "changes nothing" if made.source == FLAGS else "nothing reads this"
    owner = f"{scope}/{short(selector)}" if scope else short(selector)
    reader = next(iter(readers_of(selector)), None)
    remedy = f": it would be read with {reader} = @{owner}()" if reader else ""
    return UserError(f"{what}: {why}, since this run does not use {owner}{remedy}")


def lost_lines(lost: Lost) -> list[str]:
    """One line for all that a statement took the effect of."""
    return [f"{switch}: leaves without effect what was set before: {_listed(names)}" for switch, names in lost.items()]


def _listed(names: Sequence[str]) -> str:
    """The names; of one class, how many, if there are many."""
    classes = {name: name.rpartition(".")[0] for name in names}
    many = {owner for owner in classes.values() if owner and list(classes.values()).count(owner) > 2}
    parts = [f"all of {owner}" if owner in many else name for name, owner in classes.items()]
    return ", ".join(dict.fromkeys(parts))


def _shown(made: Statement) -> str:
    return made.place if made.source == FLAGS else f"{made.place}: {made.name} = {made.value!r}"


def repeated_lines(statements: Statements) -> list[str]:
    """A line for each statement that a later one of the same file, or among the flags, replaces."""
    latest: dict[tuple[int, Key], Statement] = {}
    lines = []
    for statement in statements.made:
        before = latest.get((statement.reading, statement.key))
        if before is not None and statement.reading != DERIVED:
            lines.append(f"{before.place}: has no effect, since {statement.place} sets {statement.name} again")
        latest[statement.reading, statement.key] = statement
    return list(dict.fromkeys(lines))


def _parameters(function: Any, bound: Iterable[Iterable[str]]) -> list[str]:
    """The names that a call takes: those of the signature, and what is bound where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    names = [parameter.name for parameter in parameters]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        names += sorted({name for names_bound in bound for name in names_bound} - set(names))
    return names


def _references(value: Any) -> list[ConfigurableReference]:
    if isinstance(value, ConfigurableReference):
        return [value]
    if isinstance(value, dict):
        return [reference for item in value.items() for part in item for reference in _references(part)]
    if isinstance(value, list | tuple):
        return [reference for item in value for reference in _references(item)]
    return []


def _configurable(reference: ConfigurableReference) -> Configurable:
    configurable = reference.configurable
    assert isinstance(configurable, Configurable)
    return configurable

"""Bindings and macros that nothing reads: refused, unless a later statement switched off or replaced what read them.

What is read is found as gin would evaluate the root, without calling anything.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gin.config import Configurable, ConfigurableReference

from mrt5_jax import config
from mrt5_jax.cli.gin_names import known_settings, readers_of, short
from mrt5_jax.cli.gin_statements import DERIVED, FLAGS, MACRO, SAVED, Key, Statement, Statements
from mrt5_jax.errors import UserError
from mrt5_jax.spelling import nearest

if TYPE_CHECKING:
    from mrt5_jax.unread_settings import Unread

CONSTANT = "gin.constant"


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


def switch_off(run: config.RunConfig, statements: Statements) -> Lost:
    """Gives fields that nothing reads their defaults, where a later statement than theirs has brought that about.

    Returns:
      Those fields. Unless there are none, the run is to be evaluated again.
    """
    lost: Lost = {}
    for field, (place, made) in _unread_statements(run, statements):
        switches = {(f"{config.__name__}.{owner}", name) for owner, name in map(_split, field.switches)}
        by = _latest(statements.made, switches)
        if made.source != FLAGS and by is not None and by[0] > place:
            switch = _shown(by[1])
        elif made.source == SAVED:
            switch = f"{SAVED}, where {field.why}"
        else:
            continue
        lost.setdefault(switch, []).append(made.name)
        statements.bind_everywhere(f"{config.__name__}.{field.class_name}", field.field, field.default)
    return lost


def complaints(run: config.RunConfig, statements: Statements) -> list[str]:
    """Says of each field that nothing reads, and that was set all the same, where that was and what would be right."""
    return [f"{made.place}: {field.complaint}" for field, (_, made) in _unread_statements(run, statements)]


def _unread_statements(
    run: config.RunConfig, statements: Statements
) -> Iterator[tuple["Unread", tuple[int, Statement]]]:
    """The fields that the run's other settings leave without effect, and what bound each of them last."""
    from mrt5_jax.unread_settings import unread  # imports JAX, for which no help should wait

    for field in unread(run):
        bound = _latest(statements.made, {(f"{config.__name__}.{field.class_name}", field.field)})
        if bound is not None:
            yield field, bound


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
        self._reached: dict[Key, Statement | None] = {}
        """Each key, and the statement whose value refers to its owner; None for those of the root."""
        self._visited: set[tuple[str, tuple[str, ...]]] = set()
        self._bound: dict[tuple[str, str], set[str]] = {}
        for scope, selector, parameter in values:
            self._bound.setdefault((scope, selector), set()).add(parameter)

    def __contains__(self, key: Key) -> bool:
        return key in self._reached

    def path(self, key: Key) -> list[Statement]:
        """Returns the statements that lead from the root to a key."""
        found, by = [], self._reached[key]
        while by is not None:
            found.append(by)
            by = self._reached[by.key]
        return found[::-1]

    def visit(self, function: Any, selector: str, scopes: tuple[str, ...], by: Statement | None) -> None:
        """Reads what is bound to a configurable within nested scopes, outermost first.

        Args:
          by: the statement whose value refers to the configurable; None for the root.
        """
        if (selector, scopes) in self._visited:
            return
        self._visited.add((selector, scopes))
        inner_first = ["/".join(scopes[:depth]) for depth in range(len(scopes), -1, -1)]
        for parameter in _parameters(function, (self._bound.get((scope, selector), ()) for scope in inner_first)):
            keys = [(scope, selector, parameter) for scope in inner_first]
            bound = [key for key in keys if key in self._values]
            for key in bound[:1] if self._exact else bound:
                self._read(key, scopes, by)

    def _read(self, key: Key, scopes: tuple[str, ...], by: Statement | None) -> None:
        self._reached.setdefault(key, by)
        for statement in self._values[key]:
            for reference in _references(statement.value):
                configurable = _configurable(reference)
                if configurable.selector == MACRO:
                    macro = ("/".join(reference.scopes), MACRO, "value")
                    if macro in self._values and macro not in self._reached:
                        # Gin evaluates a macro's value in the scope of that name.
                        self._read(macro, tuple(reference.scopes), statement)
                elif configurable.selector != CONSTANT:
                    inside = tuple(reference.scopes) or scopes
                    self.visit(configurable.wrapped, configurable.selector, inside, statement)


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
        names = known_settings(statement.key for statement in last.values()) - {made.name}
        place = made.place if made.source == FLAGS else f"{made.place}: {made.name}"
        return UserError(f"{place}: nothing reads this macro{nearest(made.name, names)}")
    what = made.place if made.source == FLAGS else f"{made.place}: {made.name}"
    why = "changes nothing" if made.source == FLAGS else "nothing reads this"
    owner = f"{scope}/{short(selector)}" if scope else short(selector)
    reader = next(iter(readers_of(selector)), None)
    remedy = f": it would be read with {reader} = @{owner}()" if reader else ""
    return UserError(f"{what}: {why}, since this run does not use {owner}{remedy}")


def lost_lines(lost: Lost) -> list[str]:
    """Writes one line for all that a statement took the effect of."""
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
    """Writes a line for each statement that a later one of the same file, or among the flags, replaces."""
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

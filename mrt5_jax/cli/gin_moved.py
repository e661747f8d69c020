"""Old names of settings in gin files and flags, after all has been read."""

from typing import Any

import gin.config as gin_config
from gin.config import ConfigurableReference

from mrt5_jax import config
from mrt5_jax.cli.gin_statements import DERIVED, EXECUTION, FLAGS, Key, Statement, Statements
from mrt5_jax.errors import UserError
from mrt5_jax.moved_names import moved_line, renewed_capacity, renewed_dispatch

RUN = f"{config.__name__}.RunConfig"
COMPACTION = f"{config.__name__}.CompactionConfig"
EVALUATION = f"{config.__name__}.EvaluationConfig"

_CAPACITY: Key = ("", COMPACTION, "capacity")


def renew(statements: Statements) -> list[str]:
    """Binds what old names mean today, where the same name would not say it.

    Returns:
      A line for every file, and for every flag, that uses old names.

    Raises:
      UserError: a file, or the flags together, give an old and a new name of one setting.
    """
    old = [made for made in statements.made if made.moved_from is not None]
    if not old:
        return []
    for made in old:
        new = (other for other in statements.made if other.moved_from is None)
        if both := next((other for other in new if (other.reading, other.key) == (made.reading, made.key)), None):
            raise UserError(
                f"{made.place}: {made.name} and {both.name} ({both.place}) are one setting: keep the new name"
            )
    if "execution" not in gin_config._CONFIG.get(("", RUN), {}):
        _bind(statements, old[-1], ("", RUN, "execution"), ConfigurableReference(EXECUTION, True))
    _renew_capacities(statements)
    by_place: dict[str, list[Statement]] = {}
    for made in old:
        by_place.setdefault(made.place if made.source == FLAGS else made.source, []).append(made)
    lines = []
    for place, group in by_place.items():
        names = dict.fromkeys(made.moved_from for made in group if made.moved_from is not None)
        lines.append(moved_line(place, list(names), [made.value for made in group if made.key[2].endswith("dispatch")]))
    return lines


def _renew_capacities(statements: Statements) -> None:
    """What dispatch = 'capacity' meant, and that a capacity beside another dispatch had no effect."""
    last = statements.last()
    chosen = {name: last.get(("", EXECUTION, name)) for name in ("dispatch", "inference_dispatch")}
    used = {name: made for name, made in chosen.items() if made is not None and made.moved_from is not None}
    if not used:
        return
    capacity = last.get(_CAPACITY)
    given = None if capacity is None else capacity.value
    training, evaluation = (
        renewed_capacity(used[name].value if name in used else None, given)
        for name in ("dispatch", "inference_dispatch")
    )
    for name, made in used.items():
        _bind(statements, made, ("", EXECUTION, name), renewed_dispatch(made.value))
    by, beside = next(iter(used.values())), {made.reading for made in used.values()}
    if training is not None or (capacity is not None and capacity.reading in beside):
        _bind(statements, by, _CAPACITY, training)
    if evaluation is not None:
        _bind(statements, by, ("", EVALUATION, "capacity"), evaluation)


def _bind(statements: Statements, because_of: Statement, key: Key, value: Any) -> None:
    """Binds a key in the name of a statement."""
    scope, selector, parameter = key
    gin_config._CONFIG.setdefault((scope, selector), {})[parameter] = value
    statements.made.append(because_of._replace(key=key, value=value, reading=DERIVED))

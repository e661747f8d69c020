"""What gin files and flags bind, statement by statement: gin keeps only the last value, and forgets where it was."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import gin.config as gin_config
from gin import config_parser

from mrt5_jax import config
from mrt5_jax.moved_names import MOVED, NEW_OWNER, renewed_value

MACRO = "gin.macro"
DERIVED = -1
"""The reading of what nobody wrote: it follows from old names."""
SAVED = "the saved configuration"
"""The source of what a MODEL_DIR says: it was accepted when it was written."""
EXECUTION = f"{config.__name__}.{NEW_OWNER}"
"""Selector of the class that settings have moved to."""
FLAGS = "the flags"
"""The source of what the command line binds: each of it has to have an effect, whatever comes later."""

Key = tuple[str, str, str]
"""Scope, full selector, parameter; a macro is (its name, MACRO, "value")."""


class Statement(NamedTuple):
    """A binding or a macro as somebody wrote it."""

    key: Key
    value: Any
    name: str
    """As it is written: "config.GateConfig.layer", "GATE_LAYER"."""
    source: str
    """The file, or what else was read."""
    reading: int
    """Which time that something was read: a file may be included twice. All flags are one reading."""
    place: str
    """The file with its line, or the flag."""
    moved_from: tuple[str, str] | None = None
    """Class and field of an old name; `key` is that of the new one."""


class Statements:
    """All that was bound, in the order of reading."""

    def __init__(self) -> None:
        self.made: list[Statement] = []
        self._source, self._place = "", ""
        self._readings = itertools.count(1)

    @contextlib.contextmanager
    def of(self, source: str, place: str = "") -> Iterator[None]:
        """Marks what is parsed meanwhile and lies in no file as of this source.

        Args:
          place: where all of it stands; empty: a line of the source.
        """
        before = self._source, self._place
        self._source, self._place = source, place
        try:
            yield
        finally:
            self._source, self._place = before

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Records whatever gin parses meanwhile."""
        before, record, readings = config_parser.ConfigParser, self._record, self._readings

        class Recording(before):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                self.reading = next(readings)

            def __next__(self) -> Any:
                statement = super().__next__()
                while isinstance(statement, config_parser.BindingStatement) and record(statement, self.reading):
                    statement = super().__next__()
                return statement

        config_parser.ConfigParser = Recording
        try:
            yield
        finally:
            config_parser.ConfigParser = before

    def last(self) -> dict[Key, Statement]:
        """Returns the statement of each key that is in force."""
        return {statement.key: statement for statement in self.made}

    def bind_everywhere(self, selector: str, parameter: str, value: Any) -> None:
        """Binds a parameter anew in every scope that binds it."""
        for (_, owner), values in gin_config._CONFIG.items():
            if owner == selector and parameter in values:
                values[parameter] = value

    def _record(self, statement: config_parser.BindingStatement, reading: int) -> bool:
        """Records a statement; True for one with an old name, which gin does not know: it is bound here."""
        scope, selector, parameter, value, location = statement
        source = location.filename or self._source
        place = f"{source}:{location.line_num}" if location.filename or not self._place else self._place
        reading = 0 if source == FLAGS else reading
        scoped = f"{scope}/{selector}" if scope else selector
        if not parameter:
            self.made.append(Statement((scoped, MACRO, "value"), value, scoped, source, reading, place))
            return False
        name = f"{scoped}.{parameter}"
        old = _moved(selector, parameter)
        if old is not None:
            key, value = (scope, EXECUTION, MOVED[old]), renewed_value(MOVED[old], value)
            gin_config._CONFIG.setdefault((scope, EXECUTION), {})[MOVED[old]] = value
            self.made.append(Statement(key, value, name, source, reading, place, old))
            return True
        with contextlib.suppress(ValueError, NameError, AttributeError):  # gin says so itself, and knows the place
            key = gin_config.ParsedBindingKey.parse((scope, selector, parameter))
            self.made.append(Statement((scope, key.complete_selector, parameter), value, name, source, reading, place))
        return False


def _moved(selector: str, parameter: str) -> tuple[str, str] | None:
    """The old name that a binding uses."""
    old = selector.rpartition(".")[2], parameter
    if old not in MOVED:
        return None
    with contextlib.suppress(ValueError, NameError, AttributeError):
        found = gin_config._parse_context().get_configurable(selector)
        if found and found.wrapped is getattr(config, old[0]):
            return old
    return None

"""From gin files and `--gin.NAME=VALUE` flags to one `RunConfig`, or to one line that says what is wrong.

Gin itself accepts what it should not: a binding that nothing reads, a value of another type. So between parsing and
evaluation `gin_unread` and `gin_checks` walk what gin has read. Gin's state is global; it is emptied at every call.
"""

import argparse
import contextlib
import dataclasses
import importlib.resources
import io
import os
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gin.config as gin_config

from mrt5_jax import config
from mrt5_jax.cli import gin_checks
from mrt5_jax.cli.gin_moved import renew
from mrt5_jax.cli.gin_names import known_settings
from mrt5_jax.cli.gin_statements import FLAGS, MACRO, SAVED, Statements
from mrt5_jax.cli.gin_unread import check_unread, complaints, lost_lines, repeated_lines, switch_off
from mrt5_jax.cli.user_modules import find_in_working_directory, import_module_of_user, import_modules_of_user
from mrt5_jax.data.lines import read_text
from mrt5_jax.data.registry import register_all_with_seqio
from mrt5_jax.data.tensorflow_on_demand import imports_of_users
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import explained, files_for, given_path
from mrt5_jax.spelling import nearest

# No gin file need mention the root.
gin_config.external_configurable(config.RunConfig, module=config.__name__)
# What an old name binds, in a file that knows nothing of it.
gin_config.external_configurable(config.ExecutionConfig, module=config.__name__)

HEADER = "from __gin__ import dynamic_registration\nfrom mrt5_jax import config\n"
"""What a flag may refer to without saying so: the dataclasses of config.py."""


_OPTIONAL = {"seqio": "seqio", "tensorflow": "tensorflow", "tensorflow_datasets": "tensorflow-datasets"}
"""Modules that tasks may take and that not every system has, and what pip calls them."""


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A run, and the text that makes it again."""

    run: config.RunConfig
    config_text: str
    """Gin: every macro, binding and default that was used, includes put in; `resolve(base_text=...)` takes it."""
    notes: tuple[str, ...] = ()
    """What was set and has no effect on purpose, a line each."""

    complaints: tuple[str, ...] = ()
    """Settings that the others leave without effect, each with its place."""

    def check(self) -> None:
        """Validates the run.

        Raises:
          UserError: see `validate`; or there are complaints.
        """
        from mrt5_jax.validation import validate  # imports JAX, for which no help should wait

        for complaint in self.complaints:
            raise UserError(complaint)
        validate(self.run)

    def print_notes(self) -> None:
        """Prints the notes, for commands to call when nothing is left that may refuse the run."""
        for note in self.notes:
            print(f"mrt5: {note}", file=sys.stderr)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds T5X's flags; `main` puts the `--gin.NAME=VALUE`, which argparse cannot describe, into `gin_bindings`."""
    group = parser.add_argument_group(
        "configuration",
        "--gin.NAME=VALUE sets a macro or a binding, after all files; strings need gin's quotes within the shell's, as "
        "in --gin.MODEL_DIR=\"'runs/a'\"",
    )
    group.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="may be repeated, later files win; looked for here, in --gin_search_paths and among the installed ones",
    )
    group.add_argument("--gin_search_paths", default="", metavar="DIR,DIR", help="folders of gin files and includes")
    group.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="NAME",
        help="a Python module with your tasks or selectors, in the working directory or on PYTHONPATH; may be repeated",
    )
    parser.set_defaults(gin_bindings=[])


def resolve_arguments(arguments: argparse.Namespace, base_text: str = "", base_place: str = SAVED) -> Resolved:
    """Does what `resolve` does, for what `add_arguments` has put on a parser."""
    search_paths = [given_path(path) for path in arguments.gin_search_paths.split(",") if path]
    return resolve(
        arguments.gin_file, search_paths, arguments.gin_bindings, base_text, base_place, modules=arguments.module
    )


def import_modules(names: Sequence[str]) -> None:
    """Imports modules with tasks of a user's, where no configuration is read.

    Raises:
      UserError: see `import_module_of_user`.
    """
    with imports_of_users(register_all_with_seqio):
        import_modules_of_user(names)


def resolve(
    gin_files: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    bindings: Sequence[str] = (),
    base_text: str = "",
    base_place: str = SAVED,
    *,
    modules: Sequence[str] = (),
) -> Resolved:
    """Reads `base_text`, then the files, then the bindings, later ones winning, and builds the run.

    Args:
      gin_files: names of files, looked for in the working directory, in `search_paths`, among the installed ones.
      search_paths: folders.
      bindings: "NAME=VALUE", in gin's syntax.
      base_text: gin text to begin with, such as a model directory's config.gin.
      base_place: where it stands.
      modules: Python modules, imported after the files; the saved configuration imports them, too.

    Raises:
      UserError: what was given cannot be read, or does not make a run.
    """
    if not (gin_files or base_text):
        raise UserError("--gin_file is missing: which run? For instance --gin_file=runs/quickstart.gin")
    gin_config.clear_config()
    statements = Statements()
    find_in_working_directory()
    with _reading(search_paths), statements.recorded(), imports_of_users(register_all_with_seqio):
        with _explained(place=base_place), statements.of(SAVED):
            gin_config.parse_config(base_text)
        for name in gin_files:
            _parse_file(name)
        for name in modules:
            import_module_of_user(name)
            with _explained(place=f"--module={name}"):
                gin_config.parse_config([HEADER, f"import {name}"])
        for binding in bindings:
            with statements.of(FLAGS, f"--gin.{binding}"):
                _parse_binding(binding)
        notes = [*renew(statements), *repeated_lines(statements)]
        lost = check_unread(statements, config.RunConfig)
        gin_checks.check(gin_config._CONFIG, config.RunConfig)
        _check_folders()
        run = _evaluate()
        gin_checks.check_types(run)
        while found := switch_off(run, statements):
            lost = {switch: [*lost.get(switch, []), *found.get(switch, [])] for switch in lost | found}
            gin_config._OPERATIVE_CONFIG.clear()  # or macros that are read no more would be saved
            run = _evaluate()
        wrong = complaints(run, statements)
    warm_start = None if run.warm_start is None else given_path(run.warm_start)
    run = dataclasses.replace(run, model_dir=given_path(run.model_dir), warm_start=warm_start)
    notes += lost_lines(lost)
    return Resolved(run, gin_config.operative_config_str(max_line_length=120), tuple(notes), tuple(wrong))


@contextlib.contextmanager
def _reading(search_paths: Sequence[str]) -> Iterator[None]:
    """Sets where and how gin looks for files and includes.

    Gin can only add folders, for good, and its second reader takes folders for packages and imports them: hence
    both lists are put back at the end.
    """

    def read(path: str) -> _NamedText:
        text = read_text(path, "a gin file")
        _check_tokens(path, text)
        return _NamedText(text, path)

    prefixes: list[str] = gin_config._LOCATION_PREFIXES
    readers: list[Any] = gin_config._FILE_READERS
    before = list(prefixes), list(readers)
    prefixes[:] = ["", *search_paths, str(_installed())]
    readers[:] = [(read, _is_there)]
    try:
        yield
    finally:
        prefixes[:], readers[:] = before


class _NamedText(io.StringIO):
    """The text of a file, and its name, which gin puts into what it says of a statement."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


def _is_there(path: str | Path) -> bool:
    """Whether there is something to read: a file, or a pipe."""
    with explained(path):
        try:
            return files_for(path).stat(path).kind != "folder"
        except (FileNotFoundError, NotADirectoryError):
            return False


def _check_tokens(path: str, text: str) -> None:
    """Refuses what falls apart before gin's grammar begins: such errors do not know their file."""
    try:
        for _ in tokenize.generate_tokens(io.StringIO(text).readline):
            pass
    except tokenize.TokenError as error:
        reason, (line, _) = error.args
        raise UserError(f"{path}:{line}: {reason}") from None
    except IndentationError as error:
        raise UserError(f"{path}:{error.lineno}: {error.msg}") from None


def _installed() -> Path:
    return Path(str(importlib.resources.files("mrt5_jax.gin_configs")))


def _parse_file(name: str) -> None:
    name = given_path(name)
    places = [os.path.join(prefix, name) for prefix in gin_config._LOCATION_PREFIXES]
    if not any(map(_is_there, places)):
        names = [path.relative_to(_installed()).as_posix() for path in _installed().rglob("*.gin")]
        looked_for = ", ".join(dict.fromkeys(map(str, places)))
        raise UserError(f"--gin_file={name}: not found{nearest(name, names)} (looked for {looked_for})")
    with _explained(place=name):
        gin_config.parse_config_file(name)


def _parse_binding(binding: str) -> None:
    """One flag, in a context that knows config.py and whatever the gin files have imported."""
    name, _, value = binding.partition("=")
    if not (name and value):
        raise UserError(f"--gin.{binding}: write --gin.NAME=VALUE")
    imports = [statement.format() for statement in gin_config._IMPORTS if not statement.module.startswith("__gin__.")]
    with _explained(place=f"--gin.{binding}", flag=binding):
        gin_config.parse_config([HEADER, *sorted(imports), binding])


@contextlib.contextmanager
def _explained(place: str, flag: str = "") -> Iterator[None]:
    """Turns what gin raises while parsing into one line.

    Args:
      place: the file or flag, for errors that do not know better.
      flag: "NAME=VALUE", if that is what is parsed.
    """
    name, _, value = flag.partition("=")
    try:
        yield
    except (SyntaxError, tokenize.TokenError) as error:
        if flag:
            quoted = repr(value.strip("'\""))
            raise UserError(f'{place}: not in gin\'s syntax; a string is written --gin.{name}="{quoted}"') from None
        if isinstance(error, tokenize.TokenError):
            raise UserError(f"{place}: {error.args[0]}") from None
        raise UserError(f"{error.filename or place}:{error.lineno}: {_first_line(error.msg)}") from None
    except UserError as error:
        raise _original(error) from None
    except (ImportError, NameError, AttributeError, ValueError, OSError) as error:
        location = re.search(r'In file "(.+?)", line (\d+)', str(error))
        if location:
            place = f"{location[1]}:{location[2]}"
        raise UserError(f"{place}: {_reason(error, name)}") from None
    except Exception as error:  # whatever a module raises while a gin file imports it
        said, _, where = str(error).partition("\n  In ")
        location = re.search(r'file "(.+?)", line (\d+)', where)
        place = f"{location[1]}:{location[2]}" if location else place
        shown = f" ({_first_line(said)})" if said.strip() else ""
        raise UserError(f"{place}: raised {type(error).__name__}{shown}") from None


def _reason(error: Exception, binding: str) -> str:
    """Gin's own words, or the nearest name where a name is wrong; `binding` is the whole name, where it is known."""
    text = _first_line(str(error))
    missing = re.search(r"^No module named '(\w+)", text)
    if missing and missing[1] in _OPTIONAL:
        return f"imports {missing[1]}, which is not installed here: pip install {_OPTIONAL[missing[1]]}"
    patterns = (
        r"^'(\w+)' was not provided by an import statement",
        r"^Couldn't resolve selector ([\w.]+);",
        r"^Configurable '([\w.]+)' doesn't have a parameter named '(\w+)'",
    )
    for match in filter(None, (re.search(pattern, text) for pattern in patterns)):
        name = ".".join(match.groups())
        if f"{binding}.".startswith(f"{name}."):
            name = binding
        bound = gin_config._CONFIG.items()
        near = nearest(name, known_settings((*owner, parameter) for owner, values in bound for parameter in values))
        return f"there is no {name}{near or ' in what the gin files import'}"
    include = re.search(r"^Unable to open file: (.+?)\. Searched", text)
    if include:
        folders = ", ".join(folder or "the working directory" for folder in gin_config._LOCATION_PREFIXES)
        return f"includes {include[1]}, which is not in {folders}"
    return text


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0]


def _check_folders() -> None:
    """Refuses a MODEL_DIR that nothing serves before tasks are made, which may read many files."""
    bound = gin_config._CONFIG.get(("", f"{config.__name__}.RunConfig"), {})
    for value in (bound.get("model_dir"), bound.get("warm_start")):
        while isinstance(value, gin_config.ConfigurableReference):
            value = gin_config._CONFIG.get(("/".join(value.scopes), MACRO), {}).get("value")
        if isinstance(value, str):
            given_path(value)


def _evaluate() -> config.RunConfig:
    """Calls everything that the configuration refers to; a user's mistake found there comes out as its own one line."""
    try:
        return gin_config.get_configurable(config.RunConfig)()
    except UserError as error:
        raise _original(error) from None


def _original(error: UserError) -> UserError:
    """The error as it was raised: gin wraps what it lets through, and adds lines to it."""
    while isinstance(error.__context__, UserError):
        error = error.__context__
    return error

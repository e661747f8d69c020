"""Python modules of a user's, which register tasks and selectors when they are imported."""

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from mrt5_jax.errors import UserError


def find_in_working_directory() -> None:
    """Lets what lies in the working directory be imported; what is installed under the same name comes first."""
    with contextlib.suppress(FileNotFoundError):  # the working directory itself is gone
        here = os.getcwd()
        if here not in sys.path and "" not in sys.path:
            sys.path.append(here)


def import_modules_of_user(names: Sequence[str]) -> None:
    """Imports modules from the working directory or PYTHONPATH, where no configuration is read.

    Raises:
        UserError: see `import_module_of_user`.
    """
    find_in_working_directory()
    for name in names:
        import_module_of_user(name)


def import_module_of_user(name: str) -> None:
    """Imports a module by its name.

    Raises:
        UserError: it is not there, or raises while it is imported; one line, with the place.
    """
    flag = f"--module={name}"
    if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
        raise UserError(f"{flag}: give the name by which Python imports it: my_tasks for my_tasks.py")
    try:
        importlib.import_module(name)
    except UserError as error:
        raise UserError(f"{flag}: {error}") from None
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise UserError(f"{flag}: there is no such module, neither in {os.getcwd()} nor on PYTHONPATH") from None
        raise UserError(f"{flag}: it imports {missing}, which is not installed here ({_place(error)})") from None
    except Exception as error:  # a user's code
        said = (str(error).strip() or "nothing said").splitlines()[0]
        raise UserError(f"{flag}: it raised {type(error).__name__} ({said}) at {_place(error)}") from None


def _place(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    written = [frame for frame in traceback.extract_tb(error.__traceback__) if os.path.isfile(frame.filename)]
    return f"{written[-1].filename}:{written[-1].lineno}"

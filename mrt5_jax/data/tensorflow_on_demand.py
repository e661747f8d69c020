"""TensorFlow, seqio and TensorFlow Datasets for the tasks that need them; nothing else imports them."""

import contextlib
import functools
import importlib
import importlib.abc
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from mrt5_jax.errors import UserError


def import_tensorflow(needed_for: str) -> Any:
    """Imports tensorflow, and keeps it off the accelerator.

    Args:
        needed_for: what takes it, for the message.

    Raises:
        UserError: it is not installed.
    """
    tf = import_optional("tensorflow", needed_for)
    with _standard_error_discarded():
        tf.config.set_visible_devices([], "GPU")  # it would take the whole memory of the device that JAX computes on
    return tf


def import_optional(name: str, needed_for: str) -> Any:
    """Imports tensorflow, seqio or tensorflow_datasets without what its native code writes when it is imported.

    Raises:
        UserError: it, or what it needs, is not installed.
    """
    if name in sys.modules and sys.modules[name] is not None:
        return sys.modules[name]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _standard_error_discarded():
            return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{needed_for} takes {name}, which cannot be imported here ({error}): pip install tensorflow "
            "tensorflow-datasets seqio, on a system that has their wheels"
        ) from None


@contextlib.contextmanager
def imports_of_users(after_seqio: Callable[[], None]) -> Iterator[None]:
    """Lets modules of users import seqio, and TensorFlow without what it writes meanwhile.

    TensorFlow reads its log level too late for its first lines (missing CUDA drivers, CPU features), which would stand
    before every message of ours. Errors of the import are raised as always.

    Args:
        after_seqio: called when seqio has been imported, before the module that imports it goes on; at once where it
            was imported before.
    """
    if sys.modules.get("seqio") is not None:
        after_seqio()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    finder = _Watching({"tensorflow": _quietly, "seqio": functools.partial(_and_then, after_seqio)})
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


Execute = Callable[[ModuleType], None]
"""Runs the code of a module."""


class _Watching(importlib.abc.MetaPathFinder):
    """Finds modules where the other finders find them, and wraps what runs their code."""

    def __init__(self, wrappers: Mapping[str, Callable[[Execute, ModuleType], None]]):
        self._wrappers = wrappers

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in self._wrappers:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module
            spec.loader.exec_module = functools.partial(self._wrappers[name], run)  # pyright: ignore[reportAttributeAccessIssue]
        return spec


def _quietly(execute: Execute, module: ModuleType) -> None:
    with _standard_error_discarded():
        execute(module)


def _and_then(action: Callable[[], None], execute: Execute, module: ModuleType) -> None:
    execute(module)
    action()


@contextlib.contextmanager
def _standard_error_discarded() -> Iterator[None]:
    """Of the process, not of Python: the file descriptor itself, to which native code writes."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)

"""TensorFlow, seqio and TensorFlow Datasets for the tasks that need them; nothing else imports them."""

import contextlib
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from mrt5_jax.errors import UserError


def import_tensorflow(needed_for: str) -> Any:
    """The module tensorflow, kept off the accelerator.

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
    """A module of tensorflow, seqio or tensorflow_datasets, without what its native code writes when it is imported.

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
def quiet_imports() -> Iterator[None]:
    """While the context lasts, a module of a user's may import TensorFlow without what that writes meanwhile.

    TensorFlow reads its log level too late for its first lines (missing CUDA drivers, CPU features), which would stand
    before every message of ours. Errors of the import are raised as always.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    finder = _QuietTensorFlow()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _QuietTensorFlow(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_quietly(module: ModuleType) -> None:
                with _standard_error_discarded():
                    execute(module)

            spec.loader.exec_module = execute_quietly
        return spec


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

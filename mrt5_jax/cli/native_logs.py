"""Keeps TensorFlow's start-up chatter off the terminal."""

import contextlib
import os
import sys
from collections.abc import Iterator


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow and seqio without what their native code writes to standard error.

    TensorFlow reads its log level too late for its first lines (missing CUDA drivers, CPU features), which would stand
    before every message of ours. Errors of the import are raised as always.
    """
    if "seqio" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it only reads data here, and needs no accelerator
    with _standard_error_discarded():
        import seqio  # noqa: F401


@contextlib.contextmanager
def _standard_error_discarded() -> Iterator[None]:
    """Of the process, not of Python: the file descriptor itself."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)

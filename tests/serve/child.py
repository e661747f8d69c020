"""`mrt5 serve` as a process of its own."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Served(NamedTuple):
    """A server that listens."""

    process: subprocess.Popen[str]
    address: str
    """Host and port."""


@contextlib.contextmanager
def served(model_dir: Path, *flags: str) -> Iterator[Served]:
    """Starts a server on a free port, waits until it listens, and kills it in the end."""
    command = [sys.executable, "-m", "mrt5_jax", "serve", f"--model_dir={model_dir}", "--port=0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            said = ""
            while "listening on http://" not in said:
                line = process.stdout.readline()
                assert line, said
                said += line
            yield Served(process, said.rpartition("http://")[2].strip())
        finally:
            process.kill()

"""Every benchmark can be started: what it imports of the package and of its neighbours is there."""

import subprocess
import sys
from pathlib import Path

HELPERS = {"bench_model", "contest", "languages", "machine", "startup_child", "torch_model"}
"""Modules that benchmarks share; their importers show that they can be imported."""


def test_every_benchmark_explains_itself(repository: Path) -> None:
    """All of them in one process, since each imports JAX."""
    modules = sorted({path.stem for path in (repository / "benchmarks").glob("*.py")} - HELPERS)
    program = "\n".join(
        [
            "import importlib, sys",
            f"for name in {modules!r}:",
            "    sys.argv = [name, '--help']",
            "    try:",
            "        importlib.import_module(f'benchmarks.{name}').main()",
            "    except SystemExit as ended:",
            "        assert not ended.code, name",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == len(modules)

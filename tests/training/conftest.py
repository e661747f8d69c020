"""What several files of these tests train on, and keep."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module")
def task() -> str:
    from mrt5_jax.tasks.diagnostics import diagnostic_task

    return diagnostic_task("copy", length=8, num_train=100, num_validation=6)


@pytest.fixture(scope="module")
def kept_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The starts of a run compile once what they share, as they do in `mrt5 train`."""
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    yield
    jax.config.update("jax_compilation_cache_dir", folder)

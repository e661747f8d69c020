"""What the tests of inference share."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def _quick_compilation() -> Iterator[None]:
    """Programs here are small and run a few times: compiling them takes longer than running them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)

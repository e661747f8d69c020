import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def _quick_compilation():
    """Programs here run once or twice: compiling them without optimisation halves the tests' time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)

"""What is parsed of a module's text that no other test looks at."""

import pytest

from mrt5_jax.tools.hlo import parse_hlo


def test_what_is_no_hlo_is_refused() -> None:
    with pytest.raises(ValueError, match="no ENTRY"):
        parse_hlo("module @jit_step {}")

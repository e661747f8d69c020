"""Estimated cycles are added up wherever they run, as often as they run; and made milliseconds where that is sure."""

import re
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from mrt5_jax.parallel.peaks import clock_rate
from mrt5_jax.tools.cycles import estimated_cycles
from mrt5_jax.tools.hlo import parse_hlo

BY_HAND = (Path(__file__).parent / "by_hand.hlo").read_text()


def test_loops_count_their_turns_and_conditionals_their_longest_branch() -> None:
    """12 turns of 10 and 9 of 7, the branch of 500 + 500 rather than that of 900, what is called, and the fusion's own.

    What is noted inside of the two fusions is not added: one has an estimate, the other, a gather, has none.
    """
    assert estimated_cycles(parse_hlo(BY_HAND)) == 12 * 10 + 9 * 7 + (500 + 500) + 6_000_000 + 200_000


def test_the_largest_integer_is_no_estimate() -> None:
    text = BY_HAND.replace('"estimated_cycles":"6000000"', f'"estimated_cycles":"{2**63 - 1}"')
    assert estimated_cycles(parse_hlo(text)) == estimated_cycles(parse_hlo(BY_HAND)) - 6_000_000


def test_where_nothing_is_estimated_there_is_none() -> None:
    assert estimated_cycles(parse_hlo(re.sub(r'"estimated_cycles":"\d+",', "", BY_HAND))) is None
    compiled = jax.jit(jnp.sin).lower(jax.ShapeDtypeStruct((8,), jnp.float32)).compile()
    assert estimated_cycles(parse_hlo(compiled.as_text() or "")) is None


@pytest.mark.parametrize(
    ("platform", "kind", "hertz"),
    [("tpu", "TPU v5 lite", 1.5e9), ("tpu", "TPU v5", None), ("tpu", "TPU v6 lite", None), ("cpu", "cpu", None)],
)
def test_a_clock_is_known_where_it_is_certain(platform: str, kind: str, hertz: float | None) -> None:
    device = mock.create_autospec(jax.Device, platform=platform, device_kind=kind, instance=True)
    assert clock_rate(device) == (hertz and pytest.approx(hertz, rel=0.01))

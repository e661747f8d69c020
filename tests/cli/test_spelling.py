"""A misspelt name is answered with the one that was meant."""

import pytest

from mrt5_jax.spelling import nearest

NAMES = ["TEXT_FILES", "TARGET_LENGTH", "config.GateConfig.layer", "config.OptimizerConfig.learning_rate"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("TEXT_FLES", "TEXT_FILES"),
        ("config.GateConfg.layer", "config.GateConfig.layer"),
        ("learning_rat", "config.OptimizerConfig.learning_rate"),
    ],
)
def test_the_nearest_name_is_offered(given: str, meant: str) -> None:
    assert nearest(given, NAMES) == f"; did you mean {meant}?"


def test_nothing_is_offered_where_nothing_is_near() -> None:
    assert nearest("zebra", NAMES) == ""
    assert nearest("zebra", []) == ""

"""What holds for every selector of the table, those that are added later too."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import GateConfig
from mrt5_jax.errors import UserError
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import run_prefix
from mrt5_jax.selection.protocol import Selection
from mrt5_jax.selection.selectors import SELECTORS, make_selector, selector_rule

from ..model.small import LENGTH, make_batch, make_config, make_params

SEGMENTS = np.array([[1] * 7 + [2] * 5, [1] * 4 + [2] + [3] * 3 + [0] * 4, [0] * 12], np.int32)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", SELECTORS)
def test_what_a_selector_returns_is_what_its_rule_says(kind: str, packed: bool) -> None:
    """Names and counts of its penalties; a position of each example stays, of pads none; fields that exist."""
    config, mask = make_config(gate=GateConfig(layer=1, kind=kind)), jnp.asarray(SEGMENTS > 0)
    segments = jnp.asarray(SEGMENTS) if packed else None
    hidden = jax.random.normal(jax.random.key(1), (3, LENGTH, 8))
    arguments = hidden, mask.astype(jnp.int32) * 20, mask, None, segments
    found, _ = make_selector(config).init_with_output(jax.random.key(0), *arguments)
    assert isinstance(found, Selection)
    rule = selector_rule(GateConfig(kind=kind))
    assert found.penalties.keys() == rule.penalties.keys()
    for name, penalty in found.penalties.items():
        np.testing.assert_array_equal(penalty.count, rule.penalties[name].count(mask, segments))
    keep = np.asarray(found.keep)
    assert not keep[SEGMENTS == 0].any()
    for row, numbers in enumerate(SEGMENTS if packed else np.minimum(SEGMENTS, 1)):
        assert all(keep[row, numbers == number].any() for number in set(numbers) - {0})
    assert set(rule.reads) <= {field.name for field in dataclasses.fields(GateConfig)}


def test_an_unknown_selector_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"kind = 'lerned': should be 'learned' or .*did you mean learned\?"):
        selector_rule(GateConfig(kind="lerned"))


def test_the_models_selection_has_a_gradient_in_signals_and_penalties_alone() -> None:
    """Through the layers before the gate as well."""
    config, batch = make_config(), make_batch()
    params = jax.tree.map(jnp.float32, make_params(config))

    def total(params: dict, *, of_others: bool) -> jax.Array:
        selection = run_prefix(MrT5(config), params, jnp.asarray(batch["encoder_input_tokens"])).selection
        assert selection is not None
        counts = [penalty.count for penalty in selection.penalties.values()]
        others = [selection.priority, *selection.statistics.values(), *counts]
        return sum(
            (jnp.sum(leaf) for leaf in jax.tree.leaves(others if of_others else selection.signals)), jnp.zeros(())
        )

    others, signals = (
        jax.jit(jax.grad(lambda params, of=of: total(params, of_others=of)))(params) for of in (True, False)
    )
    assert not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(others))
    assert np.any(np.asarray(signals["encoder"]["gate"]["kernel"]))

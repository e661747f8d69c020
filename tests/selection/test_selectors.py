"""What holds for every selector of the table, those that are added later too."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import GateConfig
from mrt5_jax.errors import UserError
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import run_prefix
from mrt5_jax.selection.protocol import Selection
from mrt5_jax.selection.selectors import SELECTORS, check_examples, make_selector, selector_rule

from ..model.small import LENGTH, make_batch, make_config, make_params

GATES = {kind: GateConfig(layer=1, kind=kind) for kind in SELECTORS if kind != "oracle"} | {
    "magnet": GateConfig(1, "magnet", settings=(("latin", 0.2), ("cyrillic", 0.1)))
}
"""The oracle needs a file, which `test_every_selector` gives it."""
SEGMENTS = np.array([[1] * 7 + [2] * 5, [1] * 4 + [2] + [3] * 3 + [0] * 4, [0] * 12], np.int32)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", GATES)
def test_what_a_selector_returns_is_what_its_rule_says(kind: str, packed: bool) -> None:
    """Names and counts of its penalties; a position of each example stays, of pads none; fields that exist."""
    config, mask = make_config(gate=GATES[kind]), jnp.asarray(SEGMENTS > 0)
    segments = jnp.asarray(SEGMENTS) if packed else None
    hidden = jax.random.normal(jax.random.key(1), (3, LENGTH, 8))
    arguments = hidden, mask.astype(jnp.int32) * 20, mask, None, segments
    found, _ = jax.jit(make_selector(config).init_with_output)(jax.random.key(0), *arguments)
    assert isinstance(found, Selection)
    rule = SELECTORS[kind]
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


def test_a_file_is_asked_for_masks_where_they_are_needed_and_batches_are_read_there_alone() -> None:
    """In training those of a teacher and of an oracle, in evaluation an oracle's."""
    batch = {"encoder_input_tokens": np.ones((1, 4), np.int32)}
    read = []

    def batches() -> Iterator[dict[str, np.ndarray]]:
        read.append(True)
        yield batch

    taught, oracle = (
        GateConfig(1, kind, settings=((setting, "nowhere.jsonl"),))
        for kind, setting in (("taught_boundaries", "teacher"), ("oracle", "masks"))
    )
    for gate, evaluation in ((None, False), (GateConfig(1), False), (taught, True)):
        check_examples(gate, batches(), evaluation=evaluation)
    assert not read
    for gate, evaluation in ((taught, False), (oracle, False), (oracle, True)):
        with pytest.raises(UserError, match=r"' = nowhere\.jsonl"):
            check_examples(gate, batches(), evaluation=evaluation)
    assert len(read) == 3


@pytest.mark.parametrize(
    "kind", [kind if kind == "learned" else pytest.param(kind, marks=pytest.mark.slow) for kind in GATES]
)
def test_keep_merged_into_priority_statistics_and_counts_have_no_cotangent(kind: str) -> None:
    """Ones pulled back from them give 0 in every parameter, before the gate as well; from all of it they do not."""
    config = make_config(gate=dataclasses.replace(GATES[kind], bias_init=0.0))
    tokens = jnp.asarray(make_batch()["encoder_input_tokens"])
    keys = jax.vmap(jax.random.key)(jnp.arange(len(tokens)))

    @jax.jit
    def pulled_back(params: dict) -> tuple[Any, Any]:
        def select(params: Any) -> Any:
            return run_prefix(MrT5(config), params, tokens, selector_keys=keys).selection

        selection, pull_back = jax.vjp(select, params)
        ones, zeros = _cotangents(selection, 1.0), _cotangents(selection, 0.0)
        totals = {name: penalty._replace(total=zeros.penalties[name].total) for name, penalty in ones.penalties.items()}
        return pull_back(ones._replace(signals=zeros.signals, penalties=totals)), pull_back(ones)

    others, everything = pulled_back(jax.tree.map(jnp.float32, make_params(config)))
    assert not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(others))
    moves = any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(everything))
    assert moves == SELECTORS[kind].learns


def _cotangents(selection: Any, value: float) -> Any:
    """The same number everywhere; for whole numbers and booleans, such as `keep`, JAX has none but float0."""

    def of(leaf: jax.Array) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.full_like(leaf, value)
        return np.zeros(leaf.shape, jax.dtypes.float0)

    return jax.tree.map(of, selection)

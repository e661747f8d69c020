"""Selectors against plain Python; what they delete is a row's own affair."""

import dataclasses
import math
from fractions import Fraction
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt5_jax.compaction.plan import restrict
from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.selection.fixed_selector import SEPARATORS
from mrt5_jax.selection.learned_gate import DeleteGate
from mrt5_jax.selection.protocol import Selection, Signals
from mrt5_jax.selection.random_choice import random_like
from mrt5_jax.selection.selectors import deletion_threshold, make_selector

from ..model.small import make_config

ROWS, LENGTH = 4, 24


def with_gate(**changes: Any) -> ModelConfig:
    return make_config(gate=GateConfig(layer=1, **changes))


def rule(kind: Literal["random", "fixed"], probability: float) -> ModelConfig:
    return with_gate(kind=kind, deletion_probability=probability)


def row_keys(numbers: list[int] | np.ndarray) -> jax.Array:
    return jax.vmap(jax.random.key)(jnp.asarray(numbers))


def _select(
    config: ModelConfig, params: Any, hidden: jax.Array, tokens: jax.Array, keys: jax.Array | None
) -> Selection:
    return make_selector(config).apply({"params": params}, hidden, tokens, tokens > 0, keys)


_selected = jax.jit(_select, static_argnums=0)


def select_by_rule(config: ModelConfig, tokens: np.ndarray, keys: jax.Array | None = None) -> Selection:
    return jax.device_get(_selected(config, {}, jnp.zeros((*tokens.shape, 8)), tokens, keys))


token_rows = st.lists(
    st.lists(st.integers(1, 140) | st.sampled_from(SEPARATORS), max_size=LENGTH), min_size=ROWS, max_size=ROWS
)


def padded(rows: list[list[int]], length: int = LENGTH) -> np.ndarray:
    return np.array([row + [0] * (length - len(row)) for row in rows], np.int32)


def segments_kept(tokens: list[int], probability: float) -> list[bool]:
    """The first ceil((1 - p) * size) of every segment; where that is nothing at all, the first token."""
    starts = [place for place, token in enumerate(tokens) if place == 0 or token in SEPARATORS]
    kept = []
    for start, end in zip(starts, [*starts, len(tokens)][1:], strict=True):
        count = math.ceil((1 - Fraction(str(probability))) * (end - start))
        kept += [place < count for place in range(end - start)]
    return kept if any(kept) or not kept else [True, *kept[1:]]


@pytest.mark.parametrize("probability", [0.4, 0.9, 1.0])
@given(rows=token_rows)
def test_fixed_deletion_keeps_the_beginning_of_every_segment(rows: list[list[int]], probability: float) -> None:
    """Pads belong to no segment, and a row's segments are its own."""
    selection = select_by_rule(rule("fixed", probability), padded(rows))
    expected = [segments_kept(row, probability) + [False] * (LENGTH - len(row)) for row in rows]
    np.testing.assert_array_equal(selection.keep, expected)
    np.testing.assert_array_equal(selection.signals.key_bias, np.where(expected, 0.0, -30.0))
    np.testing.assert_array_equal(selection.statistics["rescued"], [probability == 1 and len(row) > 0 for row in rows])


def test_fixed_deletion_counts_segments_of_any_size_exactly() -> None:
    """In float32 0.6 * 25 is above 15, and in float64 (1 - 0.7) * 10 is above 3: neither adds a position."""
    for tenths in (4, 7):
        probability = tenths / 10
        tokens = padded([[9] * size for size in range(1, 101)], 100)
        kept = select_by_rule(rule("fixed", probability), tokens).keep.sum(1)
        expected = [max(1, math.ceil(Fraction(10 - tenths, 10) * size)) for size in range(1, 101)]
        np.testing.assert_array_equal(kept, expected, err_msg=str(probability))


def test_random_deletion_takes_a_normal_share_of_each_row() -> None:
    """Mean p and standard deviation 0.05 over rows, positions evenly; a hundred inputs round the share finely."""
    tokens = np.ones((400, 100), np.int32)
    keep = select_by_rule(rule("random", 0.3), tokens, row_keys(np.arange(400))).keep
    shares = 1 - keep.mean(1)
    assert abs(shares.mean() - 0.3) < 5 * 0.05 / 20
    assert abs(shares.std() - 0.05) < 0.01
    assert np.abs(keep.mean(0) - 0.7).max() < 5 * (0.7 * 0.3 / 400) ** 0.5


@pytest.mark.parametrize("with_keys", [True, False], ids=["training", "by tokens"])
def test_random_deletion_deletes_every_position_as_often(with_keys: bool) -> None:
    """Within five standard deviations over 20,000 rows, 1.6 %: no position's draw has anything to do with the share."""
    rows, size = 20_000, 20
    tokens = np.ones((rows, size), np.int32)
    if not with_keys:
        tokens = np.random.default_rng(0).integers(1, 200, (rows, size)).astype(np.int32)
    keep = select_by_rule(rule("random", 0.3), tokens, row_keys(np.arange(rows)) if with_keys else None).keep
    np.testing.assert_allclose(1 - keep.mean(0), 0.3, atol=5 * (0.3 * 0.7 / rows) ** 0.5)


def test_random_deletion_of_a_random_selector_is_not_the_selectors_own_choice() -> None:
    """Both draw from the same key; what they fold into it differs."""
    tokens = jnp.ones((1, 100), jnp.int32)
    mask, keys = tokens > 0, row_keys([7])
    selection = select_by_rule(rule("random", 0.5), np.asarray(tokens), keys)
    again = random_like(jax.tree.map(jnp.asarray, selection), mask, keys)
    assert 0.3 < (np.asarray(again.keep) == selection.keep).mean() < 0.7


def test_random_like_keeps_as_many_of_each_example_of_a_packed_row() -> None:
    """So none becomes empty, whichever key; and what a capacity takes from it is not what lies last."""
    segments = np.repeat(np.array([[1, 2, 3, 4, 5, 0]], np.int32), [8, 1, 2, 6, 3, 4], axis=1)
    mask = segments > 0
    keep = mask & np.isin(np.arange(LENGTH), [0, 1, 5, 8, 9, 11, 14, 18])[None]
    values = jnp.zeros(mask.shape)
    selection = Selection(jnp.asarray(keep), None, values, Signals(), {}, {})
    like, dropped = jax.jit(random_like), set()
    for key in range(20):
        chosen = like(selection, jnp.asarray(mask), row_keys([key]), jnp.asarray(segments))
        for example in range(1, 6):
            here = segments[0] == example
            assert np.asarray(chosen.keep)[0, here].sum() == keep[0, here].sum()
        assert not np.asarray(chosen.keep)[~mask].any()
        fitted = restrict(chosen.keep, chosen.priority, 6, jnp.asarray(segments))
        assert {*segments[np.asarray(fitted)]} == {1, 2, 3, 4, 5}
        dropped |= {*np.flatnonzero(np.asarray(chosen.keep & ~fitted)[0])}
    assert len(dropped) > 8


@pytest.mark.parametrize("with_keys", [True, False], ids=["training", "by tokens"])
def test_random_deletion_does_not_depend_on_padding_or_neighbours(with_keys: bool) -> None:
    config, rng = rule("random", 0.5), np.random.default_rng(0)
    rows = [rng.integers(1, 200, size).tolist() for size in (24, 7, 1, 16)]
    keys = row_keys([5, 6, 7, 8]) if with_keys else None
    other_keys = row_keys([8, 1, 6, 5]) if with_keys else None
    here = select_by_rule(config, padded(rows), keys)
    there = select_by_rule(config, padded([rows[3], [], rows[1], rows[0]], 40), other_keys)
    for row, place in ((3, 0), (1, 2), (0, 3)):
        np.testing.assert_array_equal(there.keep[place, :LENGTH], here.keep[row])
    assert not there.keep[:, LENGTH:].any()
    assert not there.keep[1].any(), "a filler row stays empty"
    assert here.keep[2, 0], "a row of one token keeps it"
    assert 0 < here.keep.sum() < (padded(rows) > 0).sum()


def test_random_like_keeps_as_many_of_each_row() -> None:
    """The positions differ from the gate's, between rows and between keys, and are all inputs."""
    mask = np.arange(LENGTH)[None] < np.array([24, 24, 10, 0])[:, None]
    keep = mask & (np.arange(LENGTH) % 3 == 0)[None]
    values = jnp.zeros(mask.shape)
    selection = Selection(jnp.asarray(keep), None, values, Signals(), {}, {})
    like = jax.jit(random_like)
    first, second = (
        np.asarray(like(selection, jnp.asarray(mask), row_keys(keys)).keep) for keys in ([0, 1, 2, 3], [9] * 4)
    )
    for random in (first, second):
        np.testing.assert_array_equal(random.sum(1), keep.sum(1))
        assert not (random & ~mask).any()
    assert (first[0] != keep[0]).any()
    assert (first[0] != first[1]).any()
    assert (first != second).any()
    np.testing.assert_array_equal(second[0], second[1])


def learned(config: ModelConfig, bias: float, keys: jax.Array | None = None) -> tuple[Selection, np.ndarray]:
    """A selection of random hidden states, and their logits z in float64."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(0, 3, (ROWS, LENGTH, 8)).astype(np.float32)
    kernel, scale = rng.normal(size=(8, 1)).astype(np.float32), rng.normal(1, 0.2, 8).astype(np.float32)
    tokens = (np.arange(LENGTH)[None] < np.array([24, 9, 1, 0])[:, None]).astype(np.int32)
    params: dict[str, Any] = {"kernel": kernel, "bias": np.full(1, bias, np.float32)}
    assert config.gate is not None
    normed = hidden.astype(np.float64)
    if config.gate.layer_norm:
        params["norm"] = {"scale": scale}
        normed = normed / np.sqrt((normed**2).mean(-1, keepdims=True) + 1e-6) * scale
    return jax.device_get(_selected(config, params, hidden, tokens, keys)), (normed @ kernel)[..., 0] + bias


@pytest.mark.parametrize(
    ("gate", "threshold"), [({}, -15.0), ({"layer_norm": False, "scale": -10.0, "threshold": -2.0}, -2.0)]
)
def test_the_learned_gate_is_the_formula(gate: dict[str, Any], threshold: float) -> None:
    """G = k sigmoid(-z); what is above tau stays, pads never do."""
    config = with_gate(**gate)
    selection, logits = learned(config, 0.5)
    assert config.gate is not None
    assert deletion_threshold(config.gate) == threshold
    values = config.gate.scale / (1 + np.exp(logits))
    np.testing.assert_allclose(selection.signals.key_bias, values, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(selection.priority, selection.signals.key_bias)
    present = np.arange(LENGTH)[None] < np.array([24, 9, 1, 0])[:, None]
    expected = (values > threshold) & present
    expected[2, 0] = True
    np.testing.assert_array_equal(selection.keep, expected)
    assert 0 < expected.sum() < present.sum()


def test_a_gate_that_deletes_everything_leaves_the_best_of_each_row() -> None:
    selection, logits = learned(with_gate(), -20.0)
    np.testing.assert_array_equal(selection.keep.sum(1), [1, 1, 1, 0])
    np.testing.assert_array_equal(selection.statistics["rescued"], [True, True, True, False])
    for row, end in ((0, 24), (1, 9)):
        assert selection.keep[row, logits[row, :end].argmax()]


def test_gumbel_noise_is_added_to_the_logits_in_training_only() -> None:
    """Mean 0.577 and variance pi^2 / 6, other noise for each row and key; without keys there is none."""
    config = with_gate(gumbel_noise=True, scale=-1.0)
    silent, logits = learned(config, 0.0)
    np.testing.assert_array_equal(silent.signals.key_bias, learned(with_gate(scale=-1.0), 0.0)[0].signals.key_bias)

    def noise(keys: list[int]) -> np.ndarray:
        share = -learned(config, 0.0, row_keys(keys))[0].signals.key_bias.astype(np.float64)
        return np.log((1 - share) / share) - logits

    drawn = noise([0, 1, 2, 3])
    assert abs(drawn.mean() - 0.577) < 5 * 1.28 / drawn.size**0.5
    assert abs(drawn.std() - math.pi / 6**0.5) < 0.4
    assert len(np.unique(drawn.round(3))) > 0.9 * drawn.size
    np.testing.assert_allclose(noise([2, 2, 0, 1])[[0, 2]], drawn[[2, 0]], atol=1e-2)


def test_gate_and_its_gradient_stay_float32_over_bfloat16_activations() -> None:
    config = dataclasses.replace(with_gate(), dtype="bfloat16")
    params = {"kernel": jnp.ones((8, 1)), "bias": jnp.ones(1), "norm": {"scale": jnp.ones(8)}}
    hidden = jnp.ones((1, 2, 8), jnp.bfloat16)
    shape = jax.eval_shape(lambda: DeleteGate(config).apply({"params": params}, hidden, method="logits"))
    assert shape.dtype == jnp.float32

"""Dropout's draws belong to a row and a position: nothing else of a batch changes them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.model.dropout import NO_DROPOUT, Dropout, at_positions, draw_dropout, drop_units

from .small import make_config

CONFIG = dataclasses.replace(make_config(), dropout_rate=0.25, emb_dim=64, mlp_dim=96)
_draw = jax.jit(draw_dropout, static_argnums=(0, 2, 3))


def draw(rows: list[int], length: int, target: int) -> Dropout:
    keys = jax.vmap(jax.random.key)(jnp.asarray(rows))
    return jax.device_get(_draw(CONFIG, keys, length, target))


@pytest.fixture(scope="module")
def drawn() -> Dropout:
    """[..] of rows 0 to 3, 8 inputs and 4 targets."""
    return draw([0, 1, 2, 3], 8, 4)


def test_every_place_has_its_draw(drawn: Dropout) -> None:
    """One encoder layer before the gate and two after it, two decoder layers; the last axis is the width."""
    shapes = jax.tree.map(lambda leaf: leaf.shape, drawn, is_leaf=lambda leaf: isinstance(leaf, np.ndarray))
    assert shapes[:4] == ((4, 64),) * 4
    assert shapes.prefix == ((1, 4, 2, 8), (1, 4, 2, 64), (1, 4, 96), None)
    assert shapes.suffix == ((2, 4, 2, 8), (2, 4, 2, 64), (2, 4, 96), None)
    assert shapes.decoder == ((2, 4, 2, 4), (2, 4, 3, 64), (2, 4, 96), (2, 4, 2, 8))


def test_the_expected_share_is_kept(drawn: Dropout) -> None:
    """0.75 of the units and of the weights, within five standard deviations; no two places share their draws."""
    leaves = [leaf for leaf in jax.tree.leaves(drawn) if leaf.size > 200]
    for leaf in leaves:
        assert abs(leaf.mean() - 0.75) < 5 * (0.75 * 0.25 / leaf.size) ** 0.5
    units = np.concatenate(
        [np.moveaxis(leaf, -1, 0)[:64].reshape(64, -1) for leaf in leaves if leaf.shape[-1] >= 64], 1
    )
    assert len(np.unique(units, axis=1).T) == units.shape[1]


def test_padding_does_not_change_a_position_s_draw(drawn: Dropout) -> None:
    longer = draw([0, 1, 2, 3], 12, 6)

    def cut(long: np.ndarray, short: np.ndarray) -> None:
        np.testing.assert_array_equal(long[..., : short.shape[-1]], short)

    jax.tree.map(cut, longer, drawn)


def test_a_row_s_place_does_not_change_its_draw(drawn: Dropout) -> None:
    """Nor do the other rows."""
    other = draw([7, 2, 0, 9], 8, 4)
    for here, there in zip(jax.tree.leaves(drawn), jax.tree.leaves(other), strict=True):
        axis = here.shape.index(4)  # of the batch: no axis before it has that size
        np.testing.assert_array_equal(np.take(there, [1, 2], axis), np.take(here, [2, 0], axis))


def test_compaction_takes_each_position_s_own_draw(drawn: Dropout) -> None:
    positions = np.array([[0, 3, 7], [1, 2, 5], [5, 6, 7], [0, 6, 7]], np.int32)
    assert drawn.suffix.weights is not None
    compact = at_positions(jnp.asarray(drawn.suffix.weights), jnp.asarray(positions))
    for row, kept in enumerate(positions):
        np.testing.assert_array_equal(compact[:, row], drawn.suffix.weights[:, row][:, :, kept])
    shared = at_positions(jnp.asarray(drawn.suffix.weights), jnp.asarray(positions[:1]))
    np.testing.assert_array_equal(shared, drawn.suffix.weights[..., positions[0]])


def test_what_stays_is_scaled_up_for_all_positions_alike() -> None:
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32))
    kept = jnp.asarray([[True, False, True, True], [False, True, False, True]])
    expected = hidden * np.asarray(kept)[:, None] / 0.8
    np.testing.assert_allclose(drop_units(hidden, kept, 0.2), expected, rtol=1e-6)
    assert drop_units(hidden.astype(jnp.bfloat16), kept, 0.2).dtype == jnp.bfloat16


def test_rate_0_is_the_identity() -> None:
    """Nothing is drawn, and nothing is computed."""
    hidden = jnp.ones((2, 3, 4))
    still = dataclasses.replace(CONFIG, dropout_rate=0.0)
    assert draw_dropout(still, jax.vmap(jax.random.key)(jnp.arange(2)), 3, 2) == NO_DROPOUT
    assert drop_units(hidden, NO_DROPOUT.embedded, 0.0) is hidden
    assert at_positions(None, jnp.zeros((1, 2), jnp.int32)) is None

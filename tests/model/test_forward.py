"""Deletions as survivors, and parameters in parts."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from mrt5_jax.config import Deletion
from mrt5_jax.model.forward import compact_full, compact_to
from mrt5_jax.model.parameters import merge_gradients, split_stages
from mrt5_jax.selection.protocol import Selection, Signals
from mrt5_jax.selection.survivors import handed_signals, survivors

from .small import by_path, make_config, make_params

MASK = jnp.asarray(np.arange(6)[None] < np.array([[6], [3]]))
KEEP = jnp.asarray([[True, False, True, False, False, True], [False, True, False, False, False, False]])
VALUES = jnp.asarray(np.where(KEEP, -1.0, -29.0).astype(np.float32))
SELECTION = Selection(KEEP, None, VALUES, Signals(key_bias=VALUES), {}, {})
HIDDEN = jnp.arange(12.0).reshape(2, 6, 1)


def test_parts_cover_the_tree_and_gradients_add_where_both_read() -> None:
    """Embedding and relative biases are in both parts, everything else in one."""
    params = make_params(make_config())
    first, second = split_stages(params)
    merged = by_path(merge_gradients(filled(first, 1), filled(second, 10)))
    assert merged.keys() == by_path(params).keys() == by_path(first).keys() | by_path(second).keys()
    for path, value in merged.items():
        both = path.startswith(("token_embedder", "encoder/relpos_bias"))
        before = path.startswith(("encoder/prefix", "encoder/gate"))
        assert value == (11 if both else 1 if before else 10), path


def filled(tree: Any, value: int) -> Any:
    return {name: filled(branch, value) for name, branch in tree.items()} if isinstance(tree, dict) else value


def test_who_survives_which_deletion() -> None:
    """Soft keeps all inputs and biases them; hard keeps the gate's choice, without a bias; none ignores the gate."""
    cases: list[tuple[Deletion, Any, Any]] = [("none", MASK, None), ("soft", MASK, VALUES), ("hard", KEEP, None)]
    for deletion, keep, bias in cases:
        np.testing.assert_array_equal(survivors(MASK, SELECTION, deletion).keep, keep)
        assert handed_signals(SELECTION, deletion).key_bias is bias
    np.testing.assert_array_equal(survivors(MASK, None, "hard").keep, MASK)


def test_survivors_move_together_with_their_positions() -> None:
    """Hidden states, positions and mask of the kept; slots left over are masked."""
    compact = compact_to(HIDDEN, survivors(MASK, SELECTION, "hard"), 4)
    np.testing.assert_array_equal(compact.keys.mask, [[True, True, True, False], [True, False, False, False]])
    np.testing.assert_array_equal(compact.positions[0, :3], [0, 2, 5])
    np.testing.assert_array_equal(compact.hidden[0, :3, 0], [0, 2, 5])
    assert (compact.positions[1, 0], compact.hidden[1, 0, 0]) == (1, 7)
    assert compact.keys.bias is None


def test_biases_move_with_their_survivors_and_filler_has_none() -> None:
    compact = compact_to(HIDDEN, survivors(MASK, SELECTION, "hard"), 4, handed_signals(SELECTION, "soft"))
    np.testing.assert_array_equal(compact.keys.bias, [[-1, -1, -1, 0], [-1, 0, 0, 0]])


def test_without_compaction_nothing_moves() -> None:
    compact = compact_full(HIDDEN, MASK, survivors(MASK, SELECTION, "soft"), handed_signals(SELECTION, "soft"))
    np.testing.assert_array_equal(compact.hidden, HIDDEN)
    np.testing.assert_array_equal(compact.positions, [range(6)])
    np.testing.assert_array_equal(compact.keys.mask, MASK)
    np.testing.assert_array_equal(compact.keys.bias, VALUES)

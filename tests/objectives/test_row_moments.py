import jax.numpy as jnp
import numpy as np

from mrt5_jax.objectives.row_moments import row_moments

UNITS = 64


def test_moments_are_the_sums_of_products_of_rows_with_input() -> None:
    rng = np.random.default_rng(0)
    features = rng.integers(0, 256, (50, 5)).astype(np.uint8)
    kept = {"hard": rng.integers(0, 101, 50), "saturated": rng.integers(0, 101, 50)}
    has_input = rng.random(50) < 0.8
    wanted = np.zeros((7, 7))
    for row in np.flatnonzero(has_input):
        units = round(UNITS * (int(kept["hard"][row]) + int(kept["saturated"][row])) / 2 / 100)
        values = np.array([*features[row].tolist(), units, 1], float)
        wanted += np.outer(values, values)
    on_device = {name: jnp.asarray(of, jnp.int32) for name, of in kept.items()}
    found = row_moments(jnp.asarray(features), on_device, jnp.asarray(has_input), 100 / UNITS, jnp.float32)
    np.testing.assert_array_equal(found, wanted)

"""Rows of several batches regrouped: what is scored and generated is what each batch gives by itself."""

from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import Dispatch, ExecutionConfig
from mrt5_jax.inference.beam import Beam
from mrt5_jax.inference.decoding import Generated, Greedy, Search
from mrt5_jax.inference.engine import Engine
from mrt5_jax.inference.sampling import Sampling, row_keys
from mrt5_jax.inference.speculative import Speculative

from .models import CONFIG, MAX_LENGTH, PARAMS, TOKENS, as_targets, random_inputs

BATCHES = [TOKENS, random_inputs([2, 24, 9, 1, 5, 24], 24, 1), random_inputs([12, 3, 0, 7, 12, 1], 12, 2), TOKENS[::-1]]
"""Of two lengths; each has rows that keep much and rows that keep little."""
KEYS = [row_keys(0, jnp.arange(6) + 6 * number) for number in range(len(BATCHES))]


def make_engine(dispatch: Dispatch = "host") -> Engine:
    return Engine(CONFIG, PARAMS, execution=ExecutionConfig(rungs=(6,), inference_dispatch=dispatch))


@pytest.mark.parametrize(
    ("search", "dispatch", "num_batches"),
    [
        (Sampling(), "host", 2),
        pytest.param(Sampling(), "in_graph", 4, marks=pytest.mark.slow),
        pytest.param(Greedy(), "host", 4, marks=pytest.mark.slow),
        pytest.param(Beam(2), "host", 4, marks=pytest.mark.slow),
        pytest.param(Speculative(3), "host", 4, marks=pytest.mark.slow),
    ],
)
def test_each_row_generates_what_it_generates_in_its_batch(
    search: Search, dispatch: Dispatch, num_batches: int
) -> None:
    """In a window of more batches than there are, too."""
    engine = make_engine(dispatch)
    batches, keys_of = BATCHES[:num_batches], KEYS[:num_batches]
    found = engine.generate_window(batches, MAX_LENGTH, search, keys_of, size=5)
    for tokens, keys, generated in zip(batches, keys_of, found, strict=True):
        alone = engine.generate(tokens, MAX_LENGTH, search, keys)
        np.testing.assert_array_equal(generated.tokens, alone.tokens)
        np.testing.assert_allclose(generated.score, alone.score, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", get_args(Dispatch))
def test_scores_are_those_of_each_batch(dispatch: Dispatch) -> None:
    engine, plain = make_engine(dispatch), make_engine()
    targets = random_inputs([MAX_LENGTH, 1, 4, 0, 7, 2], MAX_LENGTH, 5)
    as_generated = Generated(jnp.asarray(targets), jnp.sum(targets > 0, axis=1, dtype=jnp.int32), jnp.zeros(6))
    batches = [as_targets(tokens, as_generated) for tokens in BATCHES]
    for batch, found in zip(batches, engine.score_window(batches), strict=True):
        expected = plain.score(batch)._asdict()
        for name, values in found._asdict().items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)

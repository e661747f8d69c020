"""Samples follow the distribution they should, and a row's follow from its key alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt5_jax.errors import UserError
from mrt5_jax.inference.engine import Engine
from mrt5_jax.inference.sampling import Sampling, row_keys

from .models import CONFIG, MAX_LENGTH, PARAMS, TOKENS, VOCAB, random_inputs

ENGINE = Engine(CONFIG, PARAMS)


def restricted(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The distribution that is drawn from, one token at a time, in float64."""
    scaled = np.asarray(logits, np.float64) / sampling.temperature
    probabilities = np.exp(scaled - scaled.max())
    order = np.argsort(-probabilities, kind="stable")
    kept = list(order[: sampling.top_k])
    nucleus, total = [], 0.0
    for token in kept:
        if total >= (sampling.top_p or 2.0):
            break
        nucleus.append(token)
        total += probabilities[token] / probabilities[kept].sum()
    result = np.zeros_like(probabilities)
    result[nucleus] = probabilities[nucleus] / probabilities[nucleus].sum()
    return result


@settings(max_examples=20)
@given(
    st.lists(st.integers(-40, 40), min_size=6, max_size=6, unique=True),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.none() | st.integers(1, 8),
    st.none() | st.sampled_from([0.05, 0.3, 0.613, 0.9]),
)
def test_top_k_and_top_p_keep_what_they_promise(
    tenths: list[int], temperature: float, top_k: int | None, top_p: float | None
) -> None:
    logits = np.asarray(tenths, np.float32) / 10
    sampling = Sampling(temperature, top_k, top_p)
    probabilities = jax.nn.softmax(sampling.restrict(jnp.asarray(logits)[None]))[0]
    np.testing.assert_allclose(probabilities, restricted(logits, sampling), rtol=1e-5, atol=1e-7)


def test_samples_have_the_models_probabilities() -> None:
    """Chi-square of 2000 first tokens of one input; the 99.9 % quantile for 5 degrees of freedom is 20.5."""
    sampling, count = Sampling(temperature=1.5, top_k=6), 2000
    tokens = np.repeat(random_inputs([16], 16), count, axis=0)
    keys = row_keys(0, jnp.arange(count))
    drawn = np.asarray(ENGINE.generate(tokens, 1, sampling, keys).tokens[:, 0])
    batch = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": np.zeros((count, 1), np.int32),
        "decoder_target_tokens": np.arange(count, dtype=np.int32)[:, None] % VOCAB,
        "decoder_loss_weights": np.ones((count, 1), np.int32),
    }
    expected = count * restricted(np.asarray(ENGINE.score(batch).score[:VOCAB]), sampling)
    observed = np.bincount(drawn, minlength=VOCAB)
    possible = expected > 0
    assert possible.sum() == 6
    assert observed[~possible].sum() == 0
    assert expected[possible].min() > 5, "chi-square needs some of each"
    assert (((observed - expected) ** 2)[possible] / expected[possible]).sum() < 20.5


def test_a_rows_sample_depends_on_its_key_only() -> None:
    keys, sampling = row_keys(3, jnp.arange(6)), Sampling(top_p=0.95)
    drawn = ENGINE.generate(TOKENS, MAX_LENGTH, sampling, keys)
    order = np.asarray([2, 0, 5, 3, 1, 4])
    shuffled = ENGINE.generate(TOKENS[order], MAX_LENGTH, sampling, keys[order])
    np.testing.assert_array_equal(shuffled.tokens, drawn.tokens[order])
    among_filler = TOKENS * (np.arange(6) == 3)[:, None]
    alone = ENGINE.generate(among_filler, MAX_LENGTH, sampling, keys)
    np.testing.assert_array_equal(alone.tokens[3], drawn.tokens[3])
    other = ENGINE.generate(TOKENS, MAX_LENGTH, sampling, row_keys(4, jnp.arange(6)))
    assert np.any(np.asarray(other.tokens) != np.asarray(drawn.tokens))


@pytest.mark.parametrize("values", [{"temperature": 0.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        Sampling(**values)

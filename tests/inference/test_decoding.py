"""Cached decoding equals teacher forcing, and a row's output is its own affair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import CompactionConfig, Deletion, ModelConfig
from mrt5_jax.data.vocabulary import EOS_ID, PAD_ID
from mrt5_jax.forward import forward
from mrt5_jax.inference.decoding import Generated
from mrt5_jax.inference.engine import Engine, greedy
from mrt5_jax.network import MrT5

from .models import random_inputs, random_params, small_config

MAX_LENGTH = 10
LENGTHS = [24, 3, 0, 11, 24, 17]
TOLERANCE = 1e-4
_forward = jax.jit(forward, static_argnums=(0, 3, 4))


def teacher_forced(engine: Engine, tokens: np.ndarray, generated: Generated) -> np.ndarray:
    """Log-probabilities [batch target vocab] of every next token, from one pass over what was generated."""
    shifted = jnp.pad(generated.tokens[:, :-1], ((0, 0), (1, 0)))
    batch = {"encoder_input_tokens": jnp.asarray(tokens), "decoder_input_tokens": shifted}
    outputs = _forward(MrT5(engine.config), engine.params, batch, engine.deletion, Ladder((tokens.shape[1],)))
    return np.asarray(jax.nn.log_softmax(outputs.logits))


@pytest.mark.parametrize(
    ("config", "deletion"),
    [
        pytest.param(small_config(softmax1=True), "hard", id="hard, softmax1"),
        pytest.param(small_config(), "soft", id="soft"),
        pytest.param(small_config(gate=None), "none", id="ByT5"),
    ],
)
def test_greedy_takes_the_best_token_of_teacher_forcing(config: ModelConfig, deletion: Deletion) -> None:
    engine = Engine(config, random_params(config), deletion)
    tokens = random_inputs(LENGTHS, 24)
    generated = engine.generate(tokens, MAX_LENGTH)
    expected = teacher_forced(engine, tokens, generated)
    for row, (chosen, count) in enumerate(zip(generated.tokens, generated.num_tokens, strict=True)):
        np.testing.assert_array_equal(chosen[:count], expected[row, :count].argmax(-1))
        np.testing.assert_allclose(
            generated.score[row], expected[row, :count].max(-1).sum(), rtol=TOLERANCE, atol=TOLERANCE
        )


CONFIG = small_config()
ENGINE = Engine(CONFIG, random_params(CONFIG, seed=1), "hard", CompactionConfig(max_rungs=2))
TOKENS = random_inputs(LENGTHS, 24)


@pytest.fixture(scope="module")
def batch() -> Generated:
    """What greedy search makes of TOKENS under hard deletion."""
    return ENGINE.generate(TOKENS, MAX_LENGTH)


def test_the_end_of_sequence_ends_a_row_and_only_it(batch: Generated) -> None:
    ended = 0
    for tokens, count, length in zip(np.asarray(batch.tokens), batch.num_tokens, LENGTHS, strict=True):
        real, rest = tokens[:count], tokens[count:]
        assert EOS_ID not in real[:-1]
        assert (rest == PAD_ID).all()
        if length:
            assert count == MAX_LENGTH or real[-1] == EOS_ID
            ended += count < MAX_LENGTH
    assert 0 < ended < sum(length > 0 for length in LENGTHS), "the model should end some rows, not all"


def test_filler_rows_generate_nothing(batch: Generated) -> None:
    filler = LENGTHS.index(0)
    assert (batch.num_tokens[filler], batch.score[filler]) == (0, 0)
    assert not np.any(batch.tokens[filler])


@pytest.mark.parametrize("length", [24, 40])
def test_a_batch_equals_its_rows_alone_with_any_padding(batch: Generated, length: int) -> None:
    for row, real in enumerate(LENGTHS):
        alone = np.zeros((1, length), np.int32)
        alone[0, :real] = TOKENS[row, :real]
        generated = ENGINE.generate(alone, MAX_LENGTH)
        np.testing.assert_array_equal(generated.tokens[0], batch.tokens[row])
        np.testing.assert_allclose(generated.score[0], batch.score[row], rtol=TOLERANCE, atol=TOLERANCE)


def test_greedy_is_the_engine_in_one_call_and_rungs_do_not_matter(batch: Generated) -> None:
    generated = greedy(CONFIG, ENGINE.params, TOKENS, MAX_LENGTH)
    np.testing.assert_array_equal(generated.tokens, batch.tokens)

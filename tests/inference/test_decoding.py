"""Cached decoding equals teacher forcing, and a row's output is its own affair."""

import jax
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import Deletion, ExecutionConfig, ModelConfig
from mrt5_jax.data.vocabulary import EOS_ID, PAD_ID
from mrt5_jax.inference.decoding import Generated
from mrt5_jax.inference.engine import Engine, greedy
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import ForwardSetting, forward

from .models import (
    CONFIG,
    LENGTHS,
    MAX_LENGTH,
    PARAMS,
    TOKENS,
    as_targets,
    random_inputs,
    random_params,
    small_config,
)

TOLERANCE = 1e-4
_forward = jax.jit(forward, static_argnums=0)


@pytest.mark.parametrize(
    ("config", "deletion"),
    [
        pytest.param(small_config(softmax1=True), "hard", id="hard, softmax1"),
        pytest.param(small_config(), "soft", id="soft"),
        pytest.param(small_config(gate=None), "none", id="ByT5"),
    ],
)
def test_greedy_and_scores_are_those_of_teacher_forcing(config: ModelConfig, deletion: Deletion) -> None:
    """Against one pass at full length over what was generated, with log-probabilities in NumPy's float64."""
    engine = Engine(config, random_params(config), deletion)
    tokens = random_inputs(LENGTHS, 24)
    generated = engine.generate(tokens, MAX_LENGTH)
    batch = as_targets(tokens, generated)
    outputs = _forward(ForwardSetting(MrT5(config), deletion, Ladder((24,))), engine.params, batch)
    logits = np.asarray(outputs.logits, np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    sums = []
    for row, count in enumerate(generated.num_tokens):
        chosen = np.asarray(generated.tokens[row, :count])
        np.testing.assert_array_equal(chosen, log_probabilities[row, :count].argmax(-1))
        sums.append(log_probabilities[row, np.arange(count), chosen].sum())
    np.testing.assert_allclose(generated.score, sums, rtol=TOLERANCE, atol=TOLERANCE)

    scores = engine.score(batch)
    np.testing.assert_allclose(scores.score, sums, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_array_equal(scores.num_input_tokens, LENGTHS)
    np.testing.assert_array_equal(scores.num_target_tokens, generated.num_tokens)
    np.testing.assert_array_equal(scores.num_kept_tokens, outputs.at_gate.keep.sum(1))
    assert config.gate is None or 0 < scores.num_kept_tokens[0] < LENGTHS[0], "the gate should delete something"


ENGINE = Engine(CONFIG, PARAMS)


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


def test_a_batch_equals_its_rows_alone_with_other_padding(batch: Generated) -> None:
    one_rung = Engine(CONFIG, PARAMS, execution=ExecutionConfig(max_rungs=1))
    for row, real in enumerate(LENGTHS):
        alone = np.zeros((1, 48), np.int32)
        alone[0, :real] = TOKENS[row, :real]
        generated = one_rung.generate(alone, MAX_LENGTH)
        np.testing.assert_array_equal(generated.tokens[0], batch.tokens[row])
        np.testing.assert_allclose(generated.score[0], batch.score[row], rtol=TOLERANCE, atol=TOLERANCE)


def test_greedy_is_the_engine_in_one_call(batch: Generated) -> None:
    np.testing.assert_array_equal(greedy(CONFIG, PARAMS, TOKENS, MAX_LENGTH).tokens, batch.tokens)

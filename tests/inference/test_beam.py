"""Beam search finds what its docstring says: the best of all sequences if it is wide enough, greedy's if it is not."""

import itertools

import jax
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.errors import UserError
from mrt5_jax.inference.beam import Beam
from mrt5_jax.inference.engine import Engine
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import ForwardSetting, forward

from .models import CONFIG, MAX_LENGTH, PARAMS, TOKENS, random_inputs, random_params, small_config

_forward = jax.jit(forward, static_argnums=0)


def all_sequences(vocab: int, max_length: int) -> list[tuple[int, ...]]:
    """Every sequence that ends with the end of sequence (1), or at the maximal length."""
    others = [token for token in range(vocab) if token != 1]
    ended = [(*body, 1) for length in range(max_length) for body in itertools.product(others, repeat=length)]
    return ended + list(itertools.product(others, repeat=max_length))


def test_a_beam_wide_enough_finds_the_best_of_all_sequences() -> None:
    vocab, max_length, length_penalty = 4, 3, 1.3
    config = small_config(vocab_size=vocab, num_decoder_layers=1)
    engine = Engine(config, random_params(config, seed=5), "soft")
    tokens = np.minimum(random_inputs([9, 5, 0], 10), vocab - 1)
    sequences = all_sequences(vocab, max_length)
    targets = np.zeros((len(sequences), max_length), np.int32)
    for row, sequence in zip(targets, sequences, strict=True):
        row[: len(sequence)] = sequence
    lengths = np.asarray([len(sequence) for sequence in sequences])

    generated = engine.generate(tokens, max_length, Beam(len(sequences), length_penalty))
    for row in range(2):
        batch = {
            "encoder_input_tokens": np.repeat(tokens[row : row + 1], len(sequences), axis=0),
            "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        }
        outputs = _forward(ForwardSetting(MrT5(config), "soft", Ladder((10,))), engine.params, batch)
        log_probabilities = np.asarray(jax.nn.log_softmax(outputs.logits), np.float64)
        sums = np.asarray([log_probabilities[i, np.arange(n), targets[i, :n]].sum() for i, n in enumerate(lengths)])
        best = np.argmax(sums / lengths**length_penalty)
        np.testing.assert_array_equal(generated.tokens[row], targets[best])
        np.testing.assert_allclose(generated.score[row], sums[best], rtol=1e-4)
    assert (generated.num_tokens[2], generated.score[2]) == (0, 0)


def test_a_beam_of_one_is_greedy_search() -> None:
    engine = Engine(CONFIG, PARAMS)
    greedy, beam = engine.generate(TOKENS, MAX_LENGTH), engine.generate(TOKENS, MAX_LENGTH, Beam(1))
    np.testing.assert_array_equal(beam.tokens, greedy.tokens)
    np.testing.assert_array_equal(beam.num_tokens, greedy.num_tokens)
    np.testing.assert_allclose(beam.score, greedy.score, rtol=1e-5)


@pytest.mark.parametrize(("values", "message"), [((0,), "size 0"), ((2, float("nan")), "penalty nan")])
def test_values_out_of_range_are_refused(values: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Beam(*values)

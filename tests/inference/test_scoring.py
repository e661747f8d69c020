"""Scores are sums of log-probabilities of what follows the gate, counted as documented."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import CompactionConfig, Deletion
from mrt5_jax.forward import forward
from mrt5_jax.inference.engine import Engine
from mrt5_jax.network import MrT5

from .models import random_inputs, random_params, small_config

LENGTHS, TARGETS = [24, 3, 0, 11], [8, 3, 0, 1]
CONFIG = small_config()
PARAMS = random_params(CONFIG)
_forward = jax.jit(forward, static_argnums=(0, 3, 4))


def batch_of(lengths: list[int], targets: list[int], length: int) -> dict[str, np.ndarray]:
    target = random_inputs(targets, 8, seed=1)
    return {
        "encoder_input_tokens": random_inputs(lengths, length),
        "decoder_input_tokens": np.pad(target[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": target,
        "decoder_loss_weights": (target > 0).astype(np.int32),
    }


@pytest.mark.parametrize("deletion", ["hard", "soft", "none"])
def test_scores_are_sums_of_log_probabilities(deletion: Deletion) -> None:
    batch = batch_of(LENGTHS, TARGETS, 24)
    scores = Engine(CONFIG, PARAMS, deletion, CompactionConfig(max_rungs=2)).score(batch)
    arrays = {name: jnp.asarray(array) for name, array in batch.items()}
    outputs = _forward(MrT5(CONFIG), PARAMS, arrays, deletion, Ladder((24,)))
    logits = np.asarray(outputs.logits, np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for row, (count, target) in enumerate(zip(TARGETS, batch["decoder_target_tokens"], strict=True)):
        expected = sum(log_probabilities[row, place, target[place]] for place in range(count))
        np.testing.assert_allclose(scores.score[row], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(scores.num_input_tokens, LENGTHS)
    np.testing.assert_array_equal(scores.num_target_tokens, TARGETS)
    assert outputs.selection is not None
    kept = LENGTHS if deletion == "none" else outputs.selection.keep.sum(1)
    np.testing.assert_array_equal(scores.num_kept_tokens, kept)
    assert deletion == "none" or 0 < scores.num_kept_tokens[0] < LENGTHS[0], "the gate should delete something"

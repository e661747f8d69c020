"""Who chooses the lengths, and how rows are cut into chunks, changes no result of inference."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import make_ladder
from mrt5_jax.config import Dispatch, ExecutionConfig, GateConfig
from mrt5_jax.inference.beam import Beam
from mrt5_jax.inference.decoding import Generated, Search
from mrt5_jax.inference.engine import Engine
from mrt5_jax.inference.sampling import Sampling, row_keys
from mrt5_jax.model.encoder_decoder import MrT5

from .models import CONFIG, LENGTHS, MAX_LENGTH, PARAMS, TOKENS, as_targets, random_params, small_config

TOLERANCE = 1e-4
STRIDE = 3
PADDED = np.pad(TOKENS, ((0, 0), (0, 7)))
COUNTS = np.minimum(LENGTHS, MAX_LENGTH)
TARGETS = Generated(jnp.asarray(TOKENS[:, :MAX_LENGTH]), jnp.asarray(COUNTS), jnp.zeros(len(LENGTHS)))
ENGINE = Engine(CONFIG, PARAMS)


@pytest.fixture(scope="module")
def generated() -> Generated:
    """By the defaults: the host chooses, for the whole batch."""
    return ENGINE.generate(TOKENS, MAX_LENGTH)


@pytest.mark.parametrize(
    ("dispatch", "chunks"),
    [("host", 2), pytest.param("in_graph", 1, marks=pytest.mark.slow), ("in_graph", 2)],
)
def test_dispatch_and_chunks_change_nothing(dispatch: Dispatch, chunks: int, generated: Generated) -> None:
    execution = ExecutionConfig(max_rungs=2, inference_dispatch=dispatch, chunks=chunks)
    engine = Engine(CONFIG, PARAMS, execution=execution)
    np.testing.assert_array_equal(engine.generate(TOKENS, MAX_LENGTH).tokens, generated.tokens)
    batch = as_targets(TOKENS, generated)
    expected = ENGINE.score(batch)._asdict()
    for name, values in engine.score(batch)._asdict().items():
        np.testing.assert_allclose(values, expected[name], rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize(
    ("reduction", "dispatch"),
    [
        ("convolution", "host"),
        pytest.param("convolution", "in_graph", marks=pytest.mark.slow),
        pytest.param("segment_mean", "host", marks=pytest.mark.slow),
    ],
)
def test_pooled_scores_do_not_depend_on_dispatch_chunks_or_padding(reduction: Any, dispatch: Dispatch) -> None:
    plain, cut = pooled_engines(reduction, dispatch)
    batch = as_targets(TOKENS, TARGETS)
    expected, found = plain.score(batch), cut.score({**batch, "encoder_input_tokens": PADDED})
    np.testing.assert_allclose(found.score, expected.score, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_array_equal(found.num_kept_tokens, -(-np.array(LENGTHS) // STRIDE))


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["convolution", "segment_mean"])
@pytest.mark.parametrize("dispatch", ["host", "in_graph"])
def test_what_pooled_models_generate_does_not_depend_on_them_either(reduction: Any, dispatch: Dispatch) -> None:
    plain, cut = pooled_engines(reduction, dispatch)
    found, expected = cut.generate(PADDED, MAX_LENGTH), plain.generate(TOKENS, MAX_LENGTH)
    np.testing.assert_array_equal(found.tokens, expected.tokens)


def pooled_engines(reduction: Any, dispatch: Dispatch) -> tuple[Engine, Engine]:
    """One length for all rows; and a few, in two chunks."""
    config = small_config(gate=GateConfig(1, "every_kth", stride=STRIDE, reduction=reduction))
    params = random_params(config, seed=1)
    whole, cut = ExecutionConfig(max_rungs=1), ExecutionConfig(rounding=4, inference_dispatch=dispatch, chunks=2)
    return Engine(config, params, execution=whole), Engine(config, params, execution=cut)


def test_an_engine_is_equal_to_itself_alone_and_can_be_a_key() -> None:
    """Parameters are arrays, of which neither equality nor hash is one number."""
    other = dataclasses.replace(ENGINE)
    assert ENGINE == ENGINE
    assert other != ENGINE
    assert {ENGINE: 1, other: 2}[ENGINE] == 1


@pytest.mark.parametrize("search", [Sampling(), pytest.param(Beam(2), marks=pytest.mark.slow)])
def test_a_sample_is_its_row_s_own_in_chunks_too(search: Search) -> None:
    keys = row_keys(0, jnp.arange(len(TOKENS)))
    chunked = Engine(CONFIG, PARAMS, execution=ExecutionConfig(max_rungs=1, chunks=2))
    plain, in_chunks = (engine.generate(TOKENS, MAX_LENGTH, search, keys) for engine in (ENGINE, chunked))
    np.testing.assert_array_equal(plain.tokens, in_chunks.tokens)


def test_a_score_is_that_of_the_model_called_directly(generated: Generated) -> None:
    """Hard deletion by masking, without compaction, in double precision."""
    config = dataclasses.replace(CONFIG, dtype="float64", param_dtype="float64")
    batch = as_targets(TOKENS, generated)
    with jax.enable_x64(True):
        params = random_params(config, seed=1)
        ids = [jnp.asarray(batch[name]) for name in ("encoder_input_tokens", "decoder_input_tokens")]
        called: Any = jax.jit(MrT5(config).apply)({"params": params}, *ids)
        taken = jnp.take_along_axis(jax.nn.log_softmax(called.logits), batch["decoder_target_tokens"][..., None], -1)
        expected = jnp.sum(jnp.where(batch["decoder_loss_weights"] > 0, taken[..., 0], 0), axis=1)
        found = Engine(config, params).score(batch)
    np.testing.assert_allclose(found.score, np.where(np.array(LENGTHS) > 0, expected, 0), rtol=0, atol=1e-6)
    assert (np.asarray(found.num_kept_tokens) < LENGTHS).any(), "something should be deleted"


def test_a_capacity_keeps_as_many_as_it_has_slots() -> None:
    hard = Engine(CONFIG, PARAMS, capacity=0.2)
    batch = as_targets(TOKENS, hard.generate(TOKENS, MAX_LENGTH))
    scores, wanted = hard.score(batch), ENGINE.score(batch).num_kept_tokens
    kept = scores.num_kept_tokens
    (slots,) = make_ladder(TOKENS.shape[1], hard.execution, "cpu", 0.2).rungs
    np.testing.assert_array_equal(kept, np.minimum(wanted, slots))
    np.testing.assert_array_equal(kept + scores.num_dropped_tokens, wanted)
    assert (kept < wanted).any(), "a row should have more survivors than slots"
    undeleted = dataclasses.replace(hard, deletion="none")
    np.testing.assert_array_equal(undeleted.score(batch).num_kept_tokens, LENGTHS)

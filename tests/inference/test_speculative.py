"""Speculative search emits what greedy search emits, in as many steps as its drafts leave, row by row."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import Dispatch, ExecutionConfig
from mrt5_jax.data.vocabulary import EOS_ID, PAD_ID
from mrt5_jax.errors import UserError
from mrt5_jax.inference.decoding import Generated
from mrt5_jax.inference.engine import Engine, Predictions
from mrt5_jax.inference.incremental import CachedDecoder
from mrt5_jax.inference.speculative import LONGEST_MATCH, Speculative, copied_draft, decode_drafts
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.model.parameters import Params

from .models import CONFIG, MAX_LENGTH, PARAMS, TOKENS, VOCAB, random_inputs, random_params

DOUBLE = dataclasses.replace(CONFIG, dtype="float64", param_dtype="float64")
DRAFT_LENGTH = 3
SEARCH = Speculative(DRAFT_LENGTH)


def looked_up(inputs: Sequence[int], emitted: Sequence[int]) -> list[int]:
    """The draft, one place of the input after another."""

    def num_matching(place: int) -> int:
        longest = 0
        while (
            longest < min(LONGEST_MATCH, len(emitted), place)
            and inputs[place - 1 - longest] == emitted[len(emitted) - 1 - longest] != PAD_ID
        ):
            longest += 1
        return longest

    best = max(range(len(inputs)), key=lambda place: (num_matching(place), -abs(place - len(emitted)), -place))
    return [*inputs, *[PAD_ID] * DRAFT_LENGTH][best : best + DRAFT_LENGTH]


def num_steps(output: Sequence[int], drafts: Sequence[Sequence[int]]) -> int:
    """Steps of a row that emits `output`, of which `drafts[n]` is the draft after n ids."""
    count = steps = 0
    while count < len(output):
        draft, right = drafts[count], 0
        while right < DRAFT_LENGTH and count + right < len(output) and draft[right] == output[count + right]:
            right += 1
        count, steps = count + right + 1, steps + 1
    return steps


def outputs(found: Predictions) -> list[list[int]]:
    return [row[:count].tolist() for row, count in zip(np.asarray(found.tokens), found.num_tokens, strict=True)]


def steps_with_look_up(tokens: np.ndarray, plain: Predictions) -> list[int]:
    """Steps of each row when every draft is looked up in its input."""
    return [
        num_steps(output, [looked_up(row, output[:count]) for count in range(len(output))])
        for row, output in zip(tokens.tolist(), outputs(plain), strict=True)
    ]


def test_a_draft_goes_on_after_the_longest_match_that_is_nearest() -> None:
    inputs = [5, 6, 7, 5, 6, 8, 1, 0]
    cases = {
        (): [5, 6, 7],
        (5, 6): [7, 5, 6],
        (9, 9, 9, 5, 6): [8, 1, 0],
        (7, 5, 6): [8, 1, 0],
        (6, 8): [1, 0, 0],
        (9, 9): [7, 5, 6],
    }
    tokens = np.zeros((len(cases), 5), np.int32)
    for row, emitted in zip(tokens, cases, strict=True):
        row[: len(emitted)] = emitted
    counts = jnp.asarray([len(emitted) for emitted in cases], jnp.int32)
    rows = jnp.asarray([inputs] * len(cases), jnp.int32)
    found = copied_draft(rows, jnp.asarray(tokens), counts, DRAFT_LENGTH)
    assert np.asarray(found).tolist() == list(cases.values())
    assert [looked_up(inputs, emitted) for emitted in cases] == list(cases.values())


def test_drafts_are_those_of_a_search_place_by_place() -> None:
    """Few different ids, so that much matches, and pads among what was emitted."""
    rng, rows = np.random.default_rng(0), 300
    inputs = rng.integers(1, 4, (rows, 12)).astype(np.int32)
    inputs[np.arange(12)[None] >= rng.integers(0, 13, rows)[:, None]] = PAD_ID
    counts = rng.integers(0, 9, rows).astype(np.int32)
    tokens = rng.integers(0, 4, (rows, 8)).astype(np.int32)
    tokens[np.arange(8)[None] >= counts[:, None]] = PAD_ID
    found = jax.jit(copied_draft, static_argnums=3)(inputs, tokens, counts, DRAFT_LENGTH)
    emitted = [row[:count].tolist() for row, count in zip(tokens, counts, strict=True)]
    expected = [looked_up(row, own) for row, own in zip(inputs.tolist(), emitted, strict=True)]
    np.testing.assert_array_equal(found, expected)


class Told:
    """Verifies drafts that it was told: `told[row, n:]` after n ids."""

    reads_inputs: ClassVar[bool] = False

    def __init__(self, told: np.ndarray) -> None:
        self._told = told

    def search(self, decoder: CachedDecoder, row_keys: RowKeys | None, max_length: int) -> Generated:
        def draft(tokens: jax.Array, num_tokens: jax.Array) -> jax.Array:
            places = num_tokens[:, None] + jnp.arange(DRAFT_LENGTH)[None]
            return jnp.take_along_axis(jnp.asarray(self._told), places, axis=1)

        return decode_drafts(decoder, max_length, draft)


def test_tokens_are_greedy_s_whatever_the_drafts_are() -> None:
    """The same rows with drafts that are right, wrong, and wrong in the first id of all, which moves the later ones: so
    an end of sequence comes within an accepted draft, and the maximal length in the middle of one."""
    rows = len(TOKENS)
    tokens = np.tile(TOKENS, (3, 1))
    with jax.enable_x64(True):
        engine = Engine(DOUBLE, random_params(DOUBLE, seed=1))
        plain = engine.generate(tokens, MAX_LENGTH)
        told = np.pad(np.asarray(plain.tokens), ((0, 0), (0, DRAFT_LENGTH)))
        told[rows : 2 * rows] = (told[rows : 2 * rows] + 1) % VOCAB
        told[2 * rows :, 0] = (told[2 * rows :, 0] + 1) % VOCAB
        found = engine.generate(tokens, MAX_LENGTH, Told(told))
        assert plain.num_steps is None
        np.testing.assert_array_equal(found.tokens, plain.tokens)
        np.testing.assert_array_equal(found.num_tokens, plain.num_tokens)
        np.testing.assert_allclose(found.score, plain.score, rtol=0, atol=1e-9)
        expected = [
            num_steps(output, [own[count : count + DRAFT_LENGTH].tolist() for count in range(len(output))])
            for own, output in zip(told, outputs(plain), strict=True)
        ]
        np.testing.assert_array_equal(found.num_steps, expected)
        lengths = np.asarray(plain.num_tokens)
    np.testing.assert_array_equal(expected[rows : 2 * rows], lengths[rows : 2 * rows])
    assert {0, MAX_LENGTH} < set(lengths.tolist()), "rows of padding, cut ones, and some that end"
    assert MAX_LENGTH % (DRAFT_LENGTH + 1)


def deaf(params: Params) -> Params:
    """The same parameters, with a decoder that hears nothing of the encoder: every row's output is the same."""
    layers = params["decoder"]["layers"]
    across = layers["encoder_decoder_attention"]
    across = {**across, "out": jax.tree.map(jnp.zeros_like, across["out"])}
    return {**params, "decoder": {**params["decoder"], "layers": {**layers, "encoder_decoder_attention": across}}}


def compared(engine: Engine, tokens: np.ndarray) -> tuple[list[list[int]], np.ndarray]:
    """Greedy search's outputs, which speculative search's are, and the steps of each row, which the drafts leave."""
    plain, found = engine.generate(tokens, MAX_LENGTH), engine.generate(tokens, MAX_LENGTH, SEARCH)
    np.testing.assert_array_equal(found.tokens, plain.tokens)
    np.testing.assert_array_equal(found.num_tokens, plain.num_tokens)
    np.testing.assert_allclose(found.score, plain.score, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found.num_steps, steps_with_look_up(tokens, plain))
    return outputs(plain), np.asarray(found.num_steps)


@pytest.mark.parametrize("seed", range(3))
def test_copies_of_the_input_are_found_and_change_nothing(seed: int) -> None:
    """Random models; and models that say the same whatever they read, which they are given to read, here and there."""
    with jax.enable_x64(True):
        params = random_params(DOUBLE, seed)
        compared(Engine(DOUBLE, params, "soft"), TOKENS)
        engine = Engine(DOUBLE, deaf(params), "soft")
        said = outputs(engine.generate(TOKENS, MAX_LENGTH))[0]
        tokens = random_inputs([0, 24, 24, 24, 24, 0], 24)
        tokens[0, : len(said)] = said
        for row, place in ((1, 0), (2, 3), (3, 12)):
            tokens[row, place : place + len(said)] = said
        tokens[0, 23] = EOS_ID  # said may be pads
        found, steps = compared(engine, tokens)
    assert found == [said] * 5 + [[]]
    if PAD_ID not in said:
        assert steps[0] == -(-len(said) // (DRAFT_LENGTH + 1))


@pytest.mark.parametrize("dispatch", get_args(Dispatch))
def test_dispatch_and_chunks_change_nothing(dispatch: Dispatch) -> None:
    """Inputs go with their rows when these are sorted; under hard deletion the draft still has what was deleted."""
    execution = ExecutionConfig(max_rungs=2, inference_dispatch=dispatch, chunks=2)
    found = Engine(CONFIG, PARAMS, execution=execution).generate(TOKENS, MAX_LENGTH, SEARCH)
    plain = Engine(CONFIG, PARAMS).generate(TOKENS, MAX_LENGTH)
    np.testing.assert_array_equal(found.tokens, plain.tokens)
    np.testing.assert_allclose(found.score, plain.score, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.num_steps, steps_with_look_up(TOKENS, plain))


def test_once_warm_nothing_compiles(compilations: Any) -> None:
    with jax.enable_x64(True):
        engine = Engine(DOUBLE, random_params(DOUBLE), "soft")
        engine.generate(TOKENS, MAX_LENGTH, SEARCH)
        others = random_inputs([5, 24, 9, 0, 1, 20], 24, seed=3)
        with compilations() as compiled:
            engine.generate(others, MAX_LENGTH, SEARCH)
    assert compiled == []


def test_a_draft_longer_than_the_output_is_cut() -> None:
    """No memory holds a cache of the length that is asked for here."""
    with jax.enable_x64(True):
        engine = Engine(DOUBLE, random_params(DOUBLE, seed=1), "soft")
        plain, found = engine.generate(TOKENS, 1), engine.generate(TOKENS, 1, Speculative(10**12))
        np.testing.assert_array_equal(found.tokens, plain.tokens)
        np.testing.assert_array_equal(found.num_steps, plain.num_tokens)


def test_a_draft_has_an_id() -> None:
    with pytest.raises(UserError, match="draft length 0: must be at least 1"):
        Speculative(0)

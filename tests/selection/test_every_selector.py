"""Every selector of the table against plain NumPy of single examples, and the properties that all of them have.

A batch of rows, of packed rows, and its programs are shared: one that differentiates, and one of packed rows.
"""

import dataclasses
import functools
import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.data.vocabulary import EOS_ID, encode
from mrt5_jax.errors import UserError
from mrt5_jax.interop.names import gate_tensors, shape
from mrt5_jax.model.forward import compact_at
from mrt5_jax.selection.protocol import Selection, Signals
from mrt5_jax.selection.selectors import SELECTORS, make_selector
from mrt5_jax.selection.survivors import Survivors
from mrt5_jax.validation import validate

from ..model.small import by_path, in_double, make_config
from ..model.test_pooling import RUN
from .plain import Decisions, Given, Plain
from .plain.oracle import mask_of

LENGTH, ROWS, EMBED = 40, 6, 8
TEXTS = (
    "Hello, w\u00f6rld 4!",
    "\u041f\u0440\u0438\u0432\u0435\u0442 ok",
    "\u0928\u092e\u0938\u094d a",
    " \u65e5\u672c 7,",
    "x",
    "It  is so.",
)
EXAMPLES = [np.array([*encode(text)[:19].tolist(), EOS_ID], np.int32) for text in TEXTS]
PACKED = ((0, 1), (2, 3), (4, 5), (3,), (), (5, 4, 2))
"""Numbers of the examples in each packed row."""
LONG = np.concatenate([EXAMPLES[0], EXAMPLES[1]])
"""One example that has both their scripts."""
DRAWN = {"random"}
"""Draws by row, from all of a row: `test_selectors` has what it promises."""
KINDS = [kind for kind in SELECTORS if kind not in DRAWN]
STEP = 1e-6


def plain_of(kind: str) -> Any:
    """The module of a selector's plain version; one that is missing is a test that is missing."""
    return importlib.import_module(f".plain.{kind}", __package__)


@pytest.fixture(autouse=True, scope="module")
def _beside_masks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In a folder with a file of masks of the examples."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("masks")
    lines = [{"inputs": ids.tolist(), "mask": "".join(map(str, mask_of(ids).astype(int)))} for ids in (*EXAMPLES, LONG)]
    (folder / "masks.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    os.chdir(folder)
    yield
    os.chdir(before)


def config_of(kind: str) -> ModelConfig:
    gate = GateConfig(1, "random") if kind in DRAWN else plain_of(kind).GATE
    return in_double(make_config(gate=gate, vocab_size=384))


@functools.cache
def params_of(kind: str) -> Any:
    """Random ones, at which about half is kept."""
    config, rng = config_of(kind), np.random.default_rng(1)
    with jax.enable_x64(True):
        empty = jnp.zeros((1, 4, EMBED)), jnp.ones((1, 4), jnp.int32), jnp.ones((1, 4), bool), None
        shapes = jax.eval_shape(make_selector(config).init, jax.random.key(0), *empty)
    boxed = shapes.get("params", {})
    draw = lambda leaf: rng.normal(0, 1.0, leaf.value.shape)  # noqa: E731
    return jax.tree.map(draw, boxed, is_leaf=lambda leaf: hasattr(leaf, "unbox"))


def hidden_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(len(EXAMPLES[number]), EMBED))


def laid_out(rows: Any, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hidden, tokens, segments) of rows of examples; where there is no input, hidden states are noise."""
    hidden = np.random.default_rng(100 + seed).normal(size=(ROWS, LENGTH, EMBED))
    tokens, segments = np.zeros((ROWS, LENGTH), np.int32), np.zeros((ROWS, LENGTH), np.int32)
    for row, numbers in enumerate(rows):
        start = 0
        for place, number in enumerate(numbers, 1):
            end = start + len(EXAMPLES[number])
            hidden[row, start:end], tokens[row, start:end] = hidden_of(number), EXAMPLES[number]
            segments[row, start:end], start = place, end
    return hidden, tokens, segments


def places(rows: Any) -> Iterator[tuple[int, slice, int]]:
    """(row, its positions, number) of every example."""
    for row, numbers in enumerate(rows):
        start = 0
        for number in numbers:
            yield row, slice(start, start + len(EXAMPLES[number])), number
            start += len(EXAMPLES[number])


class Signs:
    """Fixed random weights, by which signals are added up to one number."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        self.of = {name: rng.normal(size=(ROWS, LENGTH)) for name in Signals._fields}
        self.of_penalty = dict(zip("abc", (0.7, -1.3, 2.1), strict=True))


SIGNS = Signs()
KEYS = jax.vmap(jax.random.key)(jnp.arange(ROWS))


@functools.partial(jax.jit, static_argnums=0)
def packed_selection(config: ModelConfig, params: Any, hidden: Any, tokens: Any, segments: Any) -> Selection:
    """Of packed rows, in evaluation."""
    return make_selector(config).apply({"params": params}, hidden, tokens, tokens > 0, None, segments)


@functools.partial(jax.jit, static_argnums=0)
def trained_selection(config: ModelConfig, params: Any, hidden: Any, tokens: Any) -> Any:
    """Of rows of one example each, in training, with the gradient of all that has one."""

    def total(params: Any, hidden: Any) -> Any:
        selection = make_selector(config).apply({"params": params}, hidden, tokens, tokens > 0, KEYS)
        signals = zip(Signals._fields, selection.signals, strict=True)
        terms = [jnp.sum(jnp.where(tokens > 0, SIGNS.of[name] * one, 0)) for name, one in signals if one is not None]
        weights = zip(SIGNS.of_penalty.values(), selection.penalties.values(), strict=False)
        return sum(terms) + sum(weight * jnp.sum(penalty.total) for weight, penalty in weights), selection

    return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(params, hidden)


@functools.cache
def in_training(kind: str) -> Any:
    with jax.enable_x64(True):
        hidden, tokens, _ = laid_out([(number,) for number in range(ROWS)])
        return jax.device_get(trained_selection(config_of(kind), params_of(kind), hidden, tokens))


@functools.cache
def in_evaluation(kind: str) -> Selection:
    with jax.enable_x64(True):
        return jax.device_get(packed_selection(config_of(kind), params_of(kind), *laid_out(PACKED)))


@functools.cache
def noise() -> np.ndarray:
    with jax.enable_x64(True):
        return np.array(jax.vmap(lambda key: jax.random.logistic(key, (LENGTH,), jnp.float64))(KEYS))


def plain(kind: str, number: int, drawn: np.ndarray | None, decisions: Decisions, params: Any, hidden: Any) -> Plain:
    given = Given(params, hidden, EXAMPLES[number], config_of(kind).gate, drawn, decisions)  # pyright: ignore
    return plain_of(kind).example(given)


def compare(selection: Selection, row: int, at: slice, expected: Plain) -> None:
    np.testing.assert_array_equal(selection.keep[row, at], expected.keep)
    assert (selection.merged_into is None) == (expected.merged_into is None)
    if selection.merged_into is not None:
        np.testing.assert_array_equal(selection.merged_into[row, at] - at.start, expected.merged_into)
    for name, signal in zip(Signals._fields, selection.signals, strict=True):
        assert (signal is None) == (getattr(expected, name) is None), name
        if signal is not None:
            np.testing.assert_allclose(signal[row, at], getattr(expected, name), rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_plain_numpy_of_each_example(kind: str) -> None:
    """With the noise that the row's key gives; longer padding and other rows are not in it."""
    (_, selection), _ = in_training(kind)
    for row in range(ROWS):
        at = slice(0, len(EXAMPLES[row]))
        expected = plain(kind, row, noise()[row, at], Decisions(), params_of(kind), hidden_of(row))
        compare(selection, row, at, expected)
        assert selection.penalties.keys() == expected.penalties.keys() == SELECTORS[kind].penalties.keys()
        for name, (total, count) in expected.penalties.items():
            assert selection.penalties[name].total[row] == pytest.approx(total, rel=1e-9, abs=1e-12), name
            assert selection.penalties[name].count[row] == count


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_plain_numpy_of_each_example_in_packed_rows(kind: str) -> None:
    """Nothing is drawn; a row's penalty is that of its examples, and so is its count."""
    selection = in_evaluation(kind)
    totals = {name: np.zeros((2, ROWS)) for name in selection.penalties}
    for row, at, number in places(PACKED):
        expected = plain(kind, number, None, Decisions(), params_of(kind), hidden_of(number))
        compare(selection, row, at, expected)
        for name, of_example in expected.penalties.items():
            totals[name][:, row] += of_example
    _, tokens, segments = laid_out(PACKED)
    for name, penalty in selection.penalties.items():
        np.testing.assert_allclose(penalty.total, totals[name][0], rtol=1e-9, atol=1e-12, err_msg=name)
        counted = SELECTORS[kind].penalties[name].count(jnp.asarray(tokens > 0), jnp.asarray(segments))
        np.testing.assert_array_equal(penalty.count, totals[name][1])
        np.testing.assert_array_equal(counted, totals[name][1], err_msg="what the batch's count is made of")


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences_with_decisions_held(kind: str) -> None:
    """Of signals and penalties, by parameters and hidden states; straight-through values move as their soft ones do."""
    _, (of_params, of_hidden) = in_training(kind)
    params, rng = params_of(kind), np.random.default_rng(3)
    along = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    along_hidden = [rng.normal(size=hidden_of(row).shape) for row in range(ROWS)]
    decisions = [Decisions() for _ in range(ROWS)]

    def total(step: float) -> float:
        moved = jax.tree.map(lambda leaf, by: leaf + step * by, params, along)
        found = 0.0
        for row in range(ROWS):
            size = len(EXAMPLES[row])
            hidden = hidden_of(row) + step * along_hidden[row]
            one = plain(kind, row, noise()[row, :size], decisions[row].rerun(), moved, hidden)
            signals = [(SIGNS.of[name][row, :size], getattr(one, name)) for name in Signals._fields]
            found += sum(float(sign @ signal) for sign, signal in signals if signal is not None)
            found += sum(
                weight * value
                for weight, (value, _) in zip(SIGNS.of_penalty.values(), one.penalties.values(), strict=False)
            )
        return found

    total(0.0)
    slope = sum(np.vdot(by_path(of_params)[path], by) for path, by in by_path(along).items())
    slope += sum(np.vdot(of_hidden[row, : len(by)], by) for row, by in enumerate(along_hidden))
    assert slope == pytest.approx((total(STEP) - total(-STEP)) / (2 * STEP), rel=1e-6, abs=1e-7)
    if SELECTORS[kind].learns:
        assert all(np.any(leaf) for leaf in jax.tree.leaves(of_params)), "all parameters learn"


@pytest.mark.parametrize("kind", SELECTORS)
def test_parameters_are_those_that_exports_know(kind: str) -> None:
    config = config_of(kind)
    known = {tensor.name.removeprefix("encoder/gate/"): shape(tensor, config) for tensor in gate_tensors(config)}
    assert {path: leaf.shape for path, leaf in by_path(params_of(kind)).items()} == known
    assert bool(known) == SELECTORS[kind].learns


@pytest.mark.parametrize("kind", SELECTORS)
def test_every_example_keeps_a_position_and_pads_none(kind: str) -> None:
    """And what is merged lies in one's own example, at a kept position, with weights that add up to 1."""
    (_, selection), _ = in_training(kind)
    packed, (_, tokens, _) = in_evaluation(kind), laid_out(PACKED)
    assert not packed.keep[tokens == 0].any()
    for found, rows in ((selection, [(number,) for number in range(ROWS)]), (packed, PACKED)):
        for row, at, _ in places(rows):
            assert found.keep[row, at].any()
            if found.merged_into is not None:
                into = found.merged_into[row, at]
                assert found.keep[row, into].all()
                assert into.min() >= at.start
                weights = np.bincount(into, found.signals.weights[row, at])
                np.testing.assert_allclose(weights[np.unique(into)], 1.0, rtol=1e-12)


@pytest.mark.parametrize("kind", SELECTORS)
def test_what_is_said_of_a_position_depends_on_those_before_it_where_the_table_says_so(kind: str) -> None:
    """Rows that differ from a position on; of selectors that are not causal some row differs before it."""
    config, params = config_of(kind), params_of(kind)
    cuts = np.array([3, 6, 9, 12, 14, 16])
    rng = np.random.default_rng(5)
    hidden = np.broadcast_to(rng.normal(size=(1, LENGTH, EMBED)), (ROWS, LENGTH, EMBED))
    tokens = np.broadcast_to(np.pad(LONG, (0, LENGTH - len(LONG)))[None], (ROWS, LENGTH))
    segments = np.where(tokens > 0, 1, 0).astype(np.int32)
    later = (np.arange(LENGTH)[None] >= cuts[:, None]) & (tokens > 0)
    # Bytes beyond ASCII: no separators, so the fixed selector's segments become longer.
    other = np.where(later, rng.integers(131, 250, tokens.shape), tokens).astype(np.int32)
    moved = np.where(later[..., None], rng.normal(size=hidden.shape), hidden)
    with jax.enable_x64(True):
        before, after = (
            jax.device_get(packed_selection(config, params, states, ids, segments))
            for states, ids in ((hidden, tokens), (moved, other))
        )
    differs = []
    for row, cut in enumerate(cuts):
        said = [
            (one.keep, one.merged_into, one.priority, one.signals.key_bias, one.signals.confidence)
            for one in (before, after)
        ]
        pairs = [
            (np.asarray(one)[row, :cut], np.asarray(two)[row, :cut])
            for one, two in zip(*said, strict=True)
            if one is not None
        ]
        differs.append(not all(np.array_equal(one, two) for one, two in pairs))
    if SELECTORS[kind].causal:
        assert not before.statistics["rescued"].any()
        assert not after.statistics["rescued"].any()
        assert not any(differs)
    else:
        assert any(differs)


@pytest.mark.parametrize("kind", SELECTORS)
def test_slots_of_a_rung_are_those_of_the_full_length(kind: str) -> None:
    selection, (hidden, tokens, segments) = in_evaluation(kind), laid_out(PACKED)
    with jax.enable_x64(True):
        parts = jax.tree.map(jnp.asarray, (selection.keep, selection.priority, segments, selection.merged_into))
        found, (weights, confidence) = Survivors(*parts), jax.tree.map(jnp.asarray, selection.signals[1:])
        signals = Signals(weights=weights, confidence=confidence)
        rung = int(selection.keep.sum(1).max())
        short = compact_at(jnp.asarray(hidden), jnp.asarray(tokens > 0), found, rung, signals)
        for row in range(ROWS):
            kept = np.flatnonzero(selection.keep[row])
            np.testing.assert_array_equal(np.asarray(short.positions)[row, : len(kept)], kept)
            np.testing.assert_array_equal(np.asarray(short.keys.mask)[row], np.arange(rung) < len(kept))
            if selection.merged_into is None:
                np.testing.assert_array_equal(np.asarray(short.hidden)[row, : len(kept)], hidden[row, kept])


@pytest.mark.parametrize("kind", [kind for kind in SELECTORS if SELECTORS[kind].has_gate_values])
def test_soft_attention_is_hard_where_gate_values_are_saturated(kind: str) -> None:
    config = config_of(kind)
    assert config.gate is not None
    gate = dataclasses.replace(config.gate, scale=-60.0, threshold=None)
    config = dataclasses.replace(config, gate=gate)
    params = jax.tree.map(lambda leaf: 4000.0 * leaf, params_of(kind))
    hidden, tokens, segments = laid_out(PACKED)
    with jax.enable_x64(True):
        selection = jax.device_get(packed_selection(config, params, hidden, tokens, segments))
    scores = np.random.default_rng(0).normal(size=LENGTH)
    for row, at, _ in places(PACKED):
        keep, bias = selection.keep[row, at], selection.signals.key_bias[row, at]
        soft, hard = np.exp(scores[at] + bias), np.where(keep, np.exp(scores[at]), 0)
        if selection.statistics["rescued"][row] == 0:
            np.testing.assert_allclose(soft / soft.sum(), hard / hard.sum(), atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "settings", "words"), [(kind, *refused) for kind in KINDS for refused in plain_of(kind).REFUSED]
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(kind: str, settings: Any, words: str) -> None:
    gate = dataclasses.replace(GateConfig(1, kind), settings=settings)
    with pytest.raises(UserError, match=words) as refusal:
        validate(dataclasses.replace(RUN, model=dataclasses.replace(RUN.model, gate=gate)))
    assert "\n" not in str(refusal.value)

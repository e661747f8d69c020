"""Pooled positions: which they are, what a slot holds, gradients through both stages, and what is refused."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.on_host import OnHost
from mrt5_jax.compaction.staged import in_graph
from mrt5_jax.config import (
    CompactionConfig,
    ControllerConfig,
    DataConfig,
    EvaluationConfig,
    GateConfig,
    LossConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
)
from mrt5_jax.errors import UserError
from mrt5_jax.model.encoder_decoder import Compact, MrT5
from mrt5_jax.model.forward import ForwardSetting, forward, run_prefix, run_second_stage
from mrt5_jax.model.layers import Keys
from mrt5_jax.selection.selectors import make_selector
from mrt5_jax.training.gradients import Setting, objective_of, training_stages
from mrt5_jax.validation import validate

from .small import LENGTH, LENGTHS, TARGET, by_path, in_double, make_batch, make_config, make_params

STRIDE, STEP = 3, 1e-6
SEGMENTS = np.array([[1] * 7 + [2] * 5, [1] * 4 + [2] + [3] * 3 + [0] * 4, [0] * 12], np.int32)


def slow(value: Any) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


def pooled(reduction: Any, **changes: Any) -> ModelConfig:
    return in_double(make_config(gate=GateConfig(1, "every_kth", stride=STRIDE, reduction=reduction, **changes)))


@pytest.mark.parametrize("drop_tail", [False, True])
def test_every_kth_position_of_an_example_owns_a_slot(drop_tail: bool) -> None:
    """The windows of each example, by plain Python; no window crosses examples, weights of a window add up to 1."""
    config = pooled("segment_mean", drop_tail=drop_tail)
    tokens = (SEGMENTS > 0).astype(np.int32)
    hidden, segments = jnp.zeros((3, LENGTH, 8)), jnp.asarray(SEGMENTS)
    selection = make_selector(config).apply({}, hidden, jnp.asarray(tokens), segments > 0, None, segments)
    for row in range(3):
        for number in range(1, SEGMENTS[row].max() + 1):
            places = np.flatnonzero(SEGMENTS[row] == number)
            for start in range(0, len(places), STRIDE):
                window = places[start : start + STRIDE]
                owns = not drop_tail or window[0] + STRIDE <= LENGTH
                expected = [owns] + [False] * (len(window) - 1)
                assert np.asarray(selection.keep)[row, window].tolist() == expected
                assert set(np.asarray(selection.merged_into)[row, window]) == {window[0]}
                np.testing.assert_allclose(selection.signals.weights[row, window], 1 / len(window))
    assert not np.asarray(selection.keep)[SEGMENTS == 0].any()


def test_a_slot_holds_the_mean_of_its_positions() -> None:
    """Against windows averaged one by one, at full length and without a plan."""
    config, batch = pooled("segment_mean"), jax.tree.map(jnp.asarray, make_batch())
    with jax.enable_x64(True):
        params, model = jax.tree.map(jnp.asarray, make_params(config)), MrT5(config)
        ours = forward(ForwardSetting(model, "hard", Ladder((4, LENGTH))), params, batch)
        prefix = run_prefix(model, params, batch["encoder_input_tokens"])
        hidden, mask = np.asarray(prefix.hidden), np.asarray(prefix.mask)
        starts = range(0, LENGTH, STRIDE)
        windows = [
            [hidden[row, s : s + STRIDE][mask[row, s : s + STRIDE]].mean(0) if mask[row, s] else hidden[row, s] * 0]
            for row in range(len(mask))
            for s in starts
        ]
        means = jnp.asarray(np.reshape(windows, (len(mask), len(starts), -1)))
        compact = Compact(means, jnp.asarray([[*starts]]), Keys(jnp.asarray(mask[:, ::STRIDE])))
        # No reduction is asked for: the slots are already pooled.
        expected = run_second_stage(model, params, compact, batch["decoder_input_tokens"])
        real = mask.any(1)
        np.testing.assert_allclose(ours.logits[real], expected.logits[real], rtol=1e-10, atol=1e-10)
    assert set(np.asarray(ours.rungs).tolist()) == {4}


@pytest.mark.parametrize("reduction", [slow("segment_mean"), "convolution"])
def test_gradients_of_both_stages_are_finite_differences_in_chunks_too(reduction: str) -> None:
    """In float64; two chunks at rungs that differ add up to the batch."""
    config = pooled(reduction)
    with jax.enable_x64(True):
        params = make_params(config)
        plain = total_of(config, (LENGTH,))
        whole = plain(params)
        assert by_path(whole.gradients).keys() == by_path(params).keys()
        compare(total_of(config, (4, LENGTH), 2)(params), whole)
        rng = np.random.default_rng(0)
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
        ahead, behind = (
            plain(jax.tree.map(lambda leaf, along, by=by: leaf + by * along, params, direction)).loss
            for by in (STEP, -STEP)
        )
        slope = sum(np.vdot(by_path(whole.gradients)[path], along) for path, along in by_path(direction).items())
    assert slope == pytest.approx((ahead - behind) / (2 * STEP), rel=1e-6)
    pooling = [path for path in by_path(whole.gradients) if "pooling" in path]
    assert len(pooling) == (3 if reduction == "convolution" else 0)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["segment_mean", "convolution"])
def test_gradients_by_host_dispatch_are_those_in_graph(reduction: str) -> None:
    config = pooled(reduction)
    with jax.enable_x64(True):
        params = make_params(config)
        whole = total_of(config, (LENGTH,))(params)
        for dispatch in ("in_graph", "host"):
            compare(total_of(config, (2, 4, LENGTH), 2, dispatch)(params), whole)


def total_of(config: ModelConfig, rungs: tuple[int, ...], chunks: int = 1, dispatch: str = "in_graph") -> Any:
    """A function from parameters to loss and gradients."""
    loss, batch = LossConfig(z_loss=0.01), jax.tree.map(jnp.asarray, make_batch())
    staged = training_stages(Setting(MrT5(config), loss, "hard", CompactionConfig(), Ladder(rungs), num_chunks=chunks))
    objective = objective_of(config.gate, loss, jnp.zeros(()), batch)
    run = jax.jit(in_graph(staged)) if dispatch == "in_graph" else OnHost(staged).start

    def total(params: Any) -> Any:
        part = run(params, objective, (batch, None))
        return jax.device_get((part if dispatch == "in_graph" else part()).total)

    return total


def compare(found: Any, whole: Any) -> None:
    assert found.loss == pytest.approx(whole.loss, rel=1e-12)
    for path, gradient in by_path(found.gradients).items():
        np.testing.assert_allclose(gradient, by_path(whole.gradients)[path], rtol=1e-9, atol=1e-11)


def test_a_capacity_drops_windows_whole_and_counts_them() -> None:
    """The last ones of a row: what is left is as if the input ended before them."""
    config, batch = pooled("segment_mean"), jax.tree.map(jnp.asarray, make_batch())
    with jax.enable_x64(True):
        params, model = jax.tree.map(jnp.asarray, make_params(config)), MrT5(config)
        slots = 2
        found = forward(ForwardSetting(model, "hard", Ladder((slots,))), params, batch)
        windows = -(-np.array(LENGTHS) // STRIDE)
        np.testing.assert_array_equal(found.at_gate.dropped, np.maximum(windows - slots, 0))
        prefix = run_prefix(model, params, batch["encoder_input_tokens"])
        means = [prefix.hidden[:1, start : start + STRIDE].mean(1) for start in range(0, slots * STRIDE, STRIDE)]
        kept = Compact(jnp.stack(means, 1), jnp.arange(slots)[None] * STRIDE, Keys(jnp.ones((1, slots), bool)))
        expected = run_second_stage(model, params, kept, batch["decoder_input_tokens"][:1])
        np.testing.assert_allclose(found.logits[0], expected.logits[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reduction", ["segment_mean", slow("convolution")])
def test_the_model_applied_whole_is_the_staged_one(reduction: str) -> None:
    """At full length; and neither longer padding nor other rows change anything."""
    config, batch = pooled(reduction), jax.tree.map(jnp.asarray, make_batch())
    with jax.enable_x64(True):
        params, model = jax.tree.map(jnp.asarray, make_params(config)), MrT5(config)
        ours = forward(ForwardSetting(model, "hard", Ladder((4, LENGTH)), num_chunks=2), params, batch).logits
        inputs = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
        apply = jax.jit(model.apply)
        whole = apply({"params": params}, *inputs)
        longer = apply({"params": params}, jnp.pad(inputs[0], ((0, 0), (0, 5))), inputs[1])
        others = apply({"params": params}, *(rows.at[1:].set(jnp.roll(rows[1:], 1, axis=0)) for rows in inputs))
        real = np.asarray(inputs[0] > 0).any(1)
        np.testing.assert_allclose(others.logits[0], whole.logits[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours[real], whole.logits[real], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(longer.logits[real], whole.logits[real], rtol=1e-9, atol=1e-9)


DATA = DataConfig("t", ("t",), LENGTH, TARGET, 4, 4)
RUN = RunConfig(
    "m",
    make_config(vocab_size=384, gate=GateConfig(1, "every_kth", stride=STRIDE)),
    DATA,
    TrainingConfig(num_steps=4, deletion="hard"),
    evaluation=EvaluationConfig(deletions=("hard",)),
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"training": TrainingConfig(num_steps=4, deletion="soft")},
            "TrainingConfig.deletion = 'soft': .* trains under 'hard' alone",
        ),
        ({"training": TrainingConfig(num_steps=4, deletion="none")}, "TrainingConfig.deletion = 'none'"),
        ({"training": TrainingConfig(num_steps=4, deletion="saturated")}, "TrainingConfig.deletion = 'saturated'"),
        ({"training": TrainingConfig(4, "hard", hard_probability=0.5)}, "hard_probability = 0.5: nothing reads it"),
        ({"evaluation": EvaluationConfig()}, "EvaluationConfig.deletions = 'soft'"),
        ({"controller": ControllerConfig(0.5)}, "nothing steers a selector of kind = 'every_kth'"),
        ({"drop_tail": True, "data": dataclasses.replace(DATA, rows="packed")}, "drop_tail: in packed rows a window"),
        ({"stride": 1}, "stride = 1: should be at least 2"),
        ({"stride": LENGTH + 1}, "shortest input length of .* = 12: should be at least .*stride = 13"),
        ({"threshold": -1.0}, "threshold = -1.0: nothing reads it"),
        ({"loss": LossConfig(penalties=(("ratio", 0.1),))}, "names 'ratio': .* 'every_kth' provides none"),
    ],
)
def test_what_pooling_cannot_do_is_refused_in_one_line(change: dict[str, Any], words: str) -> None:
    validate(RUN)
    gate = {name: value for name, value in change.items() if name in ("stride", "threshold", "drop_tail")}
    rest = {name: value for name, value in change.items() if name not in gate}
    assert RUN.model.gate is not None
    model = dataclasses.replace(RUN.model, gate=dataclasses.replace(RUN.model.gate, **gate))
    with pytest.raises(UserError, match=words) as refusal:
        validate(dataclasses.replace(RUN, model=model, **rest))
    assert "\n" not in str(refusal.value)


def test_an_inference_that_cannot_pool_is_refused() -> None:
    config = pooled("segment_mean")
    setting = ForwardSetting(MrT5(config), "soft", Ladder((LENGTH,)))
    with pytest.raises(UserError, match="runs under 'hard' alone"):
        forward(setting, make_params(config), jax.tree.map(jnp.asarray, make_batch()))

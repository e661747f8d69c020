"""Saturated deletion is soft deletion to rounding, and its monitor notices where it is not."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.staged import Part
from mrt5_jax.config import (
    CompactionConfig,
    DataConfig,
    ExecutionConfig,
    LossConfig,
    MonitorConfig,
    RunConfig,
    TrainingConfig,
    TrainingDeletion,
)
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.objectives.controllers import make_controller
from mrt5_jax.selection.protocol import Selection, Signals
from mrt5_jax.selection.step_deletions import step_deletions
from mrt5_jax.selection.survivors import handed_signals, survivors
from mrt5_jax.training.gradients import Setting, loss_and_gradients, objective_of
from mrt5_jax.training.monitor import Checked, is_due, judge, make_check
from mrt5_jax.training.state import MonitorState, TrainState, initial_monitor

from ..model.small import LENGTH, TARGET, by_path, in_double, make_batch, make_config, make_params

GENTLE = 0.3
"""Random parameters are scaled by this, so that attention scores stay small, as in a trained model."""


LADDER = Ladder((6, 10, LENGTH))


def run(deletion: TrainingDeletion, steepness: float, *, double: bool, threshold: float = -20.0) -> Part:
    """The loss and gradients of a batch whose gate is `steepness` times as sure of itself as a random one."""
    config = make_config()
    params = jax.tree.map(lambda leaf: leaf * GENTLE, make_params(config, 2))
    params["encoder"]["gate"]["kernel"] = params["encoder"]["gate"]["kernel"] * steepness / GENTLE
    batch = make_batch(3, (12, 11, 12, 8))
    if double:
        config = in_double(config)
    else:
        params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    setting = Setting(
        MrT5(config),
        LossConfig(z_loss=0.01),
        deletion,
        CompactionConfig(saturation_threshold=threshold),
        LADDER,
    )
    with jax.enable_x64(double):
        batch = jax.tree.map(jnp.asarray, batch)
        objective = objective_of(setting.model.config.gate, setting.loss, jnp.asarray(0.3), batch)
        return jax.device_get(jax.jit(loss_and_gradients, static_argnums=0)(setting, params, batch, objective))


def worst(ours: Part, expected: Part) -> float:
    """Largest relative error of a parameter's gradient (norms)."""
    theirs = by_path(expected.total.gradients)
    errors = [
        np.linalg.norm(array - theirs[path]) / max(np.linalg.norm(theirs[path]), 1e-30)
        for path, array in by_path(ours.total.gradients).items()
    ]
    return float(max(errors))


def test_with_bimodal_gates_loss_and_gradients_are_those_of_soft_deletion() -> None:
    """float32: the loss to 1e-6, every parameter's gradient to 1e-4, though positions are gone."""
    soft, saturated = (run(deletion, 3e3, double=False) for deletion in ("soft", "saturated"))
    assert saturated.rows.rung.max() < LENGTH == soft.rows.rung.max()
    assert saturated.total.loss == pytest.approx(float(soft.total.loss), rel=1e-6)
    assert worst(saturated, soft) < 1e-4
    np.testing.assert_array_equal(saturated.rows.keep, soft.rows.keep)


@pytest.mark.slow
def test_the_error_falls_as_e_to_the_threshold() -> None:
    """float64, gate values of all sizes: each ten of the threshold takes about e^10 off the gradients' error."""
    soft = run("soft", 1.0, double=True)
    thresholds = (-4.0, -8.0, -12.0, -16.0, -20.0)
    errors = [worst(run("saturated", 1.0, double=True, threshold=threshold), soft) for threshold in thresholds]
    assert errors[0] > 1e-6, "there is something to see"
    print(dict(zip(thresholds, errors, strict=True)))
    for threshold, error in zip(thresholds, errors, strict=True):
        assert error < 30 * np.exp(threshold), errors
    assert errors[-1] < 1e-5 * errors[0]


def make_selection(values: Any) -> tuple[Any, Selection]:
    bias = jnp.asarray(values, jnp.float32)
    mask = jnp.ones(bias.shape, bool).at[:, -1].set(False)
    return mask, Selection(bias > -15, None, bias, Signals(key_bias=bias), {}, {})


def test_what_no_attention_can_see_is_removed_and_what_a_closed_row_still_sees_stays() -> None:
    mask, selection = make_selection([[-0.1, -20.2, -19.9, -29.0, 0.0], [-29.5, -28.0, -29.9, -29.9, 0.0]])
    who = survivors(mask, selection, "saturated", saturation_threshold=-20.0)
    np.testing.assert_array_equal(who.keep, [[True, False, True, False, False], [True, True, True, True, False]])
    assert handed_signals(selection, "saturated") == selection.signals, "what stays keeps its gate value"


def test_the_monitor_switches_off_above_the_tolerance_and_on_well_below_it() -> None:
    config = MonitorConfig(interval=3, tolerance=0.1, hysteresis=0.5)

    def after(state: MonitorState, gap: float) -> MonitorState:
        return judge(config, state, jnp.float32(2 + 2 * gap), jnp.float32(2))

    state = after(initial_monitor(), 0.09)
    assert bool(state.saturated)
    assert float(state.gap) == pytest.approx(0.09, rel=1e-4)
    off = after(state, 0.11)
    assert not bool(off.saturated)
    assert not bool(after(off, 0.08).saturated), "within the tolerance, but not yet within the hysteresis"
    assert bool(after(off, -0.04).saturated)
    assert not bool(after(state, float("nan")).saturated)
    assert [step for step in range(1, 9) if is_due(config, step)] == [1, 4, 7]


def compared(*, ladder: Ladder = LADDER, chunks: int = 1, microbatches: int = 1, packed: bool = False) -> list[Checked]:
    """What the monitor finds of a surely deciding gate under a score penalty, with alpha 0 and with a large one.

    All scores are raised alike, which changes no attention weight: so the penalty has something to say.
    """
    config = make_config()
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf * GENTLE, jnp.float32), make_params(config, 2))
    params["encoder"]["gate"]["kernel"] = params["encoder"]["gate"]["kernel"] * 3e3 / GENTLE
    params["encoder"]["relpos_bias"]["rel_embedding"] = params["encoder"]["relpos_bias"]["rel_embedding"] + 6
    batch = make_batch(3, (12, 11, 12, 8))
    if packed:
        for side, tokens in (("encoder", "encoder_input_tokens"), ("decoder", "decoder_target_tokens")):
            size = batch[tokens].shape[1]
            batch[f"{side}_segment_ids"] = np.where(batch[tokens] > 0, 1 + (np.arange(size)[None] >= size // 2), 0)
    run = RunConfig(
        "",
        config,
        DataConfig("", (), LENGTH, TARGET, 4, 4),
        TrainingConfig(num_steps=9, deletion="saturated"),
        loss=LossConfig(score_penalty=5.0, z_loss=0.01),
        execution=ExecutionConfig(chunks=chunks, microbatches=microbatches),
    )
    check = jax.jit(make_check(MrT5(config), run, ladder))
    found = []
    for alpha in (0.0, 0.4):
        controller = make_controller(LossConfig(gate_weight=alpha), None, 1).init()
        state = TrainState(jnp.int32(0), params, (), controller, initial_monitor())
        found.append(jax.device_get(check(state, jax.tree.map(jnp.asarray, batch))))
    return found


@pytest.mark.parametrize(
    "how",
    [
        {},
        pytest.param({"packed": True, "chunks": 2, "microbatches": 2}, marks=pytest.mark.slow),
        pytest.param({"ladder": Ladder((4,), LENGTH)}, marks=pytest.mark.slow),
    ],
    ids=["score penalty", "packed, in parts", "capacity"],
)
def test_what_differs_by_construction_does_not_switch_the_monitor(how: dict[str, Any]) -> None:
    """The score penalty is a mean over other pairs under saturated deletion, and a capacity drops positions: neither
    says that attention sees what was removed. Nor does alpha's term make the difference look larger."""
    plain, steered = compared(**how)
    assert plain.state.monitor.saturated
    assert plain.state.monitor.gap < 1e-6
    assert steered.state.monitor.gap == plain.state.monitor.gap
    assert plain.saturated_loss == pytest.approx(float(plain.soft_loss), rel=1e-6)


def test_steps_are_soft_while_the_monitor_has_switched_saturation_off() -> None:
    run = RunConfig(
        "", make_config(), DataConfig("", (), LENGTH, TARGET, 4, 4), TrainingConfig(num_steps=10, deletion="saturated")
    )
    deletions = step_deletions(run)
    assert set(deletions.all) == {"saturated", "soft"}
    assert {deletions.of_step(step, True) for step in range(50)} == {"saturated"}
    assert {deletions.of_step(step, False) for step in range(50)} == {"soft"}
    mixed = step_deletions(dataclasses.replace(run, training=dataclasses.replace(run.training, hard_probability=0.5)))
    assert {mixed.of_step(step, False) for step in range(50)} == {"soft", "hard"}

"""Languages with controllers of their own, targets that a penalty holds, and targets that are not reached."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import ControllerConfig, DataConfig, GateConfig, LossConfig, RunConfig
from mrt5_jax.errors import UserError
from mrt5_jax.objectives.metrics import deletion_rates
from mrt5_jax.parallel.batches import CONTROLLER_IDS
from mrt5_jax.runs.run_files import read_run
from mrt5_jax.selection.held_targets import with_held_target
from mrt5_jax.selection.learned_gate import DeleteGate
from mrt5_jax.selection.protocol import Penalty
from mrt5_jax.selection.selector_rule import GATE_MEAN, PenaltyRule, count_tokens
from mrt5_jax.selection.selectors import SELECTORS
from mrt5_jax.training.hooks import Every
from mrt5_jax.training.loop import train
from mrt5_jax.training.steering import row_controllers
from mrt5_jax.validation import validate

from .small_runs import STEPS, make_run, metrics_of, same_bits, trained

TWO_SIDED = ControllerConfig(0.5, kind="two_sided", language_targets=(("en", 0.3), ("de", 0.6)))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A task of three languages."""
    from mrt5_jax.tasks.span_corruption import text_task

    folder = tmp_path_factory.mktemp("text")
    for place, language in enumerate(("de", "en", "fr")):
        lines = (f"{language} {number * 7919 % 1000} {chr(97 + place) * 9}\n" for number in range(300))
        (folder / f"{language}.txt").write_text("\n".join(lines))
    return text_task(f"{folder}/*.txt", input_length=16)


def run_of(folder: Path, task: str, controller: ControllerConfig = TWO_SIDED, **changes: Any) -> RunConfig:
    data = DataConfig(task, (task,), 16, 8, batch_size=8, eval_batch_size=4)
    return make_run(folder, task, data=data, loss=LossConfig(), controller=controller, **changes)


def test_languages_are_steered_apart_and_a_resumed_run_is_the_uninterrupted_one(
    text: str, tmp_path: Path, kept_programs: None
) -> None:
    """Byte for byte; a rate and an alpha a language, and one for all others, are in the metrics."""
    whole = trained(run_of(tmp_path / "whole", text))

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    resumed = run_of(tmp_path / "resumed", text)
    with pytest.raises(KeyboardInterrupt):
        train(resumed, hooks=[Every(4, stop)])
    state = train(resumed)
    texts = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "resumed")]
    assert texts[0] == texts[1]
    assert same_bits(state, whole.state)
    last = [line for line in metrics_of(whole.model_dir) if "total_loss" in line][-1]
    assert len({last[f"alpha/{name}"] for name in ("en", "de", "others")}) == 3
    assert {f"deletion_rate/{name}" for name in ("en", "de", "others")} < set(last)
    assert "alpha" not in last
    assert whole.state.controller.alpha.shape == (3,)


def test_rows_are_told_their_controllers_by_language(text: str, tmp_path: Path) -> None:
    add = row_controllers(run_of(tmp_path, text), ("de", "en", "fr"))
    rows = {"language_ids": np.array([0, 1, 2, -1, 1], np.int32)}
    np.testing.assert_array_equal(add(rows)[CONTROLLER_IDS], [1, 0, 2, 2, 0])
    one = run_of(tmp_path, text, ControllerConfig(0.5, kind="two_sided"))
    assert row_controllers(one, ("de", "en", "fr"))(rows) is rows


def test_rates_are_those_of_each_controllers_rows() -> None:
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]], bool)
    keep = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]], bool)
    rates = deletion_rates(jnp.asarray(mask), jnp.asarray(keep), jnp.array([2, 0, 2]), 3)
    np.testing.assert_allclose(rates, [1 / 4, np.nan, 2 / 5])


def test_languages_that_the_task_lacks_are_refused(text: str, task: str, tmp_path: Path) -> None:
    unknown = dataclasses.replace(TWO_SIDED, language_targets=(("enn", 0.3),))
    with pytest.raises(UserError, match=r"has no language 'enn', but de, en, fr.*did you mean en"):
        train(run_of(tmp_path, text, unknown))
    with pytest.raises(UserError, match="have no languages; set it to"):
        train(make_run(tmp_path, task, loss=LossConfig(), controller=TWO_SIDED))
    packed = run_of(tmp_path, text)
    packed = dataclasses.replace(packed, data=dataclasses.replace(packed.data, rows="packed"))
    with pytest.raises(UserError, match="language_targets: a packed row may mix languages"):
        validate(packed)
    assert not list(tmp_path.iterdir())


def test_a_target_that_is_not_reached_is_said_once(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture, kept_programs: None
) -> None:
    """With the step, and the rate that it stays at; a resumed run does not say it again."""
    run = make_run(tmp_path, task, loss=LossConfig(), controller=ControllerConfig(0.99, kind="two_sided"))

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, hooks=[Every(5, stop)])
    train(run)
    said = [line for line in capsys.readouterr().err.splitlines() if "deletion rate" in line and "stays at" in line]
    assert len(said) == 1
    assert f"step {STEPS // 2}: the deletion rate stays at" in said[0]
    assert "its target 99.0%" in said[0]


class HeldGate(DeleteGate):
    """A toy: a quadratic penalty that holds probabilities of deletion at a prior, which is `deletion_probability`."""

    def more_penalties(self, logits: Any, mask: Any, segments: Any) -> dict[str, Penalty]:
        assert self.config.gate is not None
        wrong = jax.nn.sigmoid(-logits) - self.config.gate.deletion_probability
        return {"prior": Penalty(jnp.sum(jnp.where(mask, wrong**2, 0), axis=1), count_tokens(mask, segments))}


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> GateConfig:
    """A gate whose penalty holds a target by itself."""
    learned = SELECTORS["learned"]

    def hold(gate: GateConfig, target: float) -> GateConfig:
        return dataclasses.replace(gate, deletion_probability=target)

    rule = dataclasses.replace(
        learned,
        make=HeldGate,
        reads=(*learned.reads, "deletion_probability"),
        penalties={GATE_MEAN: PenaltyRule(count_tokens, None), "prior": PenaltyRule(count_tokens, "target", hold)},
    )
    monkeypatch.setitem(SELECTORS, "held", rule)
    return GateConfig(layer=1, kind="held")


def held_run(folder: Path, task: str, gate: GateConfig, controller: ControllerConfig) -> RunConfig:
    run = make_run(folder, task, loss=LossConfig(penalties=(("prior", 2.0),)), controller=controller)
    return dataclasses.replace(run, model=dataclasses.replace(run.model, gate=gate))


def test_a_penalty_that_holds_a_target_gets_the_runs(held: GateConfig, task: str, tmp_path: Path) -> None:
    """As its prior, which is also saved; the penalty's weight stays what it is, and alpha 0, whatever is deleted."""
    run = held_run(tmp_path, task, held, ControllerConfig(0.7))
    validate(run)
    train(run)
    saved = read_run(tmp_path)
    assert saved is not None
    assert saved.model == with_held_target(run).model
    assert saved.model.gate == dataclasses.replace(held, deletion_probability=0.7)
    lines = [line for line in metrics_of(tmp_path) if "total_loss" in line]
    for line in lines:
        assert line["alpha"] == 0
        assert line["prior"] > 0
        assert line["total_loss"] == pytest.approx(line["loss"] + 2 * line["prior"], rel=1e-6)


def test_what_a_held_target_does_not_read_is_refused(held: GateConfig, task: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kind = 'two_sided': nothing reads it, since a penalty of the selector holds"):
        validate(held_run(tmp_path, task, held, ControllerConfig(0.7, kind="two_sided")))
    weightless = held_run(tmp_path, task, held, ControllerConfig(0.7))
    with pytest.raises(UserError, match="the selector's penalty 'prior' holds the target, and has no weight"):
        validate(dataclasses.replace(weightless, loss=LossConfig()))

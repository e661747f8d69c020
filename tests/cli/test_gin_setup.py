"""Gin files and flags become one RunConfig, as T5X's users expect."""

import dataclasses
import logging
from pathlib import Path

import pytest

from mrt5_jax.cli import gin_setup
from mrt5_jax.tasks import diagnostics

QUICKSTART = ["runs/quickstart.gin"]


def test_the_saved_text_makes_the_same_run_again() -> None:
    resolved = gin_setup.resolve(QUICKSTART, bindings=["TRAIN_STEPS=7", "config.OptimizerConfig.learning_rate=3e-4"])
    again = gin_setup.resolve(base_text=resolved.config_text)
    assert again == resolved
    assert again.run.training.num_steps == 7


def test_the_saved_text_includes_no_file_and_keeps_the_defaults_of_its_day() -> None:
    text = gin_setup.resolve(QUICKSTART).config_text
    assert "include" not in text
    assert "config.OptimizerConfig.b2 = 0.999" in text


def test_later_files_and_flags_win(tmp_path: Path) -> None:
    (tmp_path / "mine.gin").write_text("SEED = 5\nBATCH_SIZE = 3\n")
    run = gin_setup.resolve([*QUICKSTART, str(tmp_path / "mine.gin")], bindings=["BATCH_SIZE=4"]).run
    assert (run.training.seed, run.data.batch_size) == (5, 4)


def test_a_base_text_comes_first_and_a_file_is_laid_over_it() -> None:
    base = gin_setup.resolve(QUICKSTART)
    run = gin_setup.resolve(["runs/eval.gin"], bindings=["NUM_EXAMPLES=20"], base_text=base.config_text).run
    assert run.evaluation.num_examples == 20
    assert run.model == base.run.model


def test_files_and_their_includes_are_looked_for_here_then_in_the_search_paths_then_among_the_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, seed in ((here, 1), (there, 2)):
        (folder / "parts").mkdir(parents=True)
        (folder / "parts" / "seed.gin").write_text(f"SEED = {seed}\n")
        (folder / "run.gin").write_text("include 'runs/quickstart.gin'\ninclude 'parts/seed.gin'\n")
    monkeypatch.chdir(here)
    assert gin_setup.resolve(["run.gin"], [str(there)]).run.training.seed == 1
    monkeypatch.chdir(tmp_path)
    assert gin_setup.resolve(["run.gin"], [str(there)]).run.training.seed == 2


def test_a_call_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "run.gin").write_text("include 'runs/quickstart.gin'\nSEED = 9\n")
    plain = gin_setup.resolve(QUICKSTART)
    gin_setup.resolve(["run.gin"], [str(tmp_path)], ["TARGET_DELETION_RATE=0.9"])
    assert gin_setup.resolve(QUICKSTART) == plain
    with pytest.raises(gin_setup.UserError, match=r"run\.gin: not found"):
        gin_setup.resolve(["run.gin"])


def test_a_configuration_from_the_time_of_the_kernels_is_read() -> None:
    old = "config.ModelConfig.attention_rows='fused'"
    assert gin_setup.resolve(QUICKSTART, bindings=[old]).run == gin_setup.resolve(QUICKSTART).run


def test_a_file_may_use_a_module_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_schedule.py").write_text(
        "def steps(epochs: int, per_epoch: int = 10) -> int:\n    return epochs * per_epoch\n"
    )
    (tmp_path / "run.gin").write_text(
        "from __gin__ import dynamic_registration\nimport my_schedule\ninclude 'runs/quickstart.gin'\n"
        "TRAIN_STEPS = @my_schedule.steps()\nmy_schedule.steps.epochs = 4\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    resolved = gin_setup.resolve([str(tmp_path / "run.gin")], bindings=["my_schedule.steps.per_epoch=20"])
    assert resolved.run.training.num_steps == 80
    assert gin_setup.resolve(base_text=resolved.config_text) == resolved


def test_a_scope_gives_two_uses_of_one_function_their_own_values(tmp_path: Path) -> None:
    (tmp_path / "run.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom mrt5_jax.tasks import diagnostics\n"
        "include 'runs/quickstart.gin'\n"
        "EVAL_TASKS = (%TRAIN_TASK, @short/diagnostics.diagnostic_task())\n"
        "short/diagnostics.diagnostic_task.length = 48\n"
    )
    resolved = gin_setup.resolve([str(tmp_path / "run.gin")])
    assert resolved.run.data.eval_tasks == (
        resolved.run.data.train_task,
        diagnostics.diagnostic_task("vowel_removal", length=48),
    )
    assert gin_setup.resolve(base_text=resolved.config_text) == resolved


def test_a_binding_that_replaces_the_only_reader_of_a_macro_is_no_mistake() -> None:
    assert gin_setup.resolve(QUICKSTART, bindings=["config.GateConfig.layer=2"]).run.model.gate.layer == 2


def test_a_run_with_a_byt5_laid_over_it_has_no_gate() -> None:
    run = gin_setup.resolve([*QUICKSTART, "models/byt5_tiny.gin"]).run
    assert run.model.gate is None
    assert not run.model.softmax1


def test_a_whole_number_will_do_for_a_float() -> None:
    assert (
        gin_setup.resolve(QUICKSTART, bindings=["config.OptimizerConfig.learning_rate=1"]).run.optimizer.learning_rate
        == 1
    )


def test_reading_files_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Gin's own second file reader complains about every include, and imports packages in passing."""
    with caplog.at_level(logging.WARNING):
        gin_setup.resolve(QUICKSTART)
    assert not caplog.records


def test_run_configs_are_plain_dataclasses() -> None:
    """Not gin's subclasses of them: they are compared, hashed and pickled."""
    run = gin_setup.resolve(QUICKSTART).run
    assert type(run.model) is gin_setup.config.ModelConfig
    assert dataclasses.replace(run) == run

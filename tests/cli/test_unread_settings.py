"""Every setting acts or is refused: bindings and macros that nothing reads, and fields that others leave no effect."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from mrt5_jax import config
from mrt5_jax.cli import gin_setup
from mrt5_jax.cli.quickstart import GIN_FILE, LENGTHS
from mrt5_jax.errors import UserError

HEADER = "from __gin__ import dynamic_registration\nfrom mrt5_jax import config\n"
QUICKSTART = "include 'runs/quickstart.gin'\n"
DIAGNOSTICS = "include 'runs/diagnostics.gin'\n"
BYT5 = (
    "config.ModelConfig.gate=None",
    "config.ModelConfig.softmax1=False",
    "config.RunConfig.controller=None",
    "config.LossConfig.score_penalty=0.0",
)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a gin file whose fourth line is the first after the include."""

    def write(text: str, name: str = "mine.gin") -> str:
        (tmp_path / name).write_text(HEADER + text)
        return str(tmp_path / name)

    return write


def refusal(*arguments: object, **named: object) -> str:
    with pytest.raises(UserError) as error:
        gin_setup.resolve(*arguments, **named).check()  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_part_of_a_run_is_bound_in_the_base_of_all_runs() -> None:
    """So that no file binds a field of a part that the run does not use."""
    run = gin_setup.resolve(["runs/quickstart.gin"], bindings=["config.RunConfig.controller=None"])
    parts = [field.name for field in dataclasses.fields(config.RunConfig) if dataclasses.is_dataclass(field.default)]
    assert "monitor" in parts
    for part in parts:
        assert f"config.RunConfig.{part} = @config." in run.config_text


def test_a_file_sets_the_monitor(write: Callable[..., str]) -> None:
    file = write(QUICKSTART + "config.MonitorConfig.tolerance = 0.25\nconfig.TrainingConfig.deletion = 'saturated'\n")
    resolved = gin_setup.resolve([file])
    resolved.check()
    assert resolved.run.monitor == config.MonitorConfig(tolerance=0.25)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DIAGNOSTICS + "config.ControllerConfig.target_deletion_rate = 0.3\n", ["@config.ControllerConfig()"]),
        (QUICKSTART + "short/config.LossConfig.z_loss = 0.1\n", ["short/config.LossConfig.z_loss"]),
        (QUICKSTART + "# %MINE would be read here\nMINE = 3\n", [":5: MINE: nothing reads this macro"]),
        (QUICKSTART + "MINE = %OTHER\nOTHER = 3\n", ["MINE: nothing reads this macro"]),
        (
            QUICKSTART + "config.TrainingConfig.deletion = 'soft'\nconfig.MonitorConfig.tolerance = 0.25\n",
            [":5: ", "saturated deletion alone reads it"],
        ),
        (QUICKSTART + "config.RunConfig.controller = None\nconfig.ControllerConfig.smoothing = 0.5\n", [":5: "]),
        (
            QUICKSTART + "config.RunConfig.loss = @a/config.LossConfig()\n"
            "a/config.LossConfig.score_penalty = 0.1\na/config.LossConfig.regularizer_delay = 1\n"
            "config.LossConfig.score_penalty = 0.2\n",
            [":7: config.LossConfig.score_penalty: nothing reads this"],
        ),
        (
            QUICKSTART + "config.TrainingConfig.hard_probability = 0.0\nconfig.CompactionConfig.capacity = 0.5\n",
            [":5: ", "no step removes positions"],
        ),
        (QUICKSTART + "config.LossConfig.gate_weight = 0.1\n", ["the controller sets the weight instead"]),
        (QUICKSTART + "config.GateConfig.deletion_probability = 0.1\n", ["'random' or 'fixed' alone reads it"]),
        (QUICKSTART + "config.OptimizerConfig.steps_per_cycle = 7\n", ["no factor cosine_decay"]),
        (QUICKSTART + "config.OptimizerConfig.weight_decay_exclude = ('bias',)\n", ["weight_decay is 0"]),
        (QUICKSTART + "config.EvaluationConfig.seed = 7\n", ["random deletion alone"]),
        (
            QUICKSTART + "config.TrainingConfig.deletion = 'saturated'\nconfig.TrainingConfig.hard_probability = 1.0\n"
            "config.MonitorConfig.tolerance = 0.25\n",
            [":6: ", "saturated deletion alone reads it"],
        ),
        *(
            (
                QUICKSTART + f"config.OptimizerConfig.freeze = ({name!r},)\n"
                "config.OptimizerConfig.gate_learning_rate = 0.1\n",
                [":5: ", "the gate is frozen"],
            )
            for name in ("gate", "encoder/gate", "encoder")
        ),
    ],
)
def test_what_nothing_reads_is_refused_with_its_file_and_line(
    write: Callable[..., str], text: str, words: list[str]
) -> None:
    message = refusal([write(text)])
    place = next((word for word in words if word.startswith(":")), ":4: ")
    for word in (place, *(word for word in words if word != place)):
        assert (f"mine.gin{word}" if word.startswith(":") else word) in message


def test_what_nothing_reads_in_an_included_file_is_refused_at_its_place_there(
    write: Callable[..., str], tmp_path: Path
) -> None:
    write("config.ControllerConfig.smoothing = 0.5\n", "part.gin")
    message = refusal([write(DIAGNOSTICS + "include 'part.gin'\n")], [str(tmp_path)])
    assert message.startswith(f"{tmp_path / 'part.gin'}:3: config.ControllerConfig.smoothing: nothing reads this")


@pytest.mark.parametrize(
    ("later", "lost"),
    [
        ("config.ModelConfig.gate = None\nconfig.RunConfig.controller = None\n", "config.GateConfig"),
        ("config.RunConfig.controller = None\n", "config.ControllerConfig"),
        ("config.GateConfig.layer = 2\n", "GATE_LAYER"),
        ("config.TrainingConfig.deletion = 'hard'\n", "config.TrainingConfig.hard_probability"),
        ("TRAIN_TASK = 'diagnostics.copy'\n", "diagnostics.diagnostic_task"),
    ],
)
def test_what_a_later_binding_switches_off_or_replaces_is_named_in_one_line(
    write: Callable[..., str], later: str, lost: str
) -> None:
    file = write(QUICKSTART + later)
    resolved = gin_setup.resolve([file])
    assert not resolved.complaints
    (note,) = [note for note in resolved.notes if lost in note]
    assert note.startswith(f"{file}:4: ")
    again = gin_setup.resolve(base_text=resolved.config_text)
    assert again.run == resolved.run


def test_a_switched_off_field_has_its_default_and_the_saved_text_says_so() -> None:
    resolved = gin_setup.resolve(["runs/quickstart.gin"], bindings=["config.TrainingConfig.deletion='hard'"])
    assert resolved.run.training.hard_probability == 0
    assert "config.TrainingConfig.hard_probability = 0.0" in resolved.config_text


def test_a_gate_switched_off_before_its_settings_is_a_mistake(write: Callable[..., str]) -> None:
    text = QUICKSTART + "config.ModelConfig.gate = None\nconfig.RunConfig.controller = None\nGATE_LAYER = 2\n"
    assert "mine.gin:6: GATE_LAYER: nothing reads this macro" in refusal([write(text)])


def test_what_one_file_sets_twice_is_named_in_one_line(write: Callable[..., str]) -> None:
    file = write(QUICKSTART + "SEED = 3\nSEED = 4\n")
    resolved = gin_setup.resolve([file])
    assert resolved.run.training.seed == 4
    assert resolved.notes == (f"{file}:4: has no effect, since {file}:5 sets SEED again",)


def test_a_file_that_is_included_twice_repeats_nothing(write: Callable[..., str]) -> None:
    assert gin_setup.resolve([write(QUICKSTART + "include 'models/mrt5_tiny.gin'\n")]).notes == ()


@pytest.mark.parametrize("bindings", [(), LENGTHS, BYT5])
def test_the_quickstarts_run_resolves_with_and_without_a_gate(bindings: tuple[str, ...]) -> None:
    resolved = gin_setup.resolve([GIN_FILE], bindings=bindings)
    resolved.check()
    assert len(resolved.notes) == len([binding for binding in bindings if binding.endswith("=None")])


def test_saved_settings_without_effect_are_named_and_not_refused() -> None:
    """They were accepted when the run began; the model must stay readable."""
    text = gin_setup.resolve(["runs/quickstart.gin"]).config_text
    saved = text.replace("config.LossConfig.gate_weight = 0.0", "config.LossConfig.gate_weight = 0.5")
    assert saved != text
    resolved = gin_setup.resolve(base_text=saved)
    resolved.check()
    assert resolved.run.loss.gate_weight == 0
    assert ["config.LossConfig.gate_weight" in note for note in resolved.notes] == [True]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["config.GateConfig.kind='random'"], ["kind = 'random'", "set it to None"]),
        (["config.GateConfig.kind='fixed'"], ["kind = 'fixed'"]),
        (["config.GateConfig.kind='fixed'", "config.RunConfig.controller=None"], ["regularizer_delay"]),
        (
            [
                "config.GateConfig.kind='random'",
                "config.RunConfig.controller=None",
                "config.LossConfig.regularizer_delay=0",
                "config.OptimizerConfig.gate_learning_rate=1e-3",
            ],
            ["gate_learning_rate"],
        ),
        (
            [
                "config.GateConfig.kind='random'",
                "config.RunConfig.controller=None",
                "config.LossConfig.regularizer_delay=0",
                "config.GateConfig.gumbel_noise=True",
            ],
            ["gumbel_noise"],
        ),
        (
            [
                "config.GateConfig.kind='fixed'",
                "config.RunConfig.controller=None",
                "config.LossConfig.regularizer_delay=0",
                "config.GateConfig.threshold=-10.0",
            ],
            ["threshold = -10.0", "a selector of kind 'learned'"],
        ),
    ],
)
def test_what_steers_a_selector_that_nothing_steers_is_refused(flags: list[str], words: list[str]) -> None:
    message = refusal(["runs/quickstart.gin"], bindings=flags)
    for word in words:
        assert word in message


def test_a_gate_weight_over_a_selector_that_nothing_steers_is_refused() -> None:
    message = refusal(["runs/diagnostics.gin"], bindings=["MODEL_DIR='m'", "config.GateConfig.kind='random'"])
    assert "gate_weight = 0.001" in message

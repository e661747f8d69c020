"""Mistakes in gin files and flags: one line that names the thing and what would be right; nothing is overwritten."""

import sys
from pathlib import Path

import pytest

from mrt5_jax.cli import gin_setup
from mrt5_jax.cli.main import main
from mrt5_jax.runs.run_files import claim


@pytest.fixture
def train(refused, tmp_path: Path):
    """Runs `mrt5 train` on a MODEL_DIR that holds something already; returns the complaint."""

    def run(*flags: str, gin_file: str = "runs/quickstart.gin") -> str:
        return refused("train", f"--gin_file={gin_file}", f"--gin.MODEL_DIR='{tmp_path / 'model'}'", *flags)

    return run


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("TARGET_DELETION_RAT=0.2", ["TARGET_DELETION_RAT=0.2", "nothing reads", "did you mean TARGET_DELETION_RATE?"]),
        ("learning_rate=0.2", ["did you mean config.OptimizerConfig.learning_rate?"]),
        ("config.GateConfig.leyer=2", ["config.GateConfig.leyer", "did you mean config.GateConfig.layer?"]),
        ("config.GateConfg.layer=2", ["config.GateConfg.layer", "did you mean config.GateConfig.layer?"]),
        ("GateConfig.layer=2", ["did you mean config.GateConfig.layer?"]),
        ("TRAIN_TASK=@diagnostics.diagnostic_tsk()", ["did you mean diagnostics.diagnostic_task?"]),
        ("BATCH_SIZE=%BATCH_SIZ", ["there is no macro BATCH_SIZ", "did you mean BATCH_SIZE?"]),
        ("BATCH_SIZE=%EVAL_BATCH_SIZE", ["defined by itself"]),
        ("SEED=1.5", ["config.TrainingConfig.seed = 1.5", "should be int"]),
        ("SEED=True", ["config.TrainingConfig.seed = True", "should be int"]),
        ("TARGET_DELETION_RATE='half'", ["config.ControllerConfig.target_deletion_rate = 'half'", "should be float"]),
        ("config.ModelConfig.softmax1=1", ["config.ModelConfig.softmax1 = 1", "should be bool"]),
        ("config.ModelConfig.dtype='float8'", ["should be 'float32' or 'bfloat16' or 'float64'"]),
        ("diagnostics.diagnostic_task.kind='vowels'", ["diagnostics.diagnostic_task.kind", "'vowel_removal'"]),
        ("config.RunConfig.data=@config.LossConfig()", ["config.RunConfig.data", "should be DataConfig"]),
        ("BATCH_SIZE=%gin.REQUIRED", ["BATCH_SIZE needs a value", "--gin.BATCH_SIZE="]),
        ("TRAIN_TASK=vowels", ["not in gin's syntax", "--gin.TRAIN_TASK=\"'vowels'\""]),
        ("TRAIN_TASK", ["--gin.NAME=VALUE"]),
        ("config.ModelConfig.emb_dim=%gin.REQUIRED", ["config.ModelConfig.emb_dim needs a value"]),
        ("GATE_LAYER=3", ["config.GateConfig.layer = 3", "less than num_encoder_layers=3"]),
        ("GATE_LAYER=0", ["config.GateConfig.layer = 0", "at least 1"]),
        ("config.TrainingConfig.deletion='sofd'", ["should be 'none' or 'soft' or 'hard' or 'saturated' or 'auto'"]),
        ("config.ExecutionConfig.chunks='many'", ["chunks = 'many'", "should be int or 'auto'"]),
        ("config.ExecutionConfig.chunks=128", ["should be a multiple of microbatches=1 times chunks=128"]),
        ("config.ExecutionConfig.chunks=3", ["should be a multiple of microbatches=1 times chunks=3"]),
        ("BATCH_SIZE=0", ["batch_size = 0", "greater than 0"]),
        ("TRAIN_TASK='diagnostics.vowel_remval'", ["diagnostics.vowel_remval", "diagnostics.vowel_removal"]),
    ],
)
def test_a_flag_that_cannot_be_meant_is_refused(train, flag: str, words: list[str]) -> None:
    message = train(f"--gin.{flag}")
    for word in words:
        assert word in message


def test_a_flag_without_effect_is_refused(train) -> None:
    message = train("--gin.config.ControllerConfig.target_deletion_rate=0.3", "--gin.config.RunConfig.controller=None")
    assert "--gin.config.ControllerConfig.target_deletion_rate=0.3: changes nothing" in message


def test_deletion_that_does_not_go_with_a_gate_or_a_capacity_is_refused(train) -> None:
    """The recipe leaves deletion to itself."""
    soft = train("--gin.config.TrainingConfig.hard_probability=0.0", "--gin.config.CompactionConfig.capacity=0.5")
    assert "config.CompactionConfig.capacity = 0.5: nothing reads it, since no step removes positions" in soft
    weak = ["--gin.config.GateConfig.scale=-10.0", "--gin.config.GateConfig.threshold=-5.0"]
    message = train("--gin.config.TrainingConfig.deletion='saturated'", *weak)
    assert "config.GateConfig.scale = -10.0: gate values never fall below it" in message


@pytest.mark.parametrize("run", ["quickstart", "pretrain_text", "continued_pretraining", "diagnostics"])
def test_what_a_run_requires_is_named_with_the_flag_that_gives_it(refused, run: str) -> None:
    needed = {"quickstart": "TRAIN_STEPS"}.get(run, "MODEL_DIR")
    message = refused("train", f"--gin_file=runs/{run}.gin", "--gin.TRAIN_STEPS=%gin.REQUIRED")
    assert message == f"{needed} needs a value: --gin.{needed}=..."


def test_text_files_have_to_be_given(train) -> None:
    assert "TEXT_FILES needs a value: --gin.TEXT_FILES=" in train(gin_file="runs/pretrain_text.gin")


def test_text_files_that_match_nothing_are_refused(train, tmp_path: Path) -> None:
    message = train(f"--gin.TEXT_FILES='{tmp_path}/*.txt'", gin_file="runs/pretrain_text.gin")
    assert f"{tmp_path}/*.txt" in message


def test_empty_text_files_are_refused(train, tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_text("")
    message = train(f"--gin.TEXT_FILES='{tmp_path}/*.txt'", gin_file="runs/pretrain_text.gin")
    assert "en.txt" in message or f"{tmp_path}/*.txt" in message


def test_a_length_too_short_for_span_corruption_is_refused(train, tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_text("some words in a row\n" * 1000)
    flags = [f"--gin.TEXT_FILES='{tmp_path}/*.txt'", "--gin.INPUT_LENGTH=4"]
    assert "4" in train(*flags, gin_file="runs/pretrain_text.gin")


def test_a_gin_file_that_is_not_there_is_refused_with_the_nearest_and_where_it_was_looked_for(
    train, tmp_path: Path
) -> None:
    message = train(f"--gin_search_paths={tmp_path}", gin_file="runs/quikstart.gin")
    assert "--gin_file=runs/quikstart.gin: not found; did you mean runs/quickstart.gin?" in message
    assert f"{tmp_path}/runs/quikstart.gin" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\nSEED = = 3\n", [":2: ", "parse"]),
        ("SEED = (3\n", [":1: " if sys.version_info >= (3, 12) else ":2: ", "EOF"]),  # the end, as tokenize sees it
        ("config.GateConfig:\n    layer = 1\n  scale = -1.0\n", [":3: ", "unindent"]),
        ("include 'runs/nowhere.gin'\n", [":1: ", "includes runs/nowhere.gin, which is not in the working directory"]),
        ("import nowhere\n", [":1: ", "nowhere"]),
        (
            "from __gin__ import dynamic_registration\nfrom mrt5_jax import config\nconfig.GateConfig:\n  leyer = 3\n",
            [":4: ", "config.GateConfig.leyer", "did you mean config.GateConfig.layer?"],
        ),
        ("include 'runs/quickstart.gin'\nGATE_LAYR = 2\n", ["GATE_LAYR", "did you mean GATE_LAYER?"]),
        ("SEED = 3\n", ["SEED: nothing reads this macro"]),
    ],
)
def test_a_mistake_in_a_gin_file_is_named_with_file_and_line(
    refused, tmp_path: Path, text: str, words: list[str]
) -> None:
    path = tmp_path / "mine.gin"
    path.write_text(text)
    message = refused("train", f"--gin_file={path}")
    for word in words:
        assert word.replace(":", f"{path}:", 1) in message if word.startswith(":") else word in message


def test_a_value_of_another_type_is_refused_where_a_function_returned_it(
    refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_tasks.py").write_text("def number():\n    return 3\n")
    (tmp_path / "mine.gin").write_text(
        "from __gin__ import dynamic_registration\nimport my_tasks\ninclude 'runs/quickstart.gin'\n"
        "TRAIN_TASK = @my_tasks.number()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    message = refused("train", f"--gin_file={tmp_path / 'mine.gin'}")
    assert message == "config.DataConfig.train_task = 3: should be str"


def test_a_model_dir_of_another_configuration_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_dir = tmp_path / "theirs"
    flags = [f"MODEL_DIR='{model_dir}'", "config.OptimizerConfig.learning_rate=0.5"]
    theirs = gin_setup.resolve(["runs/quickstart.gin"], bindings=flags)
    claim(theirs.run, theirs.config_text)
    before = {path: path.read_bytes() for path in model_dir.rglob("*")}
    assert main(["train", "--gin_file=runs/quickstart.gin", f"--gin.{flags[0]}"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("mrt5: ")
    assert message.count("\n") == 1
    assert str(model_dir) in message
    assert "optimizer.learning_rate 0.5 -> " in message
    assert {path: path.read_bytes() for path in before} == before

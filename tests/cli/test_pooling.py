"""What a model that pools cannot do is refused when a command starts, in one line, and nothing is written."""

from pathlib import Path

import pytest

from mrt5_jax.cli.main import main
from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.runs.model_dir import write_model_config

TRAIN = ["train", "--gin_file=runs/quickstart.gin", "--gin_file=models/canine_t5.gin", "--gin.POOLING_LAYER=1"]
POOLED = ModelConfig(8, 2, 4, 8, 2, 1, gate=GateConfig(1, "every_kth", stride=4))


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        (["config.TrainingConfig.deletion='soft'"], "deletion = 'soft': a model that pools trains under 'hard' alone"),
        (["config.TrainingConfig.deletion='saturated'"], "deletion = 'saturated': a model that pools"),
        (["config.EvaluationConfig.deletions=('hard', 'soft')"], "EvaluationConfig.deletions = 'soft'"),
        (["config.EvaluationConfig.deletions=('hard', 'random')"], "EvaluationConfig.deletions = 'random'"),
        (
            ["config.TrainingConfig.deletion='auto'", "config.TrainingConfig.hard_probability=0.2"],
            "hard_probability: all steps of a model that pools delete by 'hard' alone; set it to 0.0",
        ),
        (["STRIDE=1"], "stride = 1: should be at least 2"),
        (["STRIDE=33"], "= 32: should be at least config.GateConfig.stride = 33"),
        (["config.GateConfig.drop_tail=True", "config.DataConfig.rows='packed'"], "drop_tail: in packed rows a window"),
        (["config.LossConfig.penalties=(('ratio', 0.03),)"], "penalties names 'ratio'"),
    ],
)
def test_training_is_refused(
    bindings: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_dir = tmp_path / "model"
    assert main([*TRAIN, f"--gin.MODEL_DIR='{model_dir}'", *(f"--gin.{binding}" for binding in bindings)]) == 2
    refusal = capsys.readouterr().err.splitlines()[-1]
    assert words in refusal
    assert refusal.startswith("mrt5: config.") or "the shortest input length of config.DataConfig" in refusal
    assert not model_dir.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--deletion=soft"], "deletion = 'soft': a model that pools positions runs under 'hard' alone"),
        (["--input_length=3"], "input_length = 3: should be at least config.GateConfig.stride = 4"),
    ],
)
def test_inference_is_refused(flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model_config(tmp_path / "model", POOLED)
    (tmp_path / "requests.jsonl").write_text('{"inputs": "a", "targets": "b"}\n')
    files = [f"--{name}={tmp_path / path}" for name, path in (("model_dir", "model"), ("input", "requests.jsonl"))]
    assert main(["infer", *files, f"--output={tmp_path / 'answers.jsonl'}", "--mode=score", *flags]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "answers.jsonl").exists()

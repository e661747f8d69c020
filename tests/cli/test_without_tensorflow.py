"""Own text, files of pairs and diagnostic strings take neither TensorFlow nor seqio: nothing tries to import them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..witnesses.comparison import OURS, copy_of, json_lines

CHILD = Path(__file__).parent / "without_tensorflow.py"
SMALL = {"emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 16, "num_encoder_layers": 2, "num_decoder_layers": 1}


def run(commands: list[list[str]], path: Path) -> tuple[dict[str, Any], str]:
    """What the child says of its commands, and what it writes to standard error."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, str(CHILD), json.dumps(commands)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1]), found.stderr


def test_everything_but_their_own_tasks_works_without_tensorflow_and_seqio(tmp_path: Path) -> None:
    """Training where they are installed: it does not look for them. The rest where they are not."""
    (tmp_path / "en.txt").write_text("".join(f"line {number} of the text\n" for number in range(300)))
    (tmp_path / "in.jsonl").write_text('{"inputs": "some text", "targets": "text"}\n')
    (tmp_path / "theirs.py").write_text("import seqio\n")
    (tmp_path / "theirs.gin").write_text("from __gin__ import dynamic_registration\nimport theirs\n")
    model = tmp_path / "model"
    small = [f"--gin.config.ModelConfig.{name}={value}" for name, value in SMALL.items()]
    small += ["--gin.config.ExecutionConfig.max_rungs=1", "--gin.config.OptimizerConfig.warmup_steps=0"]
    small += ["--gin.config.TrainingConfig.hard_probability=0.0", "--gin.config.EvaluationConfig.deletions=('hard',)"]
    small += ["--gin.TRAIN_STEPS=1", "--gin.BATCH_SIZE=4", "--gin.INPUT_LENGTH=64"]
    commands = [
        [
            "train",
            "--gin_file=runs/pretrain_text.gin",
            f"--gin.TEXT_FILES='{tmp_path}/en.txt'",
            f"--gin.MODEL_DIR='{model}'",
            *small,
        ],
        ["eval", f"--model_dir={model}", "--num_examples=4"],
        [
            "infer",
            f"--model_dir={model}",
            f"--input={tmp_path}/in.jsonl",
            f"--output={tmp_path}/out.jsonl",
            "--mode=score",
        ],
        ["convert", "hf-export", str(model), str(tmp_path / "exported")],
        ["data", "show", "diagnostics.merge_abc"],
        ["data", "list", "xnli"],
        ["data", "show", "xnli.en"],
        ["data", "show", f"--gin_file={tmp_path}/theirs.gin"],
    ]
    result, errors = run(commands, tmp_path)
    assert result["codes"] == [0, 0, 0, 0, 0, 0, 2, 2], errors
    assert result["imports"][:6] == result["loaded"][:6] == [[]] * 6
    *_, dataset, module = errors.splitlines()
    assert dataset.startswith("mrt5: the dataset multi_nli:1.1.0 takes tensorflow, which cannot be imported here")
    assert module.endswith("imports seqio, which is not installed here: pip install seqio")


@pytest.mark.slow
def test_a_run_that_was_begun_with_tensorflow_goes_on_without_it_over_the_same_strings(tmp_path: Path) -> None:
    """Strings with patterns planted, for which normal numbers are drawn."""
    model = copy_of(OURS / "saturated_packed", tmp_path / "model")
    train = ["train", f"--gin_file={model}/config.gin", f"--gin.MODEL_DIR={str(model)!r}"]
    result, errors = run([["data", "list", "xnli"], train], tmp_path)
    assert (result["codes"], result["imports"]) == ([0, 0], [[], []]), errors
    expected = json_lines(OURS / "expected/saturated_packed/metrics.jsonl")
    for line, found in zip(expected, json_lines(model / "metrics.jsonl"), strict=True):
        if "loss" in line:
            assert found["loss"] == pytest.approx(line["loss"], rel=2e-5), line["step"]

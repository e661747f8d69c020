"""The fine-tuning runs train, evaluate and start from another run's parameters, with small models and data."""

import json
import re
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from mrt5_jax.cli.main import main

from ..tasks.tfds_fixtures import fixture

SIZES = {"emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 16, "num_encoder_layers": 4, "num_decoder_layers": 1}
SMALL = [
    *(f"--gin.config.ModelConfig.{name}={value}" for name, value in SIZES.items()),
    "--gin.config.ExecutionConfig.max_rungs=1",
    "--gin.config.OptimizerConfig.warmup_steps=0",
    *("--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=4", "--gin.INPUT_LENGTH=64", "--gin.TARGET_LENGTH=16"),
    "--gin.LENGTH_BUCKETS=(32, 64)",
]


@pytest.fixture
def tsv(tmp_path: Path) -> list[str]:
    for split in ("train", "validation"):
        rows = [f"some txet {number} of {split}\tsome text {number} of {split}\n" for number in range(8)]
        (tmp_path / f"{split}.tsv").write_text("".join(rows))
    files = {"TRAIN_FILES": "train.tsv", "VALIDATION_FILES": "validation.tsv"}
    return ["--gin.TASK_NAME='spelling'", *(f"--gin.{name}='{tmp_path}/{file}'" for name, file in files.items())]


def train(run: str, model_dir: Path, *flags: str) -> list[dict]:
    """The lines of metrics.jsonl."""
    assert main(["train", f"--gin_file=runs/{run}.gin", f"--gin.MODEL_DIR='{model_dir}'", *SMALL, *flags]) == 0
    return [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_fine_tuning_runs_from_another_models_parameters(
    tsv: list[str], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert train("finetune_tsv", tmp_path / "first", *tsv)
    warm_start = f"--gin.WARM_START='{tmp_path / 'first'}'"
    with tfds.testing.mock_data(as_dataset_fn=fixture):
        assert train("finetune_xnli", tmp_path / "xnli", warm_start)
        assert train("finetune_qa", tmp_path / "qa", warm_start)
        assert train("finetune_qa", tmp_path / "xquad", warm_start, "--gin.TRAIN_TASK='xquad'")
    restored = re.findall(r"^token_embedder/embedding +restored$", capfd.readouterr().err, re.M)
    assert len(restored) == 3

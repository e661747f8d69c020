"""MODEL_DIRs as training leaves them, of random models and a small diagnostic task; nothing is trained."""

from pathlib import Path
from typing import Any

from mrt5_jax.cli import gin_setup
from mrt5_jax.runs.checkpoints import save_model
from mrt5_jax.runs.run_files import claim

from ..inference.models import random_params

SIZES = {"emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 16, "num_encoder_layers": 2, "num_decoder_layers": 1}
NUM_TEST = 10


def make_model_dir(path: Path, *bindings: str) -> Path:
    """Vowel removal on strings of 12 ids, of which there are ten unseen ones; batches of 4 at one rung."""
    resolved = gin_setup.resolve(
        ["runs/quickstart.gin"],
        bindings=[
            f"MODEL_DIR={str(path)!r}",
            *("INPUT_LENGTH=12", "TARGET_LENGTH=12", "BATCH_SIZE=4"),
            f"diagnostics.diagnostic_task.num_test={NUM_TEST}",
            "config.ExecutionConfig.max_rungs=1",
            *(f"config.ModelConfig.{name}={value}" for name, value in SIZES.items()),
            *bindings,
        ],
    )
    claim(resolved.run, resolved.config_text)
    save_model(path, random_params(resolved.run.model), resolved.run.model)
    return path


def contents(path: Path) -> dict[Path, Any]:
    """What lies in a folder, to compare before and after."""
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def commands(model_dir: Path, tmp_path: Path) -> dict[str, list[str]]:
    """What reads a MODEL_DIR, by command; written anew, requests and answers lie beside it."""
    requests = tmp_path / "in.jsonl"
    requests.write_text('{"inputs": "#a", "targets": "#a"}\n')
    return {
        "train": ["train", f"--gin_file={model_dir / 'config.gin'}", f"--gin.MODEL_DIR={str(model_dir)!r}"],
        "eval": ["eval", f"--model_dir={model_dir}"],
        "infer": ["infer", f"--model_dir={model_dir}", f"--input={requests}", f"--output={tmp_path / 'out.jsonl'}"],
        "inspect": ["inspect", f"--model_dir={model_dir}", "--text=#a"],
    }

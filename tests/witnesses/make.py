"""Makes the MODEL_DIRs of tests/witnesses/model_dirs anew, and what is expected of them.

    python -m tests.witnesses.make [NAME ...]

Run it by hand, and only when what it makes may change: see README.md.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .comparison import DELETIONS, OURS, STEP, json_lines

STEPS = 20
KEPT = ("config.gin", "run_config.json", "model_config.json", f"checkpoints/{STEP}")
SAME_FOR_ALL = {
    "BATCH_SIZE": 8,
    "TRAIN_STEPS": STEPS,
    "config.CheckpointConfig.every": STEP,
    "config.ExecutionConfig.log_every": 1,
    "config.TrainingConfig.eval_batches": 1,
    "config.TrainingConfig.eval_every": 100,
    "config.OptimizerConfig.schedule": "'constant'",
    "config.OptimizerConfig.warmup_steps": 0,
    "config.GateConfig.bias_init": 1.0,
    "config.LossConfig.regularizer_delay": 0,
    "config.ModelConfig.emb_dim": 16,
    "config.ModelConfig.num_heads": 2,
    "config.ModelConfig.head_dim": 8,
    "config.ModelConfig.mlp_dim": 32,
    "config.ModelConfig.num_encoder_layers": 3,
    "config.ModelConfig.num_decoder_layers": 2,
    "config.ModelConfig.scan_unroll": 1,
}
RUNS = {
    # In-graph dispatch; evaluated on shorter inputs, which have a length bucket of their own.
    "soft_and_hard": {
        "INPUT_LENGTH": 20,
        "TARGET_LENGTH": 20,
        "LENGTH_BUCKETS": (18, 20),
        "EVAL_TASKS": "(@short/diagnostics.diagnostic_task(),)",
        "short/diagnostics.diagnostic_task.kind": "'vowel_removal'",
        "short/diagnostics.diagnostic_task.length": 18,
        "DROPOUT_RATE": 0.1,
        "TARGET_DELETION_RATE": 0.3,
        "SEED": 1,
        "config.TrainingConfig.hard_probability": 0.3,
        "config.GateConfig.gumbel_noise": True,
        "config.LossConfig.z_loss": 1e-4,
        "config.LossConfig.score_penalty": 0.5,
        "config.OptimizerConfig.weight_decay": 0.01,
        "config.OptimizerConfig.gate_learning_rate": 0.01,
        "config.ExecutionConfig.rungs": (15,),
        "config.ExecutionConfig.inference_dispatch": "'in_graph'",
        "config.EvaluationConfig.deletions": DELETIONS,
    },
    # Host dispatch of packed rows in chunks and microbatches, compared with soft deletion at step 12.
    "saturated_packed": {
        "INPUT_LENGTH": 24,
        "TARGET_LENGTH": 24,
        "diagnostics.diagnostic_task.kind": "'merge_abc'",
        "diagnostics.diagnostic_task.length": 8,
        "DROPOUT_RATE": 0.1,
        "TARGET_DELETION_RATE": 0.5,
        "SEED": 1,
        "config.DataConfig.rows": "'packed'",
        "config.TrainingConfig.deletion": "'saturated'",
        "config.TrainingConfig.hard_probability": 0.0,
        "config.TrainingConfig.microbatches": 2,
        "config.RunConfig.monitor": "@config.MonitorConfig()",
        "config.MonitorConfig.interval": 12,
        "config.OptimizerConfig.gate_learning_rate": 0.006,
        "config.ExecutionConfig.rungs": (18,),
        "config.ExecutionConfig.dispatch": "'host'",
        "config.ExecutionConfig.chunks": 2,
        "config.EvaluationConfig.deletions": ("hard",),  # each takes seconds to compile
    },
}

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    # The tests' optimisation (tests/conftest.py): at another, results differ in their last digits.
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "CXX": "no-compiler",
}


def main() -> None:
    for name in sys.argv[1:] or RUNS:
        with tempfile.TemporaryDirectory() as scratch:
            make(name, Path(scratch))


def make(name: str, scratch: Path) -> None:
    """Trains to the end, evaluates at the checkpoint, and keeps what a run would have had at the checkpoint."""
    made = scratch / "runs" / name
    bindings = {"MODEL_DIR": repr(f"runs/{name}")} | SAME_FOR_ALL | RUNS[name]
    run(
        scratch, "train", "--gin_file=runs/quickstart.gin", *(f"--gin.{key}={value}" for key, value in bindings.items())
    )
    flags = [f"--model_dir=runs/{name}", f"--step={STEP}", "--num_examples=64"]
    run(scratch, "eval", *flags)
    (summary,) = made.glob("eval/*/summary.json")
    model_dir, expected = OURS / name, OURS / "expected" / name
    for folder in (model_dir, expected):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    shutil.copy(made / "metrics.jsonl", expected / "metrics.jsonl")
    shutil.copy(summary, expected / "evaluation.json")
    for kept in KEPT:
        (shutil.copytree if (made / kept).is_dir() else shutil.copy)(made / kept, model_dir / kept)
    for file in model_dir.rglob("commit_success.txt"):  # which names the scratch folder
        file.write_text(file.read_text(encoding="utf-8").partition(" to ")[0], encoding="utf-8")
    lines = (made / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    before = [
        line for line, numbers in zip(lines, json_lines(made / "metrics.jsonl"), strict=True) if numbers["step"] <= STEP
    ]
    (model_dir / "metrics.jsonl").write_text("".join(before), encoding="utf-8")
    print(f"{name}: {sum(path.stat().st_size for path in model_dir.rglob('*') if path.is_file()):,} bytes")


def run(folder: Path, *words: str) -> None:
    environment = {**os.environ, **ENVIRONMENT}
    subprocess.run([sys.executable, "-m", "mrt5_jax", *words], cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    main()

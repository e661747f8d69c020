"""The wheel alone is enough: commands, tasks and gin files, from any working directory."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel, built from a copy of the checkout, has been unpacked by pip.

    Requirements are those of the running Python: downloading them again would take minutes and prove nothing new.
    """
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("mrt5_jax", "tasks", "gin_configs"):
        shutil.copytree(repository / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    run = [sys.executable, "-m"]
    subprocess.run([*run, "build", "--wheel", "--no-isolation", "--outdir", source / "dist", source], check=True)
    (wheel,) = (source / "dist").glob("mrt5_jax-*.whl")
    subprocess.run([*run, "pip", "install", "--quiet", "--no-deps", "--target", target, wheel], check=True)
    return target


def run(installed: Path, *command: str) -> str:
    """Runs a command of the wheel's from the root folder."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_wheel_holds_every_module_task_and_gin_file(repository: Path, installed: Path) -> None:
    expected = {path.relative_to(repository) for path in (repository / "mrt5_jax").rglob("*.py")}
    for folder in ("tasks", "gin_configs"):
        files = [*(repository / folder).rglob("*.py"), *(repository / folder).rglob("*.gin")]
        expected |= {Path("mrt5_jax") / path.relative_to(repository) for path in files}
    found = {path.relative_to(installed) for path in installed.rglob("*") if path.suffix in (".py", ".gin")}
    assert found == expected
    assert not (installed / "tasks").exists()


def test_quickstart_trains_from_the_root_folder(installed: Path, tmp_path: Path) -> None:
    where = run(installed, sys.executable, "-c", "import mrt5_jax.tasks; print(mrt5_jax.tasks.__file__)")
    assert Path(where.strip()).is_relative_to(installed)
    flags = [f"--gin.MODEL_DIR='{tmp_path / 'model'}'", "--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=2"]
    schedule = ["--gin.config.OptimizerConfig.warmup_steps=0", "--gin.config.ExecutionConfig.log_every=1"]
    run(installed, str(installed / "bin" / "mrt5"), "train", "--gin_file=runs/quickstart.gin", *flags, *schedule)
    lines = (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2

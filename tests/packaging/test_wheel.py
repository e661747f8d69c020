"""The wheel alone is enough: commands, tasks and gin files, from any working directory."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., str]
HELD = (".py", ".gin", ".html", ".json", ".safetensors")


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment into which pip has installed the wheel, built from a copy of the checkout, and nothing else.

    Requirements are those of the running Python: downloading them again would take minutes and prove nothing new.
    Appended folders' own .pth files are not read, so an editable install of the checkout lends it no module.
    """
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("mrt5_jax", "tasks", "gin_configs"):
        shutil.copytree(repository / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    run = [sys.executable, "-m"]
    build = [*run, "build", "--wheel", "--no-isolation", "--outdir", source / "dist", source]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([*run, "venv", "--without-pip", target], check=True)
    (wheel,) = (source / "dist").glob("mrt5_jax-*.whl")
    install = [*run, "pip", "--python", target / "bin" / "python", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, wheel], check=True)
    (packages,) = target.glob("lib/python*/site-packages")
    lent = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "lent.pth").write_text("".join(f"import sys; sys.path.append({path!r})\n" for path in lent))
    return target


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs the wheel's `mrt5`, or its Python, from an empty folder."""

    def run_there(program: str, *arguments: str) -> str:
        elsewhere = tmp_path / "empty"
        elsewhere.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(installed / "bin" / program), *arguments]
        process = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return process.stdout

    return run_there


def test_the_wheel_holds_every_module_task_and_file_of_data(repository: Path, installed: Path) -> None:
    """Gin files, the page of the server, the toy."""

    def held(folder: Path) -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob("*") if path.suffix in HELD}

    expected = {Path("mrt5_jax") / path for path in held(repository / "mrt5_jax")}
    for folder in ("tasks", "gin_configs"):
        expected |= {Path("mrt5_jax", folder) / path for path in held(repository / folder)}
    (packages,) = installed.glob("lib/python*/site-packages")
    assert {Path("mrt5_jax") / path for path in held(packages / "mrt5_jax")} == expected
    others = {path.relative_to(packages).parts[0] for path in packages.rglob("*.py")}
    assert others - {"pip"} == {"mrt5_jax"}


def test_the_toy_answers_from_an_empty_folder(run: Run) -> None:
    """From the wheel's own files."""
    shown = run("mrt5", "inspect", "--model_dir=toy", "--text=#HelloWorld").splitlines()
    assert shown[0] == "#HelloWorld</s>"
    assert [place for place, mark in enumerate(shown[1]) if mark == "x"] == [2, 5, 7]


def test_the_command_resolves_a_configuration_from_an_empty_folder(run: Run, tmp_path: Path) -> None:
    assert "quickstart" in run("mrt5", "--help")
    flags = ["--gin_file=runs/quickstart.gin", "--gin.BATCH_SIZE=2", "--dry_run"]
    assert "\nBATCH_SIZE = 2\n" in run("mrt5", "train", *flags)
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.slow
def test_quickstart_trains_from_an_empty_folder(installed: Path, run: Run, tmp_path: Path) -> None:
    where = run("python", "-c", "import mrt5_jax.tasks; print(mrt5_jax.tasks.__file__)")
    assert Path(where.strip()).is_relative_to(installed)
    flags = [f"--gin.MODEL_DIR='{tmp_path / 'model'}'", "--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=2"]
    schedule = ["--gin.config.OptimizerConfig.warmup_steps=0", "--gin.config.ExecutionConfig.log_every=1"]
    run("mrt5", "train", "--gin_file=runs/quickstart.gin", *flags, *schedule)
    lines = (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2

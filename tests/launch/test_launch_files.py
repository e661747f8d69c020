"""Launch files are well formed, and name what exists: files, flags, macros, packages. Nothing is launched."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mrt5_jax.cli import gin_setup
from mrt5_jax.cli.main import main

SCRIPTS = ("tpu_vm.sh", "gke_xpk.sh", "slurm.sbatch")
SBATCH_OPTIONS = {
    "job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal", "requeue", "open-mode",
    "output",
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_sound(repository: Path, name: str) -> None:
    script = repository / "launch" / name
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if shellcheck is None:
        pytest.skip("needs shellcheck (the dev extra installs it)")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_show_their_variables_on_top_and_stop_at_errors(repository: Path, name: str) -> None:
    lines = (repository / "launch" / name).read_text().splitlines()
    code = [line for line in lines if line and not line.startswith("#")]
    assert re.match(r"set -e?uo pipefail", code[0])
    variables = [line for line in code if line.startswith(': "${')]
    assert code[1 : 1 + len(variables)] == variables
    assert len(variables) >= 4


@pytest.mark.parametrize("name", [*SCRIPTS, "skypilot.yaml"])
def test_what_they_train_is_a_run(repository: Path, name: str, capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    """Flags exist, and the gin files take the macros and bindings."""
    text = (repository / "launch" / name).read_text().replace("\\\n", " ").replace('\\"', '"')
    (words,) = (shlex.split(match[1]) for match in re.finditer(r"mrt5 train (.*?\$WARM_START'\")", text))
    main(["train", "--help"])
    known = capsys.readouterr().out
    flags = [word for word in words if word.startswith("--") and not word.startswith("--gin.")]
    assert "--cluster" in flags
    assert all(flag.split("=")[0] in known for flag in flags)
    (tmp_path / "en.txt").write_text("some words in a row\n" * 100)
    values = {"$TEXT_FILES": f"{tmp_path}/*.txt", "$MODEL_DIR": str(tmp_path / "model"), "$WARM_START": str(tmp_path)}
    bindings = [word.removeprefix("--gin.") for word in words if word.startswith("--gin.")]
    for variable, value in values.items():
        bindings = [binding.replace(variable, value) for binding in bindings]
    run = gin_setup.resolve(["runs/continued_pretraining.gin"], bindings=bindings).run
    assert (run.model_dir, run.warm_start) == (values["$MODEL_DIR"], values["$WARM_START"])


def test_slurm_directives_stand_before_all_commands_and_fit_each_other(repository: Path) -> None:
    lines = (repository / "launch" / "slurm.sbatch").read_text().splitlines()
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [(number, line) for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert all(number < first_command for number, _ in directives)
    options = {}
    for _, line in directives:
        (option,) = shlex.split(line.removeprefix("#SBATCH"))
        name, _, value = option.removeprefix("--").partition("=")
        options[name] = value
    assert set(options) <= SBATCH_OPTIONS
    assert options["ntasks-per-node"] == options["gpus-per-node"], "one process a GPU"
    assert re.fullmatch(r"TERM@\d+", options["signal"]), "SIGTERM to the tasks, in time"
    assert re.fullmatch(r"\d+:\d\d:\d\d", options["time"])


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.serve"])
def test_dockerfiles_copy_what_exists_and_install_what_is_pinned(repository: Path, name: str) -> None:
    text = (repository / "launch" / name).read_text().replace("\\\n", " ")
    steps = [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line and not line.startswith("#")]
    assert steps[0][0] == "FROM"
    known = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "CMD"}
    assert {keyword for keyword, _ in steps} <= known
    assert re.fullmatch(r"python:3\.\d+[\w.-]*", steps[0][1])
    copied = set()
    for keyword, rest in steps:
        if keyword == "COPY":
            *sources, _ = rest.split()
            assert all((repository / source).exists() for source in sources), rest
            copied.update(sources)
        if keyword == "RUN":
            subprocess.run(["bash", "-n", "-c", rest], check=True)
            assert "pip install" not in rest or "--constraint constraints.txt" in rest
        if keyword == "CMD":
            assert json.loads(rest)[0] == "mrt5"
    assert {"mrt5_jax", "tasks", "gin_configs", "pyproject.toml", "setup.py", "constraints.txt"} <= copied


def test_the_guide_names_every_launch_file(repository: Path) -> None:
    guide = (repository / "docs" / "LAUNCH.md").read_text()
    for path in (repository / "launch").iterdir():
        if path.is_file():
            assert f"launch/{path.name}" in guide

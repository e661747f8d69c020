"""The project's files agree with each other and with the code."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

PYTHONS = ("3.11", "3.12", "3.13")
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def declared(project) -> dict[str, list[Requirement]]:
    """Requirements by extra; "" are those of every user."""
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in extras.items()}


def holds(requirement: Requirement, python: str, extra: str = "") -> bool:
    """Whether it is a requirement at all under this Python, with this extra."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": extra}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def pins_of(repository: Path, python: str) -> dict[str, str]:
    """Name -> version."""
    lines = (repository / "constraints.txt").read_text().splitlines()
    pins = {}
    for requirement in (Requirement(line) for line in lines if line and not line.startswith("#")):
        if holds(requirement, python):
            (exact,) = requirement.specifier
            assert exact.operator == "=="
            assert pins.setdefault(canonicalize_name(requirement.name), exact.version) == exact.version, "pinned twice"
    return pins


def test_supported_pythons_are_the_same_everywhere(repository: Path, project) -> None:
    label = "Programming Language :: Python :: 3."
    classified = [line.removeprefix(label) for line in project["classifiers"] if line.startswith(label)]
    assert [f"3.{minor}" for minor in classified] == list(PYTHONS)
    supported = SpecifierSet(project["requires-python"])
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}.1" in supported] == list(PYTHONS)
    in_makefile = re.search(r"for name in \S+ (.*?) python3; do", (repository / "Makefile").read_text())
    assert in_makefile
    assert in_makefile[1].split() == [f"python{version}" for version in reversed(PYTHONS)]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_pinned_and_the_pin_satisfies_it(repository: Path, declared, python: str) -> None:
    pins = pins_of(repository, python)
    for requirement in (requirement for requirements in declared.values() for requirement in requirements):
        if holds(requirement, python):
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_what_the_requirements_require_is_pinned_too(repository: Path, declared) -> None:
    """So that next year's install is today's; and by versions that go together, or there is none."""
    pins, missing, unfit, seen = pins_of(repository, RUNNING), set(), set(), set()
    platforms = ("tpu", "cuda12", "cuda13")  # whose libraries follow from jax's pin
    installed = (requirements for extra, requirements in declared.items() if extra not in platforms)
    direct = [requirement for requirements in installed for requirement in requirements if holds(requirement, RUNNING)]
    wanted = [(requirement.name, extra) for requirement in direct for extra in ("", *requirement.extras)]
    while wanted:
        name, extra = wanted.pop()
        if (canonicalize_name(name), extra) in seen:
            continue
        seen.add((canonicalize_name(name), extra))
        if canonicalize_name(name) not in pins:
            missing.add(name)
            continue
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if holds(requirement, RUNNING, extra):
                pin = pins.get(canonicalize_name(requirement.name))
                if pin and not requirement.specifier.contains(pin, prereleases=True):
                    unfit.add(f"{name} requires {requirement}, not {pin}")
                wanted += [(requirement.name, ""), *((requirement.name, inner) for inner in requirement.extras)]
    assert not missing
    assert not unfit


def test_what_the_code_imports_is_required(repository: Path, declared) -> None:
    """Code runs on what it requires; others' weight formats, buckets, charts and serving alone may ask for an extra."""
    distributions = importlib.metadata.packages_distributions()
    names = {canonicalize_name(requirement.name) for requirement in declared[""]}
    files = [*(repository / "mrt5_jax").rglob("*.py"), *(repository / "tasks").rglob("*.py")]
    undeclared = {}
    for file in files:
        for module in imported_packages(file) - sys.stdlib_module_names - {"mrt5_jax"}:
            if not names.intersection(map(canonicalize_name, distributions.get(module, []))):
                undeclared.setdefault(module, []).append(str(file.relative_to(repository)))
    assert undeclared.pop("libtpu", []) in ([], ["mrt5_jax/tools/topology.py"])
    for module in ("gcsfs", "s3fs"):
        assert undeclared.pop(module) == ["mrt5_jax/runs/bucket_clients.py"]
    assert undeclared.pop("huggingface_hub") == ["mrt5_jax/interop/hub.py"]
    assert undeclared.pop("matplotlib") == ["mrt5_jax/report/drawing.py"]
    for module in ("prometheus_client", "starlette", "uvicorn"):
        assert all(file.startswith("mrt5_jax/serve/") for file in undeclared.pop(module))
    assert set(undeclared) <= {"torch", "transformers"}, undeclared
    assert all("/interop/" in file for files in undeclared.values() for file in files), undeclared


def test_what_jax_keeps_its_cache_with_is_required(declared) -> None:
    """Without filelock, which JAX does not require, a cache of limited size is neither read nor written."""
    assert "filelock" in {requirement.name for requirement in declared[""]}


def imported_packages(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_tasks_and_gin_files_are_found_from_anywhere() -> None:
    """In an editable install as well, where they lie outside the package's folder."""
    script = (
        "import importlib.util, importlib.resources;"
        "print(importlib.util.find_spec('mrt5_jax.tasks.diagnostics').origin);"
        "print(importlib.resources.files('mrt5_jax.gin_configs') / 'runs' / 'quickstart.gin')"
    )
    process = subprocess.run([sys.executable, "-c", script], cwd="/", capture_output=True, text=True, check=True)
    for line in process.stdout.splitlines():
        assert Path(line).is_file()


def test_make_help_lists_every_target(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert targets
    command = ["make", "--no-print-directory", "help"]  # these tests may themselves run below make
    listed = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in listed.splitlines()} == set(targets[1].split())


def test_workflows_run_what_there_is_on_every_supported_python(repository: Path) -> None:
    yaml = pytest.importorskip("yaml")
    makefile = (repository / "Makefile").read_text()
    workflows = {path.stem: yaml.safe_load(path.read_text()) for path in (repository / ".github/workflows").iterdir()}
    assert workflows.keys() == {"test", "release"}
    jobs = {f"{name}/{job}": body for name, flow in workflows.items() for job, body in flow["jobs"].items()}
    for job in ("test/test", "release/try"):
        assert jobs[job]["strategy"]["matrix"]["python"] == list(PYTHONS)
    assert jobs.pop("release/test") == {"uses": "./.github/workflows/test.yml"}
    assert set(jobs["release/publish"]["needs"]) == {"test", "try"}
    commands = [step["run"] for body in jobs.values() for step in body["steps"] if "run" in step]
    targets = re.findall(r"\bmake ([\w-]+)", "\n".join(commands))
    assert {"lint", "test", "wheel"} == set(targets)
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize(("failing", "passes"), [("nothing", True), ("lint", False), ("test", False)])
def test_continuous_integration_is_two_commands_of_a_contributor(
    repository: Path, tmp_path: Path, failing: str, passes: bool
) -> None:
    """`make lint` and `make test`, after an installation; it fails where either does."""
    script = repository / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    (tmp_path / ".ci").mkdir()
    copy = shutil.copy(script, tmp_path / ".ci")
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$1"\ntest "$1" != {failing}\n')
    make.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([copy], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == passes, done.stderr
    if passes:
        assert {"lint", "test"} <= set(done.stdout.split()) <= {"install", "lint", "test"}

"""The project's files agree with each other and with the code."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def declared(repository: Path) -> dict[str, list[Requirement]]:
    """Requirements by extra; "" are those of every user."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in extras.items()}


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, Requirement]:
    lines = (repository / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def test_every_requirement_is_pinned_and_the_pin_satisfies_it(declared, pins) -> None:
    for requirement in (requirement for requirements in declared.values() for requirement in requirements):
        pin = pins[canonicalize_name(requirement.name)]
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version)


def test_what_the_requirements_require_is_pinned_too(declared, pins) -> None:
    """So that next year's install is today's."""
    missing, seen = set(), set()
    installed = (requirements for extra, requirements in declared.items() if extra != "tpu")  # which requires nothing
    wanted = [(requirement.name, "") for requirements in installed for requirement in requirements]
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
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                wanted += [(requirement.name, ""), *((requirement.name, inner) for inner in requirement.extras)]
    assert not missing


def test_what_the_code_imports_is_required(repository: Path, declared) -> None:
    """Runtime code runs on the runtime's requirements; only the weight formats of others may ask for an extra."""
    distributions = importlib.metadata.packages_distributions()
    names = {canonicalize_name(requirement.name) for requirement in declared[""]}
    files = [*(repository / "mrt5_jax").rglob("*.py"), *(repository / "tasks").rglob("*.py")]
    undeclared = {}
    for file in files:
        for module in imported_packages(file) - sys.stdlib_module_names - {"mrt5_jax"}:
            if not names.intersection(map(canonicalize_name, distributions.get(module, []))):
                undeclared.setdefault(module, []).append(str(file.relative_to(repository)))
    assert undeclared.pop("libtpu", []) in ([], ["mrt5_jax/analysis/topology.py"])
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


def test_continuous_integration_runs_make_test(repository: Path) -> None:
    script = repository / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make test\n" in script.read_text()

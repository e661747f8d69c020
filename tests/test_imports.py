"""Imports point one way: the command line knows everything, the configuration knows nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LAYERS = [
    {
        "config",
        "errors",
        "host_memory",
        "user_cache",
        "kernels",
        "randomness",
        "moved_names",
        "spelling",
    },
    {
        "layers",
        "attention",
        "attention_block",
        "position_bias",
        "dropout",
        "selection",
        "compaction",
        "objectives",
        "validation",
        "unread_settings",
        "pairs",
    },
    {"training", "runs", "parallel", "evaluation", "inference", "interop", "tools"},
    {"cli", "__main__"},
]
"""From the ground up; a part may import from its own layer and from those before it."""


def imported_modules(file: Path) -> Iterator[str]:
    """Full names of whatever a file imports, inside functions too; `from a import b` counts as a and a.b."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write absolute imports, as everywhere"
            yield from (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))


def part(module: str) -> str:
    """compaction for mrt5_jax.compaction.plan; empty for the package itself and for what is not ours."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "mrt5_jax" else ""


def sources(repository: Path) -> dict[str, list[Path]]:
    """The files of every part of the package."""
    found: dict[str, list[Path]] = {}
    for file in sorted((repository / "mrt5_jax").rglob("*.py")):
        relative = file.relative_to(repository / "mrt5_jax")
        if relative.as_posix() != "__init__.py":
            found.setdefault(relative.parts[0].removesuffix(".py"), []).append(file)
    return found


def test_every_part_of_the_package_has_its_layer(repository: Path) -> None:
    assert set(sources(repository)) <= set.union(*LAYERS) | {"data"}


def test_no_part_imports_from_a_layer_above_it(repository: Path) -> None:
    height = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    wrong = []
    for name, files in sources(repository).items():
        if name == "data":
            continue
        for file in files:
            for module in imported_modules(file):
                if height.get(part(module), 0) > height[name]:
                    wrong.append(f"{file.relative_to(repository)} imports {module}")
    assert not wrong


def test_only_the_command_line_knows_gin(repository: Path) -> None:
    below = [file for name, files in sources(repository).items() if name != "cli" for file in files]
    assert not importers_of("gin", [*below, *(repository / "tasks").glob("*.py")])


def test_the_pure_parts_know_no_flax(repository: Path) -> None:
    parts = sources(repository)
    assert not importers_of("flax", parts["compaction"] + parts["objectives"])


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("tasks", {"data", "runs", "tasks", "errors"}),
        ("mrt5_jax/data", {"data", "runs", "config", "errors", "user_cache"}),
    ],
)
def test_data_and_tasks_know_no_model(repository: Path, folder: str, allowed: set[str]) -> None:
    wrong = [
        f"{file.name} imports {module}"
        for file in (repository / folder).glob("*.py")
        for module in imported_modules(file)
        if part(module) not in {"", *allowed}
    ]
    assert not wrong


def importers_of(library: str, files: list[Path]) -> list[str]:
    return [
        str(file) for file in files if any(module.partition(".")[0] == library for module in imported_modules(file))
    ]

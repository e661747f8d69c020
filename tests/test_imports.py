"""Imports point one way: the command line knows everything, the configuration knows nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from .counting import circles, double_functions, double_names, imports, modules

LAYERS = [
    {
        "compilation_cache",
        "config",
        "errors",
        "host_memory",
        "moved_names",
        "presets",
        "randomness",
        "spelling",
        "user_cache",
    },
    {"runs.bucket_clients", "runs.buckets", "runs.file_status", "runs.files"},
    {"kernels", "selection.deletions", "selection.protocol"},
    {"compaction"},
    {"objectives"},
    {"data", "tasks"},
    {"model.dropout", "model.layers", "model.multiply_adds", "model.precision"},
    {"selection", "pairs", "unread_settings", "validation"},
    {"model"},
    {"parallel"},
    {"runs"},
    {"evaluation", "inference", "interop", "toy"},
    {"training"},
    {"tools"},
    {"api"},
    {"report", "serve"},
    {"cli", "toy.make", "__main__"},
]
"""From the ground up; a part may import from its own layer and from those before it. A module that is named stands
where it is named, and not where its room does."""


def height(module: str) -> int | None:
    """The layer of a module of ours, given by its full name; None for what has none. The package itself names what the
    front door has, and so stands with the command line."""
    if module == "mrt5_jax":
        return len(LAYERS) - 1
    name = module.removeprefix("mrt5_jax.")
    heights = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    return heights.get(".".join(name.split(".")[:2]), heights.get(name.split(".")[0]))


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


def test_every_part_of_the_package_has_its_layer() -> None:
    assert [module for module in modules() if module != "mrt5_jax" and height(module) is None] == []


def test_no_part_imports_from_a_layer_above_it() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, found in imports(modules()).items()
        for other in found
        if (height(other) or 0) > (height(module) or 0)
    ]
    assert not wrong


def test_no_modules_import_each_other() -> None:
    """Neither directly nor around a corner, and not within functions either."""
    assert circles(imports(modules())) == []


def test_a_circle_within_functions_is_found() -> None:
    hidden = {
        "a": ast.parse("def f():\n    from b import g"),
        "b": ast.parse("import c"),
        "c": ast.parse("from a import f"),
        "d": ast.parse("import a"),
    }
    assert circles(imports(hidden)) == [["a", "b", "c"]]


def test_a_name_of_a_type_a_constant_or_a_function_is_defined_once() -> None:
    trees = modules()
    assert double_names(trees) | double_functions(trees) == {}


def test_names_that_are_defined_twice_are_found() -> None:
    trees = {
        "a": ast.parse("class Batch: ...\nLIMIT: int = 1\n_own = 1\ndef read(): ...\ndef run(): ..."),
        "b": ast.parse("Batch = dict\nLIMIT = 2\n_own = 2\ndef read(): ...\ndef run(): ..."),
        "c": ast.parse("from a import Batch, read\nclass Other:\n    LIMIT = 3\n    def read(self): ..."),
    }
    assert double_names(trees) == {"Batch": ["a", "b"], "LIMIT": ["a", "b"]}
    assert double_functions(trees) == {"read": ["a", "b"]}


def test_only_the_command_line_knows_gin(repository: Path) -> None:
    below = [file for name, files in sources(repository).items() if name != "cli" for file in files]
    assert not importers_of("gin", [*below, *(repository / "tasks").glob("*.py")])


def test_the_pure_parts_know_no_flax(repository: Path) -> None:
    parts = sources(repository)
    protocol = [file for file in parts["selection"] if file.name == "protocol.py"]
    assert protocol
    assert not importers_of("flax", parts["compaction"] + parts["objectives"] + protocol)


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

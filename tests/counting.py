"""Counts what makes a package hard to read: carriers, untyped values, names with two meanings, long files, circles.

    python -m tests.counting

Circles and names that are defined in more than one place fail a test (tests/test_imports.py); the rest is printed.
"""

import ast
import collections
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = "mrt5_jax"
TYPED_ROOMS = ("model", "compaction", "training", "evaluation", "inference")
"""Rooms whose `Any` are counted."""
LONGEST = 350
"""Lines of a file."""
ENTRY_POINTS = {"main", "run", "add_arguments"}
"""What every subcommand of the command line defines, and is called by its module."""
FRONT_DOOR = f"{PACKAGE}.api."
"""Modules whose names are those that users know, whatever the rooms behind them call theirs."""
_VERBS = r"(See|Returns|Yields|Says|Notes|Marks)\b"
_NOUN_PHRASE = re.compile(
    rf"(?!{_VERBS})(`|\w*[^s\W]\b|(As|This|Its|Always|Across)\b|\w+s,? (of|that|and|which|are|is)\b)"
)
"""A beginning without a verb in the third person ("Returns ..."); nouns in the plural are told by what follows them."""


def modules(repository: Path = REPOSITORY) -> dict[str, ast.Module]:
    """Full name of every module of the package -> its syntax tree."""
    trees = {}
    for folder, package in ((PACKAGE, PACKAGE), ("tasks", f"{PACKAGE}.tasks")):
        for file in sorted((repository / folder).rglob("*.py")):
            parts = file.relative_to(repository / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            trees[name] = ast.parse(file.read_text(encoding="utf-8"))
    return trees


def imports(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Module -> the package's modules that it imports, inside functions too."""
    found = {}
    for name, tree in trees.items():
        wanted: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= {module if module in trees else node.module or "" for module in full}
        found[name] = {module for module in wanted if module in trees and module != name}
    return found


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules each of which imports all others, directly or not."""
    reachable = {name: _reachable(graph, name) for name in graph}
    groups = {
        tuple(sorted(other for other in reachable[name] if name in reachable[other]))
        for name in graph
        if name in reachable[name]
    }
    return [list(group) for group in sorted(groups)]


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for module in graph[waiting.pop()] - seen:
            seen.add(module)
            waiting.append(module)
    return seen


def double_names(trees: Mapping[str, ast.Module]) -> dict[str, list[str]]:
    """Public names of types and constants that more than one module defines -> those modules."""
    places: dict[str, list[str]] = {}
    for module, tree in _behind_the_front_door(trees):
        for name in set(_defined(tree)):
            places.setdefault(name, []).append(module)
    return {name: found for name, found in sorted(places.items()) if len(found) > 1}


def _behind_the_front_door(trees: Mapping[str, ast.Module]) -> list[tuple[str, ast.Module]]:
    return [(module, tree) for module, tree in trees.items() if not module.startswith(FRONT_DOOR)]


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def double_functions(trees: Mapping[str, ast.Module]) -> dict[str, list[str]]:
    """Public functions that more than one module defines -> those modules; entry points of subcommands apart."""
    places: dict[str, list[str]] = {}
    for module, tree in _behind_the_front_door(trees):
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name not in ENTRY_POINTS:
                places.setdefault(node.name, []).append(module)
    return {name: found for name, found in sorted(places.items()) if len(found) > 1}


def named_tuples(trees: Mapping[str, ast.Module]) -> list[str]:
    """Full names of the package's NamedTuples, private ones included."""
    return [
        f"{module}.{node.name}"
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(_name(base) == "NamedTuple" for base in node.bases)
    ]


def noun_phrases(trees: Mapping[str, ast.Module]) -> list[str]:
    """Public functions and methods whose docstring begins with a noun where it should say what they do."""
    return [
        f"{module}.{function.name}"
        for module, tree in trees.items()
        for scope in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef)))
        for function in scope.body
        if isinstance(function, ast.FunctionDef) and not function.name.startswith("_") and not _is_property(function)
        if _NOUN_PHRASE.match(ast.get_docstring(function) or "See")
    ]


def _is_property(function: ast.FunctionDef) -> bool:
    return any(_name(decorator) in ("property", "cached_property") for decorator in function.decorator_list)


def untyped(trees: Mapping[str, ast.Module]) -> dict[str, int]:
    """Module of a typed room -> how often it writes Any, `object` as an annotation, or a name that stands for one."""
    aliases = {"Any"}
    while more := {alias for tree in trees.values() for alias in _aliases(tree, aliases)} - aliases:
        aliases |= more
    counts = {}
    for module, tree in trees.items():
        if module.split(".")[1:2] and module.split(".")[1] in TYPED_ROOMS:
            total = sum(isinstance(node, ast.Name) and node.id in aliases for node in ast.walk(tree))
            total += sum(_name(part) == "object" for note in _annotations(tree) for part in ast.walk(note))
            counts[module] = total
    return counts


def _aliases(tree: ast.Module, of: set[str]) -> Iterator[str]:
    """Names of a module that are bound to nothing but Any, or to object."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and _name(node.value) in {*of, "object"}:
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and node.value and _name(node.value) in {*of, "object"}:
            yield from ([node.target.id] if isinstance(node.target, ast.Name) else [])
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.asname for alias in node.names if alias.asname and alias.name in of)


def _annotations(tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef) and node.returns:
            yield node.returns


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def long_files(repository: Path = REPOSITORY) -> dict[str, int]:
    """Python files of more than LONGEST lines -> their lines."""
    lines = {
        file.relative_to(repository).as_posix(): len(file.read_text(encoding="utf-8").splitlines())
        for folder in (PACKAGE, "tasks", "tests", "benchmarks")
        for file in sorted((repository / folder).rglob("*.py"))
    }
    return {name: number for name, number in lines.items() if number > LONGEST}


def num_lines(folder: str, repository: Path = REPOSITORY) -> int:
    """Of all Python files of a folder."""
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in (repository / folder).rglob("*.py"))


def main() -> None:
    trees = modules()
    any_counts, found = untyped(trees), circles(imports(trees))
    print(f"lines: {PACKAGE} {num_lines(PACKAGE)}, tests {num_lines('tests')}")
    print(f"NamedTuples: {len(named_tuples(trees))}")
    by_room = {
        room: sum(count for module, count in any_counts.items() if module.split(".")[1] == room) for room in TYPED_ROOMS
    }
    print(f"Any: {sum(any_counts.values())} ({', '.join(f'{room} {count}' for room, count in by_room.items())})")
    doubles, functions = double_names(trees), double_functions(trees)
    print(f"types and constants that are defined in more than one place: {len(doubles)}")
    for name, places in doubles.items():
        print(f"    {name}: {', '.join(places)}")
    print(f"functions that are: {len(functions)}")
    for name, places in functions.items():
        print(f"    {name}: {', '.join(places)}")
    verbless = noun_phrases(trees)
    rooms = collections.Counter(name.split(".")[1] for name in verbless)
    print(f"public functions whose first sentence begins without a verb: {len(verbless)} {dict(rooms) or ''}")
    print(f"files above {LONGEST} lines: {len(long_files())}")
    for name, number in long_files().items():
        print(f"    {name}: {number}")
    print(f"circles of imports: {len(found)}")
    for circle in found:
        print(f"    {' '.join(circle)}")


if __name__ == "__main__":
    main()

"""What ARCHITECTURE.md and docs/compiling.md name is there."""

import re
from pathlib import Path

import pytest

_PATH = re.compile(r"[\w/.]+\.py|(?:[a-z_]+/)+")


def found(repository: Path, path: str) -> Path | None:
    """The file or folder of the repository whose path ends so."""
    for start in (repository / "mrt5_jax", repository):
        if (start / path).exists():
            return start / path
    folders = ("mrt5_jax", "tasks", "gin_configs", "tests")
    return next((file for folder in folders for file in sorted((repository / folder).rglob(path))), None)


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "docs/compiling.md"])
def test_every_file_that_a_document_names_exists(document: str, repository: Path) -> None:
    text = (repository / document).read_text(encoding="utf-8")
    paths = {name for name in re.findall(r"`([^`\n]+)`", text) if _PATH.fullmatch(name)}
    assert len(paths) > 4
    assert {path for path in paths if found(repository, path) is None} == set()


def test_every_answer_names_what_is_in_its_files(repository: Path) -> None:
    """Functions and classes of the table of questions."""
    text = (repository / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text[text.index("## Where what is") : text.index("## Words")]
    answers = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]
    for answer in answers:
        named = re.findall(r"`([^`]+)`", answer)
        files = [found(repository, name) for name in named if _PATH.fullmatch(name)]
        content = "".join(file.read_text(encoding="utf-8") for file in files if file and file.is_file())
        for name in named:
            if re.fullmatch(r"[A-Za-z_]+", name) and content:
                assert re.search(rf"\b{name}\b", content), f"{name} is not in the files of: {answer}"

"""What a task's files are, in words for people and as a record for MODEL_DIR."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from mrt5_jax.data.text_files import SourceFile
from mrt5_jax.errors import UserError

_MOST_NAMED = 3
_MOST_LANGUAGES = 12


def name_files(files: Sequence[SourceFile]) -> str:
    """Names the first few paths of the files, and says how many more there are."""
    paths = list(dict.fromkeys(str(file.path) for file in files))
    more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
    return f"{', '.join(paths[:_MOST_NAMED])}{more}"


def count_documents(files: Sequence[SourceFile]) -> str:
    """Says how much the files hold, as in `3 documents, 1,234 bytes`."""
    documents = sum(file.index.num_documents for file in files)
    return f"{_count(documents, 'document')}, {_count(sum(file.index.num_bytes for file in files), 'byte')}"


def describe_files(files: Sequence[SourceFile]) -> list[str]:
    """Returns lines that say what was understood: of every split its languages, files, formats and documents.

    A file that several tasks read is told of once.
    """
    files = list({(file.split, file.language, str(file.path)): file for file in files}.values())
    lines = []
    for split, in_split in _groups(files, "split").items():
        by_language = _groups(in_split, "language")
        parts = [_describe(language, own) for language, own in by_language.items()]
        more = [f"{len(parts) - _MOST_LANGUAGES} more languages"] if len(parts) > _MOST_LANGUAGES else []
        languages = f"{_count(len(parts), 'language')}, " if all(by_language) else ""
        total = f"{languages}{_count(len(in_split), 'file')}, {count_documents(in_split)}"
        lines.append(f"{split} data: {total}: {'; '.join(parts[:_MOST_LANGUAGES] + more)}")
    if files and all(file.split == "train" for file in files):
        lines.append("validation data: the last part of each language, held out")
    return lines


def _describe(language: str, files: Sequence[SourceFile]) -> str:
    """Of the files of one language."""
    formats = ", ".join(dict.fromkeys(str(file.index.format) for file in files))
    which = files[0].path.name if len(files) == 1 else _count(len(files), "file")
    name = f"{language}: " if language else ""
    return f"{name}{which} of {formats}, {_count(sum(file.index.num_documents for file in files), 'document')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _groups(files: Sequence[SourceFile], field: str) -> dict[str, list[SourceFile]]:
    groups: dict[str, list[SourceFile]] = {}
    for file in files:
        groups.setdefault(getattr(file, field), []).append(file)
    return groups


def record_of(files: Sequence[SourceFile]) -> list[dict[str, Any]]:
    """Returns, for JSON, the files that a run was begun with: their content and where they lay."""
    return [
        {
            "split": file.split,
            "language": file.language,
            "path": str(file.path.absolute()),
            "bytes": file.index.num_bytes,
            "documents": file.index.num_documents,
            "sha256": file.index.sha256,
        }
        for file in files
    ]


def check_same_files(saved: Sequence[Mapping[str, Any]], files: Sequence[SourceFile], place: str) -> None:
    """Refuses to go on with other content than what a run was begun with; the same content may lie elsewhere.

    Raises:
        UserError: names a file that differs.
    """
    now = record_of(files)
    for before, after in itertools.zip_longest(saved, now):
        if before is None or after is None or any(before[key] != after[key] for key in ("split", "language", "sha256")):
            break
    else:
        return
    contents = {file["sha256"] for file in now}
    began = {file["sha256"]: file for file in saved}
    of_name = {(file["split"], _name(file)): file for file in now}
    remedy = f"({place} says so): give the run the files that it had, or another MODEL_DIR"
    for file in saved:
        other = of_name.get((file["split"], _name(file)))
        if file["sha256"] in contents:
            continue
        if other is not None and other["sha256"] not in began:
            raise UserError(f"{other['path']}: its content is not what the run was begun with {remedy}")
        raise UserError(
            f"{file['path']}: among the files that the run was begun with, and not among those now {remedy}"
        )
    for file in now:
        if file["sha256"] not in began:
            raise UserError(f"{file['path']}: not among the files that the run was begun with {remedy}")
    raise UserError(
        f"{name_files(files)}: in another order, or of other languages, than when the run was begun {remedy}"
    )


def _name(file: Mapping[str, Any]) -> str:
    return file["path"].rpartition("/")[2]

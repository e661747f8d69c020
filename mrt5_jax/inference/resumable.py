"""A file of lines that a killed process goes on with, without repeating or losing one."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from mrt5_jax.errors import InUseError, UserError
from mrt5_jax.inference.parts import Parts, count_lines
from mrt5_jax.runs.bucket_lock import bucket_lock
from mrt5_jax.runs.buckets import BucketPath
from mrt5_jax.runs.files import (
    STANDARD_INPUT,
    AnyPath,
    FilePath,
    as_path,
    exists,
    explain,
    explained,
    files_for,
    read_bytes,
)
from mrt5_jax.runs.model_dir import write_atomically

INFER = "mrt5 infer"
"""The command whose lines are answers to a user's own requests."""

_MADE_BY = "made_by"
_BLOCK = 1 << 20


class ResumableLines:
    """An open file that ends with a whole line; `num_lines` counts its lines."""

    def __init__(self, file: BinaryIO, num_lines: int) -> None:
        self._file = file
        self.num_lines = num_lines

    def append(self, lines: list[str]) -> None:
        """Returns when the lines, which have no ends, are on disk.

        Raises:
          UserError: the disk does not take them.
        """
        with _explained(self._file.name):
            self._file.write("".join(f"{line}\n" for line in lines).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        self.num_lines += len(lines)


def check_output(path: AnyPath) -> None:
    """Refuses an OUTPUT that nothing can go on with.

    Raises:
      UserError: it is a folder, a pipe or a device.
    """
    if str(path) == STANDARD_INPUT:
        raise UserError("-: standard output, where a stopped run could not go on: give a file as --output")
    with explained(path), contextlib.suppress(FileNotFoundError):
        kind = files_for(path).stat(path).kind
        if kind != "file":
            what = "a folder" if kind == "folder" else "a pipe or a device, where a stopped run could not go on"
            raise UserError(f"{path}: {what}: give a file as --output")


@contextlib.contextmanager
def resume_lines(path: AnyPath, settings: dict[str, Any], made_by: str = INFER) -> Iterator[ResumableLines | Parts]:
    """Opens OUTPUT to append to it.

    OUTPUT.settings.json, beside it, says what made the lines. If it says the same again, what OUTPUT has is kept, but
    for a last line without its end. Files of others are never touched, and no two processes write at once.

    Args:
      settings: for JSON.
      made_by: the command that writes the lines.

    Raises:
      UserError: OUTPUT was made by something else or under other settings, or cannot be written.
    """
    check_output(path)
    path, settings = as_path(path), {_MADE_BY: made_by} | settings
    settings_path = _settings_path(path)
    if isinstance(path, BucketPath):
        with _resumed_parts(path, settings_path, settings) as parts:
            yield parts
        return
    with _explained(path):
        begun = path.exists() and path.stat().st_size > 0
        if begun or exists(settings_path):
            _check_settings(path, settings_path, settings if begun else None, made_by)
        file = path.open("ab+")
    with file:
        with _explained(path):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not begun:
                _write_settings(settings_path, settings)
            num_lines = _cut_half_line(file)
        yield ResumableLines(file, num_lines)


def lines_made(path: AnyPath, settings: dict[str, Any], made_by: str = INFER) -> int:
    """Counts the whole lines of an OUTPUT, which another process may be writing; changes nothing.

    Of one in a bucket only those that were put together, which a finished run does.

    Raises:
      UserError: as of `resume_lines`.
    """
    path = as_path(path)
    settings_path = _settings_path(path)
    with _explained(path):
        num_lines = count_lines(path)
        if num_lines or exists(settings_path):
            _check_settings(path, settings_path, {_MADE_BY: made_by} | settings if num_lines else None, made_by)
    return num_lines


def remove_lines(path: AnyPath) -> None:
    """Removes an OUTPUT that nobody writes, and what says what made it, as far as they are there.

    Raises:
      UserError: they cannot be removed.
    """
    path = as_path(path)
    with _explained(path):
        for own in filter(exists, (path, _settings_path(path))):
            files_for(own).remove(own)


@contextlib.contextmanager
def _resumed_parts(path: BucketPath, settings_path: FilePath, settings: dict[str, Any]) -> Iterator[Parts]:
    with bucket_lock(path.with_name(f"{path.name}.lock"), str(path)):
        with _explained(path):
            parts = Parts(path)
            if parts.num_lines or exists(settings_path):
                _check_settings(path, settings_path, settings if parts.num_lines else None, settings[_MADE_BY])
            if not parts.num_lines:
                _write_settings(settings_path, settings)
        yield parts
        with _explained(path):
            parts.finish()


@contextlib.contextmanager
def _explained(path: AnyPath) -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        raise InUseError(f"{path} is being written by another process") from None
    except OSError as error:
        raise UserError(f"{path}: {explain(error, path)}") from None


def _settings_path(path: FilePath) -> FilePath:
    return path.with_name(f"{path.name}.settings.json")


def _write_settings(path: FilePath, settings: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(settings, indent=2, allow_nan=False) + "\n")


def _check_settings(path: FilePath, settings_path: FilePath, settings: dict[str, Any] | None, made_by: str) -> None:
    """That `settings_path` is this command's and, unless `settings` is None, says the same."""
    try:
        old = json.loads(read_bytes(settings_path))
    except (FileNotFoundError, ValueError):
        old = None
    remedy = "give another --output" if made_by == INFER else "move it elsewhere"
    if not isinstance(old, dict) or old.get(_MADE_BY) != made_by:
        told = f"{settings_path.name} would say so"
        raise UserError(f"{path} was not made by {made_by} ({told}): {remedy}")
    if settings is None:
        return
    if differing := [name for name in old | settings if old.get(name) != settings.get(name)]:
        changes = "; ".join(f"{name} {old.get(name)!r} -> {settings.get(name)!r}" for name in differing)
        raise UserError(f"{path} was begun under other settings ({changes}): {remedy}")


def _cut_half_line(file: BinaryIO) -> int:
    """Cuts what follows the last end of line; the number of lines before it."""
    file.seek(0)
    num_lines, end, position = 0, 0, 0
    while block := file.read(_BLOCK):
        num_lines += block.count(b"\n")
        last = block.rfind(b"\n")
        end = end if last < 0 else position + last + 1
        position += len(block)
    file.truncate(end)
    return num_lines

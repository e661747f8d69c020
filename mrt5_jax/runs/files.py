"""Files as runs see them: opened by ranges, listed, written whole, created once; on this machine and in buckets.

Whatever a run reads or writes by its path goes through `files_for(path)`.
"""

import contextlib
import errno
import glob
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from mrt5_jax.errors import UserError
from mrt5_jax.runs.buckets import BucketFiles, BucketPath
from mrt5_jax.runs.file_status import AnyPath, FileStatus

FilePath = Path | BucketPath
"""The path of a file as an object; one in a bucket is a name, which only `Files` opens."""

STANDARD_INPUT = "-"
_DESCRIPTOR = re.compile(r"/dev/(std(in|out|err)|fd/\d+)|/proc/[^/]+/fd/\d+")
"""What a process has open, which is used up as it is read or written, also where it is a file."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@runtime_checkable
class Readable(Protocol):
    """What decompressors and other readers have in common with files."""

    def read(self, size: int = -1, /) -> bytes:
        """Reads at most `size` bytes; none at the end."""
        ...


@runtime_checkable
class Files(Protocol):
    """A place where files are kept. There is no renaming and no appending: buckets have neither.

    Every method raises OSError where the place does not do what it is asked for.
    """

    def open(self, path: AnyPath, start: int = 0) -> BinaryIO:
        """Opens a readable stream of the bytes from `start` on."""
        ...

    def read(self, path: AnyPath) -> bytes:
        """Reads a whole file, as it was at one moment where it is written whole."""
        ...

    def list(self, pattern: AnyPath) -> list[str]:
        """Lists the paths that match a glob, sorted; `pattern` alone where something has that very name.

        Where a folder has the very name that `pattern` begins with, it is that folder.
        """
        ...

    def write(self, path: AnyPath, data: bytes) -> None:
        """Replaces the whole file or, if anything stops it, leaves the old one as it was. Its folder is made."""
        ...

    def create(self, path: AnyPath, data: bytes) -> None:
        """Writes a file that must not exist yet; FileExistsError where it does. Its folder is made."""
        ...

    def remove(self, path: AnyPath) -> None:
        """Removes a file."""
        ...

    def stat(self, path: AnyPath) -> FileStatus:
        """Returns size, kind and identity; links are followed."""
        ...

    def below(self, folder: AnyPath) -> Sequence[str]:
        """Lists the names of all files below a folder, as seen from it, sorted; none where there is no such folder."""
        ...


def _with_existing_folders(pattern: str) -> str:
    """Returns the glob with the characters of folders that exist taken as they are: `a[1]/*` in a folder `a[1]`."""
    folder, name = os.path.split(pattern)
    if not folder or not name:
        return pattern
    return os.path.join(glob.escape(folder) if os.path.lexists(folder) else _with_existing_folders(folder), name)


class LocalFiles:
    """The file system of this machine."""

    def open(self, path: AnyPath, start: int = 0) -> BinaryIO:
        """See `Files`."""
        file = Path(path).open("rb")  # noqa: SIM115 - closed by whoever asked for it
        if start:
            file.seek(start)
        return file

    def read(self, path: AnyPath) -> bytes:
        """See `Files`."""
        with self.open(path) as file:
            return file.read()

    def list(self, pattern: AnyPath) -> list[str]:
        """See `Files`."""
        if os.path.lexists(pattern):
            return [str(pattern)]
        return sorted(glob.glob(_with_existing_folders(str(pattern)), recursive=True))

    def write(self, path: AnyPath, data: bytes) -> None:
        """See `Files`. The data are on the disk when it returns."""
        target = Path(os.path.realpath(path))  # a link stays a link
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def create(self, path: AnyPath, data: bytes) -> None:
        """See `Files`."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("xb") as file:
            try:
                file.write(data)
                file.flush()
            except OSError:
                Path(path).unlink(missing_ok=True)
                raise

    def remove(self, path: AnyPath) -> None:
        """See `Files`."""
        Path(path).unlink()

    def stat(self, path: AnyPath) -> FileStatus:
        """See `Files`."""
        found = os.stat(path)
        is_folder = stat.S_ISDIR(found.st_mode)
        is_file = stat.S_ISREG(found.st_mode) and not _DESCRIPTOR.fullmatch(os.path.abspath(path))
        # ctime too: whoever rewrites a file can set its other times back, but not this one.
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        kind = "file" if is_file else "folder" if is_folder else "stream"
        return FileStatus(found.st_size, kind, identity, max(found.st_mtime_ns, found.st_ctime_ns))

    def below(self, folder: AnyPath) -> Sequence[str]:
        """See `Files`."""
        found = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]
        return sorted(os.path.relpath(name, folder) for name in found)


SERVED: dict[str, Files] = {"": LocalFiles(), "gs": BucketFiles("gs"), "s3": BucketFiles("s3")}
"""What serves which scheme; "" is for paths without one."""


def files_for(path: AnyPath) -> Files:
    """Returns what serves a path.

    Raises:
        UserError: nothing serves its scheme.
    """
    scheme = _SCHEME.match(str(path))
    name = scheme[1].lower() if scheme else ""
    if name in SERVED:
        return SERVED[name]
    if name == "file":
        raise UserError(f"{path}: write a local path without a scheme: {str(path)[len('file://') :]}")
    raise UserError(
        f"{path}: nothing here serves {name}://, only gs://, s3:// and local paths are: copy it there or here"
    )


def given_path(path: AnyPath) -> str:
    """Returns a path as a user gives it, with `~` replaced by the home folder.

    Raises:
        UserError: nothing serves its scheme, or `~NAME` names no user.
    """
    text = str(path)
    files_for(text)
    if in_bucket(text):
        scheme, _, rest = text.partition("://")
        if not all(rest.partition("/")[::2]):
            raise UserError(f"{text}: names no path in a bucket: write {scheme.lower()}://BUCKET/PATH")
        return f"{scheme.lower()}://{rest}"
    expanded = os.path.expanduser(text)
    if expanded == text and text.startswith("~") and not os.path.lexists(text):
        raise UserError(f"{text}: there is no user {text[1:].partition('/')[0]} here; ~ alone is your home folder")
    return expanded


def in_bucket(path: AnyPath) -> bool:
    """Says whether a path names an object in a bucket; every other one is a local file's."""
    return _SCHEME.match(str(path)) is not None


def as_path(path: AnyPath) -> FilePath:
    """Returns the path as an object, for its parts."""
    if isinstance(path, FilePath):
        return path
    return BucketPath(path) if in_bucket(path) else Path(path)


def exists(path: AnyPath) -> bool:
    """Says whether there is anything at a path."""
    try:
        files_for(path).stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def given_local_path(path: AnyPath) -> str:
    """Returns a path as a user gives it, of what has to lie on this machine; see `given_path`.

    Raises:
        UserError: it is in a bucket.
    """
    given = given_path(path)
    if in_bucket(given):
        raise UserError(f"{path}: this has to be a local path")
    return given


def read_bytes(path: AnyPath) -> bytes:
    """Reads a whole file."""
    return files_for(path).read(path)


@contextlib.contextmanager
def explained(path: AnyPath, flag: str = "") -> Iterator[None]:
    """Turns an OSError into one line about `path`, preceded by the flag that gave it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{flag}{path}: {explain(error, path)}") from None


def explain(error: OSError, path: AnyPath) -> str:
    """Says what is wrong with a path."""
    if error.errno == errno.ELOOP:
        return "a link that leads back to itself"
    if error.errno == errno.ENOENT and os.path.islink(path):
        return f"a link to {os.readlink(path)}, which is not there"
    if error.errno == errno.ENOENT and glob.has_magic(str(path)):
        return "nothing has this very name, and globs are not taken here: name one file"
    if error.errno == errno.ENOTDIR and os.path.isfile(str(path).rstrip("/")):
        return "a file, not a folder: leave out the slash at the end"
    if error.errno == errno.EISDIR:
        return "a folder: name a file in it"
    return error.strerror or str(error)


@contextlib.contextmanager
def rereadable(path: AnyPath, flag: str = "") -> Iterator[str]:
    """Gives a local path that can be read more than once: `path`, or a copy of what a bucket, a pipe or "-" gives.

    "-" is standard input.

    Args:
        flag: that gave the path, for the message, as in "--input=".

    Raises:
        UserError: it cannot be read, or is a folder or a device.
    """
    if str(path) != STANDARD_INPUT:
        with explained(path, flag):
            kind = files_for(path).stat(path).kind
        if kind == "folder":
            raise UserError(f"{flag}{path}: a folder: name a file in it")
        if kind == "file" and not in_bucket(path):
            yield str(path)
            return
        if kind == "stream" and _is_device(path):
            raise UserError(f"{flag}{path}: a device: give a file or a pipe")
    with tempfile.NamedTemporaryFile(prefix="mrt5-") as copy:
        with explained(path, flag), _stream(path) as stream:
            shutil.copyfileobj(stream, copy)
            copy.flush()
        yield copy.name


@contextlib.contextmanager
def _stream(path: AnyPath) -> Iterator[BinaryIO]:
    """Standard input is left open."""
    if str(path) == STANDARD_INPUT:
        yield sys.stdin.buffer
    else:
        with files_for(path).open(path) as file:
            yield file


def _is_device(path: AnyPath) -> bool:
    """Terminals end where their user says so, and /dev/null at once; what else is a device may never end."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) or os.path.realpath(path) == os.devnull:
        return False
    with open(path, "rb", buffering=0) as device:
        return not device.isatty()

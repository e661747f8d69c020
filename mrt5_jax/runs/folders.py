"""Folders as a whole: between this machine and a bucket, and to another name."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mrt5_jax.errors import UserError
from mrt5_jax.runs.buckets import BucketFiles, BucketPath
from mrt5_jax.runs.files import AnyPath, FilePath, as_path, explained, files_for

_AT_ONCE = 8
"""Objects that are transferred together."""


def send(folder: Path, target: BucketPath, names: Sequence[str]) -> None:
    """Uploads files of a folder, of these names in it, to below `target`. OSError where one cannot be."""
    files = _bucket(target)
    _each(lambda name: files.upload(folder / name, target / name), names)


def fetch(source: BucketPath, folder: Path, names: Sequence[str]) -> None:
    """Downloads objects below `source` into a folder. OSError where one cannot be, or this disk takes no more."""

    def download(name: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with files_for(source).open(source / name) as stream, (folder / name).open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)

    _each(download, names)


def remove(folder: FilePath) -> None:
    """Removes a folder with everything in it, if it is there."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        _each(lambda name: files_for(folder).remove(folder / name), files_for(folder).below(folder))


def move(source: FilePath, target: FilePath) -> None:
    """Gives a file or a folder another name, where nothing is; in a bucket every object is copied and then removed."""
    if isinstance(source, Path):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return
    files = _bucket(source)
    names = files.below(source)
    pairs = [(source / name, as_path(target) / name) for name in names] or [(source, as_path(target))]
    _each(lambda pair: files.copy(*pair), pairs)
    _each(lambda pair: files.remove(pair[0]), pairs)


@contextlib.contextmanager
def local_copy(folder: AnyPath, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Path]:
    """Gives the folder itself, or a copy of what a folder in a bucket has, for libraries that read local files.

    Args:
        folder: on this machine or in a bucket.
        wanted: says by a file's name in the folder whether it is copied.

    Raises:
        UserError: nothing lies in the bucket's folder, or it cannot be read.
    """
    source = as_path(folder)
    if isinstance(source, Path):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="mrt5-") as copy, explained(source):
        names = [name for name in files_for(source).below(source) if wanted(name)]
        if not names:
            raise UserError(f"{source}: there is nothing in this folder")
        fetch(source, Path(copy), names)
        try:
            yield Path(copy)
        except UserError as error:  # which names what the user gave
            raise UserError(str(error).replace(copy, str(source))) from error


def _bucket(path: FilePath) -> BucketFiles:
    files = files_for(path)
    assert isinstance(files, BucketFiles)
    return files


def _each(act: Callable, items: Sequence) -> None:  # pyright: ignore[reportMissingTypeArgument]
    """Acts on all items, several at once; what one raises is raised."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(act, items))

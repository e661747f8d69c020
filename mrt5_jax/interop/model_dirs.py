"""Imported models as MODEL_DIRs, and MODEL_DIRs as what an export needs; folders that appear only when complete."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from mrt5_jax.errors import UserError
from mrt5_jax.interop.models import ImportedFolder, Model
from mrt5_jax.runs import folders
from mrt5_jax.runs.bucket_checkpoints import commit
from mrt5_jax.runs.buckets import BucketPath
from mrt5_jax.runs.checkpoints import save_model
from mrt5_jax.runs.files import AnyPath, LocalFiles, as_path, exists, explained, files_for
from mrt5_jax.runs.model_dir import CHECKPOINTS, read_model_config, write_atomically
from mrt5_jax.runs.restoring import restore_params

SOURCE = "hf_source.json"
"""In a MODEL_DIR made from a Hugging Face folder: what an export gives back besides the parameters."""


@contextlib.contextmanager
def complete_or_absent(folder: AnyPath) -> Iterator[Path]:
    """Returns a new folder to fill, which gets its name, or is sent to its bucket, when the block ends without error.

    Raises:
        UserError: `folder` exists and is not empty, or cannot be made.
    """
    target = as_path(folder)
    if isinstance(target, BucketPath):
        with _sent_when_complete(target) as temporary:
            yield temporary
        return
    folder = target
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already: give a new folder, or remove it")
    temporary = folder.absolute().with_name(f".{folder.absolute().name}.unfinished-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): give a folder that can") from None
    try:
        yield temporary
        temporary.replace(folder.absolute())
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _sent_when_complete(target: BucketPath) -> Iterator[Path]:
    with explained(target):
        if files_for(target).below(target):
            raise UserError(f"{target} exists already: give a new folder, or remove it")
    with tempfile.TemporaryDirectory(prefix="mrt5-") as scratch:
        folder = Path(scratch)
        yield folder
        with explained(target):
            for step in (folder / CHECKPOINTS).glob("*"):
                commit(step, target / CHECKPOINTS / step.name)
            names = LocalFiles().below(folder)
            folders.send(folder, target, [name for name in names if not name.startswith(f"{CHECKPOINTS}/")])


def write_model_dir(folder: Path, model: Model, *, allow_non_finite: bool = False) -> None:
    """Fills a new MODEL_DIR, which eval, infer and train accept; see `save_model`."""
    if model.source is not None:
        write_atomically(folder / SOURCE, model.source.to_json())
    save_model(folder, model.params, model.config, allow_non_finite=allow_non_finite)


def read_origin(folder: AnyPath) -> ImportedFolder | None:
    """Returns what an export gives back of the folder that a MODEL_DIR was imported from; None of any other."""
    source = as_path(folder) / SOURCE
    return ImportedFolder.from_json(source) if exists(source) else None


def read_model_dir(folder: AnyPath, step: int | None = None) -> Model:
    """Returns the model of a MODEL_DIR, with NumPy arrays as parameters.

    Args:
        folder: a MODEL_DIR.
        step: which checkpoint; None: the newest that is whole.

    Raises:
        UserError: it is no MODEL_DIR, or has no such checkpoint.
    """
    config = read_model_config(folder)
    restored = restore_params(folder, step)
    params = jax.tree.map(np.asarray, restored.params)
    return Model(config, params, read_origin(folder), step=restored.step)

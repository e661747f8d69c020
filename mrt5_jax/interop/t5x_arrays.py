"""The arrays of a T5X checkpoint, read by what lies in the folder rather than by one version's habits.

A checkpoint is made of some of these, in any combination:

    checkpoint, state/checkpoint     msgpack: small arrays themselves; for others a tensorstore spec (T5X) or a
                                     string PLACEHOLDER://name (older Orbax)
    NAME/.zarray, NAME/zarr.json     one zarr folder an array, of any number of chunks
    manifest.ocdbt                   one OCDBT database of zarr arrays (newer Orbax)

Names are tree paths joined by dots: `target.decoder.logits_dense.kernel`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import ml_dtypes  # noqa: F401 - teaches NumPy the name "bfloat16"
import numpy as np

from mrt5_jax.errors import UserError

T5X_INDEX = "checkpoint"
_DATABASE = "manifest.ocdbt"
_PLACEHOLDER = "PLACEHOLDER://"
_METADATA = {".zarray": "zarr", "zarr.json": "zarr3"}
"""The file that makes a folder a zarr array, and tensorstore's driver for it."""

Read = Callable[[], np.ndarray]


class StoredArrays(NamedTuple):
    """What a checkpoint holds; nothing is read before it is asked for."""

    folder: Path
    readers: dict[str, Read]
    """From names to functions that read the array."""

    def read(self, name: str) -> np.ndarray:
        """Returns one array, in the type it is stored in.

        Raises:
            UserError: it is damaged, or a chunk of it is missing.
        """
        try:
            return self.readers[name]()
        except (ValueError, OSError) as error:  # tensorstore's errors for broken and for missing data
            raise UserError(f"{self.folder}: {name} cannot be read: {str(error).splitlines()[0]}") from None


def open_checkpoint(folder: str | Path) -> StoredArrays:
    """Finds every array of a checkpoint.

    Args:
        folder: a checkpoint_STEP folder, or one that holds a single checkpoint_STEP.

    Raises:
        UserError: it is no checkpoint, an unfinished or a damaged one, or one whose index names an array that is not
            there.
    """
    folder = _checkpoint_folder(Path(folder))
    state = folder / "state" if (folder / "state").is_dir() else folder
    if (state / _DATABASE).is_file():
        readers = _database(state)
    elif any(state.glob(f"ocdbt.process_*/{_DATABASE}")):
        raise UserError(f"{state} is an unfinished checkpoint: its processes' parts were never merged")
    else:
        readers = _zarr_folders(state)
    if (state / T5X_INDEX).is_file():
        readers = _with_index(state / T5X_INDEX, readers)
    if not readers:
        raise UserError(f"{folder} is no T5X checkpoint: it has neither {T5X_INDEX} nor zarr arrays nor {_DATABASE}")
    return StoredArrays(folder, {_without_optimizer(name): read for name, read in readers.items()})


def _checkpoint_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give a T5X checkpoint_STEP")
    steps = sorted(path.name for path in folder.glob("checkpoint_*") if path.is_dir())
    if not steps:
        return folder
    if len(steps) > 1:
        raise UserError(f"{folder} holds {len(steps)} checkpoints; give one of {', '.join(steps)}")
    return folder / steps[0]


def _database(state: Path) -> dict[str, Read]:
    import tensorstore as ts

    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{state.resolve()}/"}}
    try:
        keys = [key.decode() for key in ts.KvStore.open(store).result().list().result()]
    except ValueError as error:
        raise UserError(f"{state / _DATABASE} is damaged: {str(error).splitlines()[0]}") from None
    readers = {}
    for key in keys:
        name, _, file = key.rpartition("/")
        if file in _METADATA:
            readers[name.replace("/", ".")] = _reader(_METADATA[file], {**store, "path": f"{name}/"})
    return readers


def _zarr_folders(state: Path) -> dict[str, Read]:
    readers = {}
    for file, driver in _METADATA.items():
        for metadata in sorted(state.rglob(file)):
            name = ".".join(metadata.parent.relative_to(state).parts)
            store = {"driver": "file", "path": f"{metadata.parent.resolve()}/"}
            readers.setdefault(name, _reader(driver, store))
    return readers


def _reader(driver: str, store: dict[str, Any]) -> Read:
    def read() -> np.ndarray:
        import tensorstore as ts

        # A chunk that is not there reads as zeros by default: a model with a hole in it and no word about it.
        spec = {"driver": driver, "kvstore": store, "fill_missing_data_reads": False}
        array = ts.open(spec, open=True, read=True).result()
        return np.asarray(array.read().result())

    return read


def _with_index(index: Path, stored: dict[str, Read]) -> dict[str, Read]:
    """The arrays of a msgpack index: its own, and those of `stored` that it points to."""
    from flax.serialization import msgpack_restore

    try:
        tree = msgpack_restore(index.read_bytes())
    except Exception as error:  # msgpack has an exception for every way in which bytes can be wrong
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{index} is damaged or no msgpack file: {reason}") from None
    if not isinstance(tree, Mapping):
        raise UserError(f"{index} is no checkpoint: it holds no tree of arrays")
    readers = dict(stored)
    for name, leaf in _leaves(tree):
        if isinstance(leaf, np.ndarray):
            readers[name] = lambda leaf=leaf: leaf
        elif (target := _target(leaf)) is not None:
            if target not in stored:
                if not is_parameter(name):  # optimizer state, which nobody reads
                    continue
                raise UserError(f"{index} points to the array {target}, which is not beside it")
            readers[name] = stored[target]
    return readers


def _leaves(tree: Mapping[str, Any], prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, Mapping) and not _is_spec(value):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_spec(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and isinstance(value.get("driver"), str) and "kvstore" in value


def _target(leaf: Any) -> str | None:
    """The name of the array that a leaf of the index stands for; None for other leaves, such as a version number."""
    if isinstance(leaf, str) and leaf.startswith(_PLACEHOLDER):
        return leaf.removeprefix(_PLACEHOLDER)
    if _is_spec(leaf):
        path = leaf["kvstore"].get("path") or leaf.get("path") or ""  # the latter where arrays lay in a bucket
        return path.strip("/").rpartition("/")[2]
    return None


def is_parameter(name: str) -> bool:
    """Says whether an array, or a file below its folder, belongs to what an import reads: not to the optimizer."""
    return not _without_optimizer(name).startswith("state.param_states")


def _without_optimizer(name: str) -> str:
    """T5X's msgpack tree has the whole state below `optimizer`, its folders do not."""
    return name.removeprefix("optimizer.")

"""Writers of the layouts in which T5X and Orbax have left checkpoints, for tests that read them back.

Each takes flat arrays (`target.encoder.encoder_norm.scale` -> array) and fills a folder. They use tensorstore and
msgpack directly, never the code under test.
"""

from pathlib import Path

import ml_dtypes
import numpy as np
import tensorstore as ts
from flax import serialization, traverse_util

SMALL = 20
"""Arrays of fewer elements are kept in the msgpack index by layouts that have one."""


def _write(array: np.ndarray, driver: str, store: dict, parts: int) -> None:
    dtype = ts.bfloat16 if array.dtype == ml_dtypes.bfloat16 else ts.dtype(array.dtype)
    layout = ts.ChunkLayout(chunk_shape=[-(-size // parts) for size in array.shape])
    spec = {"driver": driver, "kvstore": store}
    ts.open(spec, create=True, dtype=dtype, shape=array.shape, chunk_layout=layout).result().write(array).result()


def zarr_folders(folder: Path, arrays: dict[str, np.ndarray], parts: int = 1, driver: str = "zarr") -> None:
    """One zarr folder an array and nothing else; chunks cut every axis into `parts`."""
    for name, array in arrays.items():
        _write(array, driver, {"driver": "file", "path": f"{folder / name}/"}, parts)


def ocdbt(folder: Path, arrays: dict[str, np.ndarray], parts: int = 1, driver: str = "zarr") -> None:
    """Orbax's database, below `state`."""
    base = {"driver": "file", "path": f"{folder / 'state'}/"}
    for name, array in arrays.items():
        store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
        _write(array, driver, store, parts)


def legacy(folder: Path, arrays: dict[str, np.ndarray], parts: int = 1) -> None:
    """T5X's own: zarr folders and an index with their specs, which holds small arrays itself."""
    large = {name: array for name, array in arrays.items() if array.size >= SMALL}
    zarr_folders(folder, large, parts)
    leaves = {
        name: {"driver": "zarr", "dtype": array.dtype.name, "kvstore": {"driver": "file", "path": f"{name}/"}}
        for name, array in large.items()
    }
    _index(folder / "checkpoint", {"version": 3, "optimizer": _tree({**arrays, **leaves})})


def placeholders(folder: Path, arrays: dict[str, np.ndarray], parts: int = 1) -> None:
    """Older Orbax: zarr folders below `state`, and an index that names them by strings."""
    large = {name: array for name, array in arrays.items() if array.size >= SMALL}
    (folder / "state").mkdir()
    zarr_folders(folder / "state", large, parts)
    leaves = {name: f"PLACEHOLDER://{name}" for name in large}
    _index(folder / "state" / "checkpoint", _tree({**arrays, **leaves}))


def _tree(leaves: dict) -> dict:
    return traverse_util.unflatten_dict(leaves, sep=".")


def _index(path: Path, tree: dict) -> None:
    path.write_bytes(serialization.msgpack_serialize(tree))

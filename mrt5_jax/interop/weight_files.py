"""The weight files of a Hugging Face folder: safetensors, in shards or not. Pickles are never opened."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401 - teaches NumPy the name "bfloat16"
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import FilePath, read_bytes

SAFETENSORS = "model.safetensors"
_INDEX = f"{SAFETENSORS}.index.json"
_TYPES = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{"BF16": "bfloat16", "BOOL": "bool"},
}
"""Of safetensors, as NumPy says it; the names of others are told as they are."""


class StoredTensor(NamedTuple):
    """What a file's header says of a tensor."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """NumPy's name of it."""


class StoredWeights(NamedTuple):
    """The tensors of a folder, of which only the headers have been read."""

    place: Path
    """The file, or the index of the shards."""
    tensors: dict[str, StoredTensor]

    def read(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields every tensor, in the type it is stored in, one file after another, of which one is open at a time.

        Raises:
            UserError: a file is damaged.
        """
        for path in sorted({tensor.file for tensor in self.tensors.values()}):
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    if name in self.tensors:
                        yield name, file.get_tensor(name)

    def tensor(self, name: str) -> np.ndarray:
        """Returns one tensor, see `read`."""
        with _opened(self.tensors[name].file) as file:
            return file.get_tensor(name)


def open_weights(folder: Path) -> StoredWeights:
    """Reads the headers of a folder's weights.

    Raises:
        UserError: there are none but pickles or none at all, a file is damaged, or the index names a file or a tensor
            that is not there.
    """
    if (folder / SAFETENSORS).is_file():
        return StoredWeights(folder / SAFETENSORS, _headers(folder / SAFETENSORS))
    if (folder / _INDEX).is_file():
        return StoredWeights(folder / _INDEX, _headers_of_shards(folder / _INDEX))
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder / pickles[0]} is a pickle, which can hold code and is never opened: save the model as "
            f"{SAFETENSORS} first (in transformers, save_pretrained does)"
        )
    raise UserError(f"{folder} holds no weights: expected {SAFETENSORS}, or shards of it with {_INDEX}")


def read_json(path: FilePath) -> dict[str, Any]:
    """Returns a JSON object of a file; a UserError names the file where there is none."""
    try:
        value = json.loads(read_bytes(path).decode(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise UserError(f"{path} is not there") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has {name}")


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes one file that PyTorch and transformers read."""
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"})


def _headers_of_shards(index: Path) -> dict[str, StoredTensor]:
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise UserError(f'{index} lacks its "weight_map" from tensors to files')
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(files.values())):
        path = index.parent / file
        if path.parent != index.parent or path.suffix != ".safetensors" or not path.is_file():
            raise UserError(f"{index} names the file {file}, which is not beside it")
        shard = _headers(path)
        absent = [name for name, home in files.items() if home == file and name not in shard]
        if absent:
            raise UserError(f"{path} lacks {absent[0]}, which {index.name} says it holds")
        tensors |= shard
    return tensors


def _headers(path: Path) -> dict[str, StoredTensor]:
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        types = {name: str(part.get_dtype()) for name, part in slices.items()}
        return {
            name: StoredTensor(path, tuple(part.get_shape()), _TYPES.get(types[name], types[name]))
            for name, part in slices.items()
        }


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, TypeError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged or no safetensors file: {reason}") from None

"""The weight files of a Hugging Face folder: safetensors, sharded or not, or PyTorch's pickles."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import FilePath, read_bytes

SAFETENSORS = "model.safetensors"
_FORMATS = (SAFETENSORS, "pytorch_model.bin")
"""In order of preference; each may come in shards, with an index beside them."""


def find_weights(folder: Path) -> Path:
    """Returns the weight file of a folder, or the index of its shards.

    Raises:
        UserError: there is none.
    """
    for name in _FORMATS:
        for path in (folder / name, folder / f"{name}.index.json"):
            if path.is_file():
                return path
    raise UserError(f"{folder} holds no weights: expected {' or '.join(_FORMATS)}, or shards of them with an index")


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Reads every tensor, in the type it is stored in, of what `find_weights` has found.

    Raises:
        UserError: a file is damaged, a shard is missing or lacks a tensor of the index, or a pickle holds more than
            tensors.
    """
    return _read_shards(path) if path.suffix == ".json" else _read_file(path)


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


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise UserError(f'{index} lacks its "weight_map" from tensors to files')
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(files.values())):
        path = index.parent / file
        if path.parent != index.parent or not path.is_file():
            raise UserError(f"{index} names the file {file}, which is not beside it")
        shard = _read_file(path)
        absent = [name for name, home in files.items() if home == file and name not in shard]
        if absent:
            raise UserError(f"{path} lacks {absent[0]}, which {index.name} says it holds")
        tensors |= shard
    return tensors


def _read_file(path: Path) -> dict[str, np.ndarray]:
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, TypeError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {_first_line(error)}") from None


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise UserError(f"{path} can only be read with PyTorch: pip install mrt5-jax[parity]") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have their own; all mean that the file is of no use
        raise UserError(f"{path} is damaged or holds more than tensors: {_first_line(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} holds more than named tensors")
    return {name: _to_numpy(tensor.detach()) for name, tensor in state.items()}


def _to_numpy(tensor: Any) -> np.ndarray:
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

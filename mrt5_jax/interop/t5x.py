"""T5X's ByT5 checkpoints, scanned or not, read into our parameter tree.

Sizes follow from the arrays' shapes: nothing but the checkpoint is needed. What shapes cannot say has T5's values
(maximum distance 128, epsilon 1e-6, dropout 0.1), or those of the model_config.json that an export has beside them.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mrt5_jax.config import ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.interop import names
from mrt5_jax.interop.finiteness import count_not_finite
from mrt5_jax.interop.models import Model
from mrt5_jax.interop.t5x_arrays import open_checkpoint
from mrt5_jax.moved_names import renew_model
from mrt5_jax.runs.model_dir import MODEL_CONFIG
from mrt5_jax.runs.saved_configs import read_config

_PARAMETERS = "target."
_VOCABULARY = 384
_STACKS = ("encoder", "decoder")
_FLOATS = ("float32", "float16", "bfloat16")


def read_t5x(folder: str | Path) -> Model:
    """Reads the parameters of a checkpoint; optimizer state and step are left behind.

    Args:
        folder: a checkpoint_STEP folder, or one that holds a single checkpoint_STEP.

    Raises:
        UserError: it is no checkpoint, is damaged, or is not a ByT5: a parameter is missing, left over or of another
            shape (a relative bias that differs between layers is umT5's), the vocabulary is not the bytes', or an
            array is not of floats.
    """
    stored = open_checkpoint(folder)
    ours = [name for name in stored.readers if name.startswith(_PARAMETERS)]
    arrays = {name.removeprefix(_PARAMETERS).replace(".", "/"): stored.read(name) for name in ours}
    place = str(stored.folder)
    if not arrays:
        raise UserError(f"{place} holds no parameters: no array below target")
    types = {name: array.dtype.name for name, array in arrays.items()}
    for name, dtype in types.items():
        if dtype not in _FLOATS:
            raise UserError(f"{place}: {name} is {dtype}, not one of {', '.join(_FLOATS)}")
    flat = {name: _joined(name, array) for name, array in _unscanned(arrays, place).items()}
    config = read_config(ModelConfig, stored.folder / MODEL_CONFIG, renew_model) or _config(flat, place)
    expected = {f"target/{tensor.name}": names.shape(tensor, config) for tensor in names.tensors(config)}
    names.check_complete({f"target/{name}": array.shape for name, array in flat.items()}, expected, place)
    params = names.empty_layers(config)
    not_finite = count_not_finite(arrays)
    arrays.clear()
    for name, target in names.unstack_layers(params, config).items():
        target[...] = flat.pop(name)  # which frees it, unless it is one of a scanned stack
    notes = [f"{len(stored.readers) - len(ours)} arrays of optimizer state and step left behind"]
    narrow = {dtype: sum(found == dtype for found in types.values()) for dtype in _FLOATS[1:]}
    notes += [f"{count} arrays widened from {dtype} to float32" for dtype, count in narrow.items() if count]
    return Model(config, params, notes=notes, not_finite=not_finite)


def _unscanned(arrays: Mapping[str, np.ndarray], place: str) -> dict[str, np.ndarray]:
    """One entry a layer: scanned stacks (`encoder/encoder/...`) are taken apart, others pass."""
    flat = {}
    for name, array in arrays.items():
        scanned = re.fullmatch(r"(encoder|decoder)/\1/(.+)", name)
        if scanned is None:
            flat[name] = array
            continue
        stack, rest = scanned.groups()
        layers = np.moveaxis(array, _layer_axis(arrays, stack, place), 0)
        if rest == "relpos_bias/rel_embedding":
            if any(not np.array_equal(layer, layers[0]) for layer in layers):
                raise UserError(f"{place}: target/{name} differs between layers, as in umT5; ByT5's layers share one")
            flat[f"{stack}/{rest}"] = layers[0]
        else:
            flat |= {f"{stack}/layers_{index}/{rest}": layer for index, layer in enumerate(layers)}
    return flat


def _layer_axis(arrays: Mapping[str, np.ndarray], stack: str, place: str) -> int:
    """T5X stacks layers on axis 1 unless told otherwise; the norm's scale, [embed layers], shows it."""
    scale = _get(arrays, f"{stack}/{stack}/pre_mlp_layer_norm/scale", 2, place)
    embed = _get(arrays, "token_embedder/embedding", 2, place).shape[1]
    return 1 if scale.shape[0] == embed else 0


def _joined(name: str, array: np.ndarray) -> np.ndarray:
    """Attention kernels as matrices, where they are stored with an axis of heads."""
    if array.ndim == 3 and name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return array.reshape(array.shape[0], -1)
    if array.ndim == 3 and name.endswith("out/kernel"):
        return array.reshape(-1, array.shape[-1])
    return array


def _config(flat: Mapping[str, np.ndarray], place: str) -> ModelConfig:
    """The sizes that the shapes show; whether all parameters have them is checked afterwards."""
    vocab_size, emb_dim = _get(flat, "token_embedder/embedding", 2, place).shape
    num_heads, num_buckets = _get(flat, "encoder/relpos_bias/rel_embedding", 2, place).shape
    num_layers = {stack: _count_layers(flat, stack) for stack in _STACKS}
    joined_heads = _get(flat, "encoder/layers_0/attention/query/kernel", 2, place).shape[1]
    if vocab_size != _VOCABULARY:
        raise UserError(
            f"{place}: target/token_embedder/embedding has {vocab_size} rows; byte models have {_VOCABULARY}"
        )
    if joined_heads % num_heads:
        raise UserError(
            f"{place}: target/encoder/layers_0/attention/query/kernel does not divide into {num_heads} heads"
        )
    return ModelConfig(
        emb_dim=emb_dim,
        num_heads=num_heads,
        head_dim=joined_heads // num_heads,
        mlp_dim=_get(flat, "encoder/layers_0/mlp/wi_0/kernel", 2, place).shape[1],
        num_encoder_layers=num_layers["encoder"],
        num_decoder_layers=num_layers["decoder"],
        vocab_size=vocab_size,
        relpos_num_buckets=num_buckets,
    )


def _count_layers(flat: Mapping[str, np.ndarray], stack: str) -> int:
    numbers = [re.match(rf"{stack}/layers_(\d+)/", name) for name in flat]
    return 1 + max((int(number[1]) for number in numbers if number), default=-1)


def _get(arrays: Mapping[str, np.ndarray], name: str, rank: int, place: str) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"{place}: target/{name} is missing: not a ByT5 of T5X's")
    if arrays[name].ndim != rank:
        raise UserError(f"{place}: target/{name} has shape {list(arrays[name].shape)}; expected {rank} axes")
    return arrays[name]

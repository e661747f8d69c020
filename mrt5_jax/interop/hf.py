"""Hugging Face folders of T5 v1.1 / ByT5 and of the authors' MrT5: read into our parameter tree, and written back.

Every tensor is accounted for. What the parameters alone do not say (the source's config.json and the type and name of
each tensor) is kept in an `ImportedFolder`, so that an export gives the imported files back bit for bit.
"""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mrt5_jax.config import ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.interop import names
from mrt5_jax.interop.finiteness import count_not_finite
from mrt5_jax.interop.hf_config import head_scale, may_be_tied, model_config, write_config
from mrt5_jax.interop.hf_tokenizer import check_vocabulary, write_generation_config, write_tokenizer
from mrt5_jax.interop.models import ImportedFolder, Model
from mrt5_jax.interop.names import Tensor
from mrt5_jax.interop.weight_files import SAFETENSORS, find_weights, read_json, read_weights, write_safetensors
from mrt5_jax.model.parameters import Params

CONFIG = "config.json"
_EMBEDDING = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""Names of the one embedding, of which files have any."""
_HEAD = "lm_head.weight"

_NARROW = ("float16", "bfloat16")
"""Stored types that float32 holds exactly."""


def read_hf(folder: str | Path) -> Model:
    """Reads config.json and the weights of a folder.

    Raises:
        UserError: the folder lacks one of them, the architecture is not T5 v1.1 or MrT5, the vocabulary is not the
            bytes', a file is damaged, or a tensor is missing, left over, of another shape or of a type that is not a
            float of at most 32 bits.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give one with {CONFIG} and {SAFETENSORS}")
    fields = read_json(folder / CONFIG)
    config = model_config(fields, str(folder / CONFIG))
    weights = find_weights(folder)
    stored, place = read_weights(weights), str(weights)
    types = {name: tensor.dtype.name for name, tensor in stored.items()}
    for name, dtype in types.items():
        if dtype not in ("float32", *_NARROW):
            raise UserError(f"{place}: {name} is {dtype}; convert it to float32 first, which is what models hold here")
    scale = head_scale(fields, config.emb_dim)
    flat = _to_flat(_named_once(stored, fields, place), config, place)
    flat["decoder/logits_dense/kernel"] = _scaled(flat["decoder/logits_dense/kernel"], scale)
    narrow = {dtype: sum(found == dtype for found in types.values()) for dtype in _NARROW}
    notes = [f"{count} tensors widened from {dtype} to float32" for dtype, count in narrow.items() if count]
    if config.gate is not None and "use_softmax1" not in fields:
        notes.append(f"{CONFIG} does not say use_softmax1: taken as off; some published MrT5 code always has it on")
    if _HEAD not in stored:
        notes.append(f"no {_HEAD}: the output head is the embedding, as in transformers 5")
    if scale != 1:
        notes.append(f"{CONFIG} has the decoder's outputs scaled by d_model**-0.5: the output head is multiplied by it")
    params = names.stack_layers(flat, config)
    return Model(config, params, ImportedFolder(fields, types), notes, count_not_finite(stored))


def _named_once(stored: dict[str, np.ndarray], fields: dict[str, Any], place: str) -> dict[str, np.ndarray]:
    """The tensors with the embedding under its first name, and with an output head where that is the embedding.

    transformers 5 takes either for the other where one is missing, and both as they are where both are there.
    """
    embeddings = [name for name in _EMBEDDING if name in stored]
    for name in embeddings[1:]:
        if not _same_bits(stored[name], stored[embeddings[0]]):
            raise UserError(f"{place}: {name} differs from {embeddings[0]}; T5 shares one embedding")
    found = {name: tensor for name, tensor in stored.items() if name not in _EMBEDDING}
    if embeddings:
        found[_EMBEDDING[0]] = stored[embeddings[0]]
    if may_be_tied(fields):
        for name, other in ((_EMBEDDING[0], _HEAD), (_HEAD, _EMBEDDING[0])):
            if name not in found and other in found:
                found[name] = found[other]
    elif _HEAD not in found and embeddings:
        raise UserError(
            f"{place}: missing: {_HEAD}, which {CONFIG} says is no copy of the embedding (tie_word_embeddings: false): "
            "give the file that has it; if the embedding shall be the head, as transformers 5 takes it, write "
            '"tie_word_embeddings": true and "scale_decoder_outputs": false'
        )
    return found


def _scaled(array: np.ndarray, scale: float) -> np.ndarray:
    return array if scale == 1 else array * np.float32(scale)


def _to_flat(stored: dict[str, np.ndarray], config: ModelConfig, place: str) -> dict[str, np.ndarray]:
    table = names.tensors(config)
    found = {name: tensor.shape for name, tensor in stored.items()}
    expected = {tensor.hugging_face: _stored_shape(tensor, config) for tensor in table}
    names.check_complete(found, expected, place)
    return {tensor.name: tensor.turned_back(stored[tensor.hugging_face]).astype(np.float32) for tensor in table}


def write_hf(
    params: Params, config: ModelConfig, folder: str | Path, source: ImportedFolder | None = None
) -> list[str]:
    """Writes config.json, model.safetensors, and what the Auto classes read for a tokenizer and for generation.

    Tensors get their type and second names back from `source`. Where training has moved a value that the narrower type
    cannot hold, all tensors are written as they are: nothing is ever rounded.

    Args:
        params: the parameter tree of `config`.
        folder: an existing, empty folder.
        source: of an imported model; by default a config.json is written afresh.

    Returns:
        notes for the user, one line each.

    Raises:
        UserError: the parameters are not those of the config.
    """
    folder = Path(folder)
    check_vocabulary(config.vocab_size)
    flat = names.unstack_layers(params, config)
    tensors = {tensor.hugging_face: tensor.turned(flat[tensor.name]) for tensor in names.tensors(config)}
    notes: list[str] = []
    fields = write_config(config, None if source is None else source.config)
    if source is not None:
        stored, changed = _as_stored(tensors.pop(_EMBEDDING[0]), tensors.pop(_HEAD), config, source)
        tensors |= stored
        fields |= changed
        narrowed = {
            name: tensor.astype(_dtype(source.tensors.get(name, tensor.dtype.name))) for name, tensor in tensors.items()
        }
        rounded = [
            name for name, tensor in tensors.items() if not _same_bits(narrowed[name].astype(tensor.dtype), tensor)
        ]
        if not rounded:
            tensors = narrowed
        else:
            notes.append(
                f"written as {tensors[rounded[0]].dtype.name}: {source.tensors[rounded[0]]} cannot hold {rounded[0]}"
            )
            fields |= {key: tensors[rounded[0]].dtype.name for key in ("torch_dtype", "dtype") if fields.get(key)}
    write_safetensors(folder / SAFETENSORS, tensors)
    (folder / CONFIG).write_text(json.dumps(fields, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    write_tokenizer(folder, config.vocab_size)
    write_generation_config(folder)
    return notes


def _as_stored(
    embedding: np.ndarray, head: np.ndarray, config: ModelConfig, source: ImportedFolder
) -> tuple[dict[str, np.ndarray], dict[str, bool]]:
    """Returns embedding and head as an export stores them, and the fields of config.json that this changes.

    They have the source's names if those still say the same; else the head is a tensor of its own, not scaled.
    """
    scale = head_scale(source.config, config.emb_dim)
    there = [name for name in _EMBEDDING if name in source.tensors]
    is_tied = _same_bits(_scaled(embedding, scale), head)
    unscaled = embedding if is_tied else _scaled(head, 1 / scale)
    if _same_bits(_scaled(unscaled, scale), head) and (is_tied or (there and _HEAD in source.tensors)):
        tensors = dict.fromkeys(there, embedding) | ({_HEAD: unscaled} if _HEAD in source.tensors else {})
        return tensors, {}
    tensors = dict.fromkeys(there or _EMBEDDING[:1], embedding) | {_HEAD: head}
    of_transformers_5 = {"scale_decoder_outputs": False} if "scale_decoder_outputs" in source.config else {}
    return tensors, {"tie_word_embeddings": False, **of_transformers_5}


def differences(first: str | Path, second: str | Path) -> list[str]:
    """Lists the tensors in which two folders differ, in name, type, shape or a single bit; none if they are equal."""
    left, right = (read_weights(find_weights(Path(folder))) for folder in (first, second))
    return [
        name
        for name in sorted(left.keys() | right.keys())
        if name not in left or name not in right or not _same_bits(left[name], right[name])
    ]


def _same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _stored_shape(tensor: Tensor, config: ModelConfig) -> tuple[int, ...]:
    return tensor.turned(np.broadcast_to(np.float32(0), names.shape(tensor, config))).shape

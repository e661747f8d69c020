"""Hugging Face folders of T5 v1.1 / ByT5 and of the authors' MrT5: read into our parameter tree, and written back.

Every tensor is accounted for. What the parameters alone do not say (the source's config.json and the type and name of
each tensor) is kept in an `ImportedFolder`, so that an export gives the imported files back bit for bit.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mrt5_jax.config import ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.interop import names
from mrt5_jax.interop.finiteness import count_not_finite
from mrt5_jax.interop.hf_config import (
    AUTO_MAP,
    MODELING,
    TOKENIZER_CLASS,
    head_scale,
    may_be_tied,
    model_config,
    write_config,
)
from mrt5_jax.interop.hf_tokenizer import check_vocabulary, write_generation_config, write_tokenizer
from mrt5_jax.interop.models import ImportedFolder, Model
from mrt5_jax.interop.names import Tensor
from mrt5_jax.interop.weight_files import (
    SAFETENSORS,
    StoredWeights,
    open_weights,
    read_json,
    write_safetensors,
)
from mrt5_jax.model.parameters import Params
from mrt5_jax.selection.selectors import pools

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
    weights = open_weights(folder)
    place = str(weights.place)
    types = {name: tensor.dtype for name, tensor in weights.tensors.items()}
    for name, dtype in types.items():
        if dtype not in ("float32", *_NARROW):
            raise UserError(f"{place}: {name} is {dtype}; convert it to float32 first, which is what models hold here")
    _check_names(weights, fields, config)
    params, not_finite = _filled(weights, fields, config)
    scale = head_scale(fields, config.emb_dim)
    if scale != 1:
        params["decoder"]["logits_dense"]["kernel"] *= np.float32(scale)
    narrow = {dtype: sum(found == dtype for found in types.values()) for dtype in _NARROW}
    notes = [f"{count} tensors widened from {dtype} to float32" for dtype, count in narrow.items() if count]
    if config.gate is not None and "use_softmax1" not in fields:
        notes.append(f"{CONFIG} does not say use_softmax1: taken as off; some published MrT5 code always has it on")
    if _HEAD not in types:
        notes.append(f"no {_HEAD}: the output head is the embedding, as in transformers 5")
    if scale != 1:
        notes.append(f"{CONFIG} has the decoder's outputs scaled by d_model**-0.5: the output head is multiplied by it")
    if fields.get("auto_map") not in (None, AUTO_MAP):
        notes.append(f"{CONFIG} names code (auto_map): it is not run, and an export has our own in its place")
    return Model(config, params, ImportedFolder(fields, types), notes, not_finite)


def _check_names(weights: StoredWeights, fields: dict[str, Any], config: ModelConfig) -> None:
    """Refuses what is missing, left over or of another shape, by the headers alone."""
    found = {name: tensor.shape for name, tensor in weights.tensors.items()}
    sources = _sources(weights, fields)
    shapes = {name: shape for name, shape in found.items() if name not in (*_EMBEDDING, _HEAD)}
    shapes |= {name: found[source] for name, source in sources.items()}
    expected = {tensor.hugging_face: _stored_shape(tensor, config) for tensor in names.tensors(config)}
    if _HEAD not in shapes and _EMBEDDING[0] in shapes and not may_be_tied(fields):
        raise UserError(
            f"{weights.place}: missing: {_HEAD}, which {CONFIG} says is no copy of the embedding (tie_word_embeddings: "
            "false): give the file that has it; if the embedding shall be the head, as transformers 5 takes it, write "
            '"tie_word_embeddings": true and "scale_decoder_outputs": false'
        )
    names.check_complete(shapes, expected, str(weights.place))


def _sources(weights: StoredWeights, fields: dict[str, Any]) -> dict[str, str]:
    """Returns under which stored name the embedding and the output head are, as far as they are.

    transformers 5 takes either for the other where one is missing, and both as they are where both are there.
    """
    embeddings = [name for name in _EMBEDDING if name in weights.tensors]
    sources = {_EMBEDDING[0]: embeddings[0]} if embeddings else {}
    if _HEAD in weights.tensors:
        sources[_HEAD] = _HEAD
    if may_be_tied(fields):
        for name, other in ((_EMBEDDING[0], _HEAD), (_HEAD, _EMBEDDING[0])):
            if name not in sources and other in sources:
                sources[name] = sources[other]
    return sources


def _filled(weights: StoredWeights, fields: dict[str, Any], config: ModelConfig) -> tuple[Params, dict[str, int]]:
    """Returns the parameter tree, and how many values of which stored tensor are not finite.

    Tensors are read one at a time into their places, so that an import needs little more memory than the model.
    """
    table = names.tensors(config)
    params = names.empty_layers(config)
    places = names.unstack_layers(params, config)
    sources = _sources(weights, fields)
    wanted: dict[str, list[Tensor]] = {}
    for tensor in table:
        wanted.setdefault(sources.get(tensor.hugging_face, tensor.hugging_face), []).append(tensor)
    not_finite: dict[str, int] = {}
    embeddings: dict[str, np.ndarray] = {}
    for name, array in weights.read():
        not_finite |= count_not_finite({name: array})
        for tensor in wanted.get(name, ()):
            places[tensor.name][...] = tensor.turned_back(array)
        if name in _EMBEDDING:
            embeddings[name] = array
    first, *others = [name for name in _EMBEDDING if name in embeddings] or [""]
    for name in others:
        if not _same_bits(embeddings[name], embeddings[first]):
            raise UserError(f"{weights.place}: {name} differs from {first}; T5 shares one embedding")
    return params, not_finite


def write_hf(
    params: Params,
    config: ModelConfig,
    folder: str | Path,
    source: ImportedFolder | None = None,
    *,
    max_new_tokens: int | None = None,
) -> list[str]:
    """Writes config.json, model.safetensors, and what the Auto classes read for a tokenizer and for generation.

    With a gate, the code goes along that makes transformers' T5 an MrT5.

    Tensors get their type and second names back from `source`. Where training has moved a value that the narrower type
    cannot hold, all tensors are written as they are: nothing is ever rounded.

    Args:
        params: the parameter tree of `config`.
        folder: an existing, empty folder.
        source: of an imported model; by default a config.json is written afresh.
        max_new_tokens: the most tokens that generation makes there, unless told otherwise.

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
    fields.pop("auto_map", None)  # the source's code is not here
    if config.gate is not None and not pools(config.gate):
        fields |= {"auto_map": AUTO_MAP, "tokenizer_class": fields.get("tokenizer_class") or TOKENIZER_CLASS}
        (folder / MODELING).write_bytes((resources.files("mrt5_jax.interop") / MODELING).read_bytes())
    elif config.softmax1:
        notes.append("transformers' T5 has no softmax1: its numbers differ from this model's")
    write_safetensors(folder / SAFETENSORS, tensors)
    (folder / CONFIG).write_text(json.dumps(fields, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    write_tokenizer(folder, config.vocab_size)
    write_generation_config(folder, max_new_tokens)
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


def _scaled(array: np.ndarray, scale: float) -> np.ndarray:
    return array if scale == 1 else array * np.float32(scale)


def differences(first: str | Path, second: str | Path) -> list[str]:
    """Lists the tensors in which two folders differ, in name, type, shape or a single bit; none if they are equal."""
    left, right = (open_weights(Path(folder)) for folder in (first, second))
    different = {
        name for name, array in left.read() if name not in right.tensors or not _same_bits(array, right.tensor(name))
    }
    return sorted(different | (right.tensors.keys() - left.tensors.keys()))


def _same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _stored_shape(tensor: Tensor, config: ModelConfig) -> tuple[int, ...]:
    return tensor.turned(np.broadcast_to(np.float32(0), names.shape(tensor, config))).shape

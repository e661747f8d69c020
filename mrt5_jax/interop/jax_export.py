"""Programs that run without this package: `jax.export` artifacts of scoring and of greedy generation.

    DST/
        manifest.json                     lengths, rungs, batch size, platforms, versions
        parameters.npz                    the parameters, which every program takes as its argument
        generate_64.cpu.jaxexport, ...    one a function, input length and platform
        load.py                           a loader that needs jax and numpy
        flatbuffers/                      what jax.export reads programs with, and does not bring along

Each program has all rungs of its length and chooses by itself, as in-graph dispatch does. Sampling is not exported:
what it draws would be a promise about random generators of later versions.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import flatbuffers
import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, Int

from mrt5_jax.compaction.staged import in_graph
from mrt5_jax.config import ExecutionConfig
from mrt5_jax.errors import UserError
from mrt5_jax.inference.decoding import Greedy
from mrt5_jax.inference.engine import Predictions, generation, inference_setting, scoring
from mrt5_jax.inference.requests import static_lengths
from mrt5_jax.interop.models import Model
from mrt5_jax.model.parameters import Params, path_name

Platform = Literal["cpu", "cuda", "tpu"]
PLATFORMS: tuple[Platform, ...] = get_args(Platform)
_BACKENDS = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}
"""Platform -> JAX's name of the backend, which rungs and the way of attention depend on."""

FIRST_JAX_NOT_PROMISED = "0.13"
"""A program is promised to run in the version of jax that made it and in later ones, but for this one and what follows.

It comes after the newest that constraints.txt pins, in which the tests run programs."""

FlatParams = dict[str, Any]
"""Parameters by their path, "encoder/gate/kernel"."""


class ExportSizes(NamedTuple):
    """Static sizes of what is exported."""

    input_length: int
    target_length: int
    batch_size: int


def export_programs(model: Model, folder: Path, sizes: ExportSizes, platforms: Sequence[Platform] = PLATFORMS) -> None:
    """Fills a new folder, see above.

    Args:
        model: of any kind, under hard deletion where it has a gate.
        folder: an existing, empty folder.
        sizes: the longest input and target in ids, end of sequence included, and the rows of a batch.
        platforms: what to export for; none of them has to be here.

    Raises:
        UserError: jax cannot export for one of the platforms here.
    """
    drops_tail = model.config.gate is not None and model.config.gate.drop_tail
    lengths = (sizes.input_length,) if drops_tail else static_lengths(sizes.input_length)
    flat = {path_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(model.params)}
    np.savez(folder / "parameters.npz", **flat)  # pyright: ignore[reportArgumentType] - names have slashes
    rungs: dict[str, dict[int, list[int]]] = {}
    for platform in platforms:
        for length in lengths:
            ladder = _export_length(model, flat, folder, sizes._replace(input_length=length), platform)
            rungs.setdefault(platform, {})[length] = ladder
    manifest = {
        "format": 1,
        "made_by": {"mrt5_jax": metadata.version("mrt5-jax"), "jax": jax.__version__},
        "jax": f">={jax.__version__},<{FIRST_JAX_NOT_PROMISED}",
        "functions": {"generate": "greedy search", "score": "log-probability of given targets"},
        "not_included": "sampling and beam search",
        "deletion": "none" if model.config.gate is None else "hard",
        "platforms": list(platforms),
        "batch_size": sizes.batch_size,
        "input_lengths": list(lengths),
        "target_lengths": [sizes.target_length],
        "rungs": rungs,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    with resources.as_file(resources.files("mrt5_jax.interop") / "exported_loader.py") as loader:
        shutil.copyfile(loader, folder / "load.py")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(flatbuffers.__path__[0], folder / flatbuffers.__name__, ignore=ignored)


def _export_length(model: Model, flat: FlatParams, folder: Path, sizes: ExportSizes, platform: Platform) -> list[int]:
    """Writes the programs of one input length, and returns its rungs."""
    # What runs rows one after another is for a lone CPU, and "auto" would ask the machine that exports.
    execution = ExecutionConfig(attention_rows="auto" if platform == "cpu" else "batched")
    lengths = (sizes.input_length, sizes.target_length)
    setting = inference_setting(model.config, execution, "hard", lengths, _BACKENDS[platform], "in_graph")
    generate = in_graph(generation(setting, Greedy(), sizes.target_length))
    score = in_graph(scoring(setting))

    def generate_rows(params: FlatParams, inputs: Int[Array, "batch length"]) -> tuple[Array, Array, Array]:
        found: Predictions = generate(_nested(params), (), (inputs, None)).rows
        return found.tokens, found.num_tokens, found.score

    def score_rows(
        params: FlatParams, inputs: Int[Array, "batch length"], targets: Int[Array, "batch target"]
    ) -> tuple[Float[Array, " batch"]]:
        batch = {
            "encoder_input_tokens": inputs,
            "decoder_input_tokens": jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1],
            "decoder_target_tokens": targets,
            "decoder_loss_weights": (targets > 0).astype(jnp.int32),
        }
        return (score(_nested(params), (), batch).rows.score,)

    params = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in flat.items()}
    inputs = jax.ShapeDtypeStruct((sizes.batch_size, sizes.input_length), jnp.int32)
    targets = jax.ShapeDtypeStruct((sizes.batch_size, sizes.target_length), jnp.int32)
    functions = {"generate": (generate_rows, (params, inputs)), "score": (score_rows, (params, inputs, targets))}
    for name, (function, arguments) in functions.items():
        exported = _exported(function, arguments, platform)
        (folder / f"{name}_{sizes.input_length}.{platform}.jaxexport").write_bytes(exported)
    return list(setting.ladder.rungs)


def _exported(function: Callable[..., Any], arguments: tuple[Any, ...], platform: Platform) -> bytes:
    try:
        return bytes(export.export(jax.jit(function), platforms=[platform])(*arguments).serialize())
    except Exception as error:  # jax has an error of its own for every lowering that a platform lacks
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"jax {jax.__version__} cannot export for {platform} here ({reason}): leave it out of --platforms"
        ) from error


def _nested(flat: FlatParams) -> Params:
    """Returns the parameter tree of a flat form."""
    params: Params = {}
    for name, array in flat.items():
        *parents, last = name.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return params

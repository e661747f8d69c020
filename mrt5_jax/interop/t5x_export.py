"""Checkpoints in T5X's own format: one zarr folder an array, and a msgpack index with their specs.

Names, shapes and files are those of T5X's unscanned ByT5; optimizer state is not written. What T5X's arrays cannot say
(the gate and its settings, softmax1, dropout) is in model_config.json beside them, which `t5x.read_t5x` reads; a gate's
own arrays lie beside T5X's, below target/encoder/gate.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from mrt5_jax.config import ModelConfig
from mrt5_jax.interop import names
from mrt5_jax.interop.t5x_arrays import T5X_INDEX
from mrt5_jax.model.parameters import Params
from mrt5_jax.runs.model_dir import MODEL_CONFIG

_VERSION = 3
"""Of T5X's format."""


def write_t5x(params: Params, config: ModelConfig, folder: Path, step: int) -> Path:
    """Writes checkpoint_STEP into a folder, and returns its path.

    Raises:
        UserError: the parameters are not those of the config.
    """
    from flax.serialization import msgpack_serialize

    checkpoint = folder / f"checkpoint_{step}"
    checkpoint.mkdir()
    target: dict[str, Any] = {}
    for name, array in names.unstack_layers(params, config).items():
        *parents, last = name.split("/")
        node = target
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = _write(checkpoint, f"target.{name.replace('/', '.')}", array)
    state = {"step": np.asarray(step, np.int32)}
    index = {"version": _VERSION, "optimizer": {"target": target, "state": state}}
    text = json.dumps(dataclasses.asdict(config), indent=2, allow_nan=False) + "\n"
    (checkpoint / MODEL_CONFIG).write_text(text, encoding="utf-8")
    (checkpoint / T5X_INDEX).write_bytes(msgpack_serialize(index))
    return checkpoint


def _write(checkpoint: Path, name: str, array: np.ndarray) -> dict[str, Any]:
    """Writes one array in one chunk, and returns its entry in the index."""
    import tensorstore as ts

    layout = {
        "chunks": list(array.shape),
        "compressor": {"id": "gzip", "level": 1},
        "shape": list(array.shape),
    }
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{(checkpoint / name).resolve()}/"},
        "metadata": {**layout, "dtype": array.dtype.str},
        "store_data_equal_to_fill_value": True,
    }
    ts.open(spec, create=True).result().write(np.ascontiguousarray(array)).result()
    kvstore = {"driver": "file", "path": f"{name}/"}
    return {"driver": "zarr", "dtype": array.dtype.name, "kvstore": kvstore, "metadata": layout}

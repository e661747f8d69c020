"""A trained toy that comes with the package, `mrt5_jax.load("toy")`: it writes strings without their vowels.

FOLDER/
    model_config.json, run_config.json, config.gin    as in a MODEL_DIR
    params.safetensors                                the parameters by name, rounded to half precision

`python -m mrt5_jax.toy.make` trains it, writes these files and prints how good they are.
"""

from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save

from mrt5_jax.model.parameters import Params
from mrt5_jax.runs.model_dir import MODEL_CONFIG, write_model_config
from mrt5_jax.runs.run_files import SavedRun, write_run

TOY = "toy"
FOLDER = Path(__file__).parent
PARAMS = "params.safetensors"
STORED = np.float16
"""Halves the file. Parameters of this model are small enough for it, and more exact in it than in bfloat16."""


def read_params(folder: Path = FOLDER) -> Params:
    """Reads the toy's parameters, as float32."""
    stored = load_file(folder / PARAMS)
    return unflatten_dict({name: array.astype(np.float32) for name, array in stored.items()}, sep="/")


def write_toy(folder: Path, params: Params, run: SavedRun, config_text: str) -> None:
    """Writes the files of a toy.

    Args:
        folder: which exists; the toy that lies there is replaced.
        params: of `run.model`.
        run: which has trained them.
        config_text: gin text that resolves to `run`.
    """
    (folder / MODEL_CONFIG).unlink(missing_ok=True)
    write_model_config(folder, run.model)
    write_run(folder, run, config_text)
    named = {str(name): np.asarray(leaf).astype(STORED) for name, leaf in flatten_dict(params, sep="/").items()}
    (folder / PARAMS).write_bytes(save(named))

"""A model on its way from one format to another."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mrt5_jax.config import ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.interop.weight_files import read_json
from mrt5_jax.model.parameters import Params
from mrt5_jax.runs.files import FilePath


@dataclasses.dataclass(frozen=True)
class ImportedFolder:
    """What an export needs besides the parameters to give an imported folder back."""

    config: dict[str, Any]
    """The config.json, as it was."""
    tensors: dict[str, str]
    """The NumPy type of every tensor of the files, second names included."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, path: FilePath) -> "ImportedFolder":
        """Reads what `to_json` wrote; a UserError where the file is something else."""
        try:
            return cls(**read_json(path))
        except TypeError:
            raise UserError(
                f"{path} is not a record of an import; remove it to export with our own config.json"
            ) from None


class Model(NamedTuple):
    """A model that was read, or is to be written."""

    config: ModelConfig
    params: Params
    """NumPy arrays, float32."""
    source: ImportedFolder | None = None
    """What a Hugging Face folder says besides; None where it comes from elsewhere."""
    notes: Sequence[str] = ()
    """What the user should know of the reading: one line each."""
    not_finite: Mapping[str, int] = {}
    """Stored arrays with NaN or infinities, and how many."""
    step: int = 0
    """Of the checkpoint that it was read from."""

"""The threshold that a MODEL_DIR is used with instead of the trained one.

It lies in a file of its own: the trained configuration stays as it is, and without the file holds again.
"""

import dataclasses
import json

from mrt5_jax.data.task_names import label_of
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import AnyPath, as_path
from mrt5_jax.runs.model_dir import write_atomically
from mrt5_jax.runs.saved_configs import read_config

THRESHOLD_FILE = "threshold.json"


@dataclasses.dataclass(frozen=True)
class StoredThreshold:
    """A threshold, and how it was found."""

    threshold: float
    """Hard deletion keeps positions with gate values above it."""
    target_rate: float
    """The share of input tokens that it was to delete."""
    task: str
    split: str
    step: int
    """Of the checkpoint whose gate values it divides."""

    def line(self, model_dir: AnyPath) -> str:
        """Says that the threshold is used, where it comes from and how to go back."""
        return (
            f"{as_path(model_dir) / THRESHOLD_FILE}: gate values are compared with {self.threshold:g}, found at step "
            f"{self.step} for a rate of {self.target_rate:g} on {label_of(self.task)} ({self.split}), not with the "
            "trained threshold: give --threshold (threshold=) for another one, or remove the file"
        )


def read_threshold(model_dir: AnyPath) -> StoredThreshold | None:
    """Reads the threshold that a MODEL_DIR is to be used with; None: the trained one.

    Raises:
        UserError: the file cannot be read, or is not what `write_threshold` writes.
    """
    return read_config(StoredThreshold, as_path(model_dir) / THRESHOLD_FILE, lambda values, place: values)


def write_threshold(model_dir: AnyPath, stored: StoredThreshold) -> None:
    """Writes the threshold that a MODEL_DIR is to be used with, over an earlier one.

    Raises:
        UserError: it cannot be written.
    """
    path = as_path(model_dir) / THRESHOLD_FILE
    try:
        write_atomically(path, json.dumps(dataclasses.asdict(stored), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): give a MODEL_DIR that can") from None

"""A model of ours as a Hugging Face folder, with its card."""

from pathlib import Path

from mrt5_jax.errors import UserError
from mrt5_jax.interop.hf import write_hf
from mrt5_jax.interop.model_card import model_card
from mrt5_jax.interop.models import Model
from mrt5_jax.runs.files import AnyPath
from mrt5_jax.runs.run_files import read_run
from mrt5_jax.selection.selectors import pools


def export_hf(model: Model, source: AnyPath, folder: Path) -> list[str]:
    """Writes what transformers loads, and a README.md about the model.

    Args:
        model: with parameters in NumPy arrays.
        source: the MODEL_DIR, folder or hub id it was read from, which the card names and takes figures from.
        folder: an existing, empty folder.

    Returns:
        notes for the user, one line each.

    Raises:
        UserError: the format has no place for such a model.
    """
    if pools(model.config.gate) and model.source is None:
        raise UserError(
            f"{source}: transformers has no model that pools positions: export it by `mrt5 convert jax-export` or "
            "`mrt5 convert t5x-export`"
        )
    run = read_run(source)
    most = None if run is None else run.data.target_length
    notes = write_hf(model.params, model.config, folder, model.source, max_new_tokens=most)
    (folder / "README.md").write_text(model_card(source, model.config, model.step), encoding="utf-8")
    return notes

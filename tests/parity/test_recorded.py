"""The authors' and T5X's recorded numbers, within the tolerances of `mrt5_jax.tools.parity`."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mrt5_jax.errors import UserError
from mrt5_jax.tools import parity

ALSO_SLOW = pytest.mark.slow
"""Quantities that another fast case covers too; the whole table is in docs/PARITY.md."""


def check(folder, precision) -> set[str]:
    """Asserts that every error is within its tolerance; returns the quantities."""
    errors = parity.measure(folder, precision)
    assert [error for error in errors if not error.worst <= error.tolerance] == []
    return {error.quantity for error in errors}


MRT5 = {
    *("soft loss", "soft logits", "soft encoder hidden states", "soft gradients"),
    *("hard loss", "hard logits", "hard encoder hidden states"),
    *("gate logits", "gate values", "mean gate value", "kept positions per row", "percent deleted"),
}
BYT5 = {"loss", "logits", "encoder hidden states", "gradients"}


@pytest.mark.parametrize(
    ("case", "precision", "quantities"),
    [
        ("byt5_tiny", "float32", BYT5 | {"greedy ids"}),
        pytest.param("byt5_tiny", "float64", BYT5, marks=ALSO_SLOW),
        pytest.param("byt5_tiny", "bfloat16", {"loss"}, marks=ALSO_SLOW),
        ("caninet5_tiny", "float64", BYT5),
        pytest.param("caninet5_tiny", "float32", BYT5, marks=ALSO_SLOW),
        pytest.param("caninet5_tiny", "bfloat16", {"loss"}, marks=ALSO_SLOW),
        ("mrt5_tiny", "float32", MRT5 | {"greedy ids"}),
        pytest.param("mrt5_tiny", "float64", MRT5, marks=ALSO_SLOW),
        ("mrt5_tiny", "bfloat16", {"soft loss", "hard loss"}),
        pytest.param("mrt5_tiny_plain_softmax", "float32", MRT5 | {"greedy ids"}, marks=ALSO_SLOW),
        ("mrt5_tiny_plain_softmax", "float64", MRT5),
        pytest.param("mrt5_tiny_plain_softmax", "bfloat16", {"soft loss", "hard loss"}, marks=ALSO_SLOW),
    ],
)
def test_the_authors_numbers(shared, case, precision, quantities) -> None:
    assert check(shared / "golden" / case, precision) == quantities


@pytest.mark.parametrize("case", ["t5x_legacy", "t5x_orbax", "t5x_scanned_tied_legacy"])
def test_t5xs_numbers(shared, case) -> None:
    assert check(shared / "golden" / case, "float32") == {"logits", "encoder hidden states"}


def test_a_wrong_weight_is_noticed(shared, tmp_path) -> None:
    """The measurement itself: one cross-attention kernel off by a thousandth shows in logits and gradients."""
    case = shutil.copytree(shared / "golden" / "byt5_tiny", tmp_path / "case", copy_function=shutil.copyfile)
    case.chmod(0o755)
    tensors = load_file(case / "model.safetensors")
    name = "decoder.block.1.layer.1.EncDecAttention.v.weight"
    save_file({**tensors, name: tensors[name] * np.float32(1.001)}, case / "model.safetensors")
    beyond = {error.quantity for error in parity.measure(case, "float32") if error.worst > error.tolerance}
    assert {"logits", "gradients"} <= beyond
    assert "encoder hidden states" not in beyond


def test_a_folder_without_recorded_numbers_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"is no recorded case: io\.npz is not there"):
        parity.measure(tmp_path, "float32")

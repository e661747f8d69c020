"""Tensors with NaN or infinities in weights that are imported."""

from collections.abc import Mapping

import numpy as np

from mrt5_jax.errors import UserError

_NAMES_IN_A_MESSAGE = 3


def count_not_finite(tensors: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Returns how many values are NaN or infinite, of the tensors that have such."""
    counts = {name: int(np.sum(~np.isfinite(tensor))) for name, tensor in tensors.items()}
    return {name: count for name, count in counts.items() if count}


def describe_finiteness(counts: Mapping[str, int]) -> str:
    """Returns the tensors by name, each with how many of its values are not finite."""
    shown = [f"{name} ({count:,})" for name, count in list(counts.items())[:_NAMES_IN_A_MESSAGE]]
    more = f" and {len(counts) - len(shown)} more tensors" if len(counts) > len(shown) else ""
    return f"values that are not finite in {', '.join(shown)}{more}"


def check_finite(counts: Mapping[str, int], place: str) -> None:
    """Raises a UserError that names the tensors; the remedy is a flag of the import."""
    if counts:
        raise UserError(f"{place}: {describe_finiteness(counts)}: give --allow_non_finite to import them as they are")

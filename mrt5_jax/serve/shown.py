"""Answers as JSON."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrt5_jax.evaluation.inspection import Piece
from mrt5_jax.selection.selectors import deletion_threshold, selector_rule
from mrt5_jax.serve.limits import ServeLimits
from mrt5_jax.serve.warm_model import Endpoint, WarmModel


def shown_answers(endpoint: Endpoint, found: Sequence[Any], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Returns what is said of each text, or pair.

    Args:
        found: the answers of `WarmModel`, in order.
        sizes: how many of them belong to each text.
    """
    left = iter(found)
    by_text = ([next(left) for _ in range(size)] for size in sizes)
    if endpoint == "deletions":
        return [_shown_windows(windows) for windows in by_text]
    if endpoint == "embeddings":
        return [
            {"positions": positions.tolist(), "hidden": hidden.astype(np.float64).tolist()}
            for own in by_text
            for hidden, positions in own
        ]
    return [answer for own in by_text for answer in own]


def about_model(warm: WarmModel, limits: ServeLimits) -> dict[str, Any]:
    """Returns what a client should know of the model and of what is taken."""
    model, gate = warm.model, None
    if warm.no_deletions is None and model.config.gate is not None:
        lowest = float(selector_rule(model.config.gate).lowest(model.config.gate))
        gate = {
            "threshold": float(deletion_threshold(model.config.gate)),
            "lowest": lowest if math.isfinite(lowest) else None,  # a gate without a bound
        }
    return {
        "model": warm.name,
        "step": model.step,
        "deletion": model.deletion,
        "gate": gate,
        "input_length": model.input_length,
        "target_length": model.target_length,
        "texts": limits.texts,
        "embedding_ids": limits.embedding_ids(warm.width, warm.limits.input_length),
    }


def _shown_windows(windows: Sequence[Sequence[Piece]]) -> dict[str, Any]:
    keep = [kept for window in windows for piece in window for kept in piece.keep]
    shown = [[_shown_piece(piece) for piece in window] for window in windows]
    return {"windows": shown, "length": len(keep), "kept": sum(keep)}


def _shown_piece(piece: Piece) -> dict[str, Any]:
    return {**piece._asdict(), "is_escaped": piece.is_escaped}

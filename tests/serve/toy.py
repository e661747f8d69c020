"""What stands in for a model where its answers do not matter: it compiles nothing, and answers at once."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from mrt5_jax import presets
from mrt5_jax.data.vocabulary import EOS_ID
from mrt5_jax.evaluation.inspection import pieces
from mrt5_jax.inference.requests import Limits, Request
from mrt5_jax.serve.warm_model import BatchShape, Endpoint, WarmModel, Work

INPUT_LENGTH, TARGET_LENGTH = 128, 8


class ToyModel(WarmModel):
    """Takes what an MrT5 takes, and keeps every id."""

    def __init__(self) -> None:
        config = presets.mrt5("tiny")
        self.name, self.width = "toy", config.emb_dim
        self.model: Any = SimpleNamespace(
            config=config,
            name="this model",
            step=0,
            deletion="hard",
            input_length=INPUT_LENGTH,
            target_length=TARGET_LENGTH,
        )
        self.limits = Limits(config.vocab_size, INPUT_LENGTH, TARGET_LENGTH, "refuse")
        self.cutting_limits = self.limits._replace(long_inputs="truncate")
        self.lengths, self.sizes = (64, INPUT_LENGTH), (1, 4)
        self.seconds = None
        self.no_deletions = None

    def answer(self, shape: BatchShape, works: Sequence[Work]) -> list[Any]:
        return [_answer(shape.endpoint, work.request) for work in works]


def _answer(endpoint: Endpoint, request: Request) -> Any:
    length = len(request.input_ids)
    counts = {"length": length, "kept": length, "dropped": 0}
    if endpoint == "generate":
        return {"text": "", "ids": [EOS_ID], "log_probability": 0.0, **counts}
    if endpoint == "score":
        return {"log_probability": 0.0, "num_target_tokens": len(request.target_ids), **counts}
    if endpoint == "deletions":
        return pieces(request.input_ids, np.ones(length, bool), np.zeros(length, np.float32))
    return np.zeros((length, 2), np.float32), np.arange(length)

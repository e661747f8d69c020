"""What a model answers on the first N of eight devices, as JSON.

    JAX_NUM_CPU_DEVICES=8 python -m tests.inference.on_devices CASES SEARCHES

CASES is a list of [number of devices, dispatch, chunks, window], SEARCHES one of names, both as JSON. With
JAX_ENABLE_X64=1 the model computes in float64.
"""

import json
import sys
from typing import Any
from unittest import mock

import jax

from mrt5_jax.api.model import Model
from mrt5_jax.config import Dispatch, ExecutionConfig
from mrt5_jax.inference.beam import Beam
from mrt5_jax.inference.decoding import Greedy
from mrt5_jax.inference.sampling import Sampling
from mrt5_jax.inference.speculative import Speculative

from .models import random_params, small_config

FLOAT = "float64" if jax.config.jax_enable_x64 else "float32"
CONFIG = small_config(vocab_size=384, dtype=FLOAT, param_dtype=FLOAT)
TEXTS = [("some bytes of a text, " * 2)[: 1 + number % 23] for number in range(50)]
SEARCHES = {
    "greedy": Greedy(),
    "speculative": Speculative(3),
    "sampling": Sampling(temperature=2.0),
    "beam": Beam(2),
}
ROWS = 16


def answers(model: Model, batch_size: int, searches: list[str]) -> dict[str, Any]:
    """Everything that a model does with batches, in plain lists."""
    scores = [tuple(one) for one in model.score([(text, text[:5]) for text in TEXTS], batch_size=batch_size)]
    found: dict[str, Any] = {"scores": scores}
    for name in searches:
        written = model.generate(TEXTS, search=SEARCHES[name], seed=3, batch_size=batch_size)
        found[name] = [(one.ids, one.log_probability, one.length, one.kept) for one in written]
    encoded = model.encode(TEXTS, batch_size=batch_size)
    found["hidden"], found["positions"] = encoded.hidden.tolist(), encoded.positions.tolist()
    return found


def main(cases: list[tuple[int, Dispatch, int, int]], searches: list[str]) -> None:
    devices, all_found, params = jax.local_devices(), [], random_params(CONFIG)
    for number, dispatch, chunks, window in cases:
        execution = ExecutionConfig(rungs=(6, 12), inference_dispatch=dispatch, chunks=chunks, window=window)
        model = Model(CONFIG, params, "hard", "m", 0, None, execution, None, input_length=24, target_length=6)
        with mock.patch.object(jax, "local_devices", lambda number=number: devices[:number]):
            assert model.job("predict").engine.num_shards == number
            all_found.append(answers(model, ROWS // number, searches))
    print(json.dumps(all_found))


if __name__ == "__main__":
    main(*map(json.loads, sys.argv[1:]))

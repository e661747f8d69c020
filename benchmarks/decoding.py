"""Greedy decoding of MrT5 against the same dimensions in PyTorch: `python -m benchmarks.decoding`.

64 tokens from inputs of 1024 bytes, batch 8, emb 512, mlp 1024, 9 + 3 layers, 6 heads of 64, random weights. The gate
is set so that the fullest row keeps half of its positions. Contestants take turns in one process on the same cores, in
float32 and, for comparison, with bfloat16 activations:

    PyTorch          transformers' T5ForConditionalGeneration.generate, greedy, cached
    MrT5, none       this library, nothing deleted
    MrT5, hard       this library, half of the positions deleted

Neither side ends a sequence early: torch is told not to, and here the end of sequence always loses a tie.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

# isort: off
# First: it sets the allocator.
from benchmarks.contest import Contestant, compare, compete, contest_parser, report
# isort: on

import numpy as np

from benchmarks.bench_model import BATCH, BYT5, CONFIG, DATA, EXECUTION, LENGTH, keeping, make_batch, make_params
from benchmarks.torch_model import TorchSetting, make_torch_t5, torch_contestants
from mrt5_jax.config import Deletion
from mrt5_jax.inference.engine import Engine
from mrt5_jax.model.multiply_adds import forward_multiply_adds

TOKENS = 64
DType = Literal["float32", "bfloat16"]


def torch_generate(inputs: np.ndarray, setting: TorchSetting) -> Callable[[], None]:
    import torch

    model, tokens = make_torch_t5(CONFIG, setting).eval(), torch.tensor(inputs, dtype=torch.long)

    def run() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=setting.bfloat16):
            out = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                num_beams=1,
                min_new_tokens=TOKENS,
                max_new_tokens=TOKENS,
            )
        assert out.shape == (BATCH, TOKENS + 1), out.shape

    return run


def jax_contestant(engine: Engine, inputs: np.ndarray) -> Callable[[], None]:
    def run() -> None:
        generated = engine.generate(inputs, TOKENS)
        assert np.asarray(generated.num_tokens).tolist() == [TOKENS] * BATCH, generated.num_tokens

    return run


def main() -> None:
    args = contest_parser(__doc__, rounds=5).parse_args()
    batch = make_batch()
    inputs = np.asarray(batch["encoder_input_tokens"])
    params = make_params()
    # The end of sequence gets the logits of token 0, and argmax takes the lower id of the two.
    head = params["decoder"]["logits_dense"]["kernel"]
    params = {**params, "decoder": {**params["decoder"], "logits_dense": {"kernel": head.at[:, 1].set(head[:, 0])}}}
    data = dataclasses.replace(DATA, target_length=TOKENS)

    def ours(deletion: Deletion, kept: int, dtype: DType) -> Contestant:
        config = dataclasses.replace(CONFIG, dtype=dtype)
        own = keeping(params, batch, LENGTH // 2, config)
        engine = Engine(config, own, deletion, dataclasses.replace(EXECUTION, rungs=(LENGTH // 2 + 8,)))
        return Contestant(
            jax_contestant(engine, inputs), float(BATCH * forward_multiply_adds(CONFIG, data, kept).total)
        )

    count = float(BATCH * forward_multiply_adds(BYT5, data, LENGTH).total)
    contestants = torch_contestants(lambda setting: torch_generate(inputs, setting), count) | {
        "MrT5, none": ours("none", LENGTH, "float32"),
        "MrT5, hard": ours("hard", LENGTH // 2, "float32"),
        "MrT5, none, bfloat16": ours("none", LENGTH, "bfloat16"),
        "MrT5, hard, bfloat16": ours("hard", LENGTH // 2, "bfloat16"),
    }
    results = compete(contestants, args.rounds, args.only)
    report(f"greedy, {TOKENS} tokens from {BATCH} x {LENGTH} bytes", results, "PyTorch, eager", args.json)
    compare(results, ("MrT5, none", "MrT5, hard"))


if __name__ == "__main__":
    main()

"""Greedy decoding of MrT5 against the same dimensions in PyTorch: `python -m benchmarks.decoding`.

64 tokens from inputs of 1024 bytes, batch 8, emb 512, mlp 1024, 9 + 3 layers, 6 heads of 64, random weights. The gate
is set so that the fullest row keeps half of its positions. Contestants take turns in one process on the same cores,
ours with activations in float32 and in bfloat16:

    PyTorch T5       transformers' T5ForConditionalGeneration.generate, greedy, cached
    MrT5, none       this library, nothing deleted
    MrT5, hard       this library, half of the positions deleted

Neither side ends a sequence early: torch is told not to, and here the end of sequence always loses a tie.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Literal

from benchmarks.contest import CONSOLE, Contestant, compete, report  # first: it sets the allocator

# isort: split
import numpy as np

from benchmarks.bench_model import BATCH, BYT5, CONFIG, DATA, EXECUTION, LENGTH, keeping, make_batch, make_params
from benchmarks.torch_model import as_it_comes, make_torch_t5
from mrt5_jax.analysis.multiply_adds import forward_multiply_adds
from mrt5_jax.config import Deletion
from mrt5_jax.inference.engine import Engine

TOKENS = 64
DType = Literal["float32", "bfloat16"]


def torch_contestant(inputs: np.ndarray) -> Callable[[], None]:
    import torch

    model, tokens = make_torch_t5(CONFIG).eval(), torch.tensor(inputs, dtype=torch.long)

    def run() -> None:
        with torch.inference_mode():
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant (default: 5)")
    parser.add_argument("--json", metavar="FILE", help="writes the figures here as well")
    args = parser.parse_args()
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

    torch_run, torch_count = torch_contestant(inputs), BATCH * forward_multiply_adds(BYT5, data, LENGTH).total
    results = compete(
        {
            "PyTorch T5": Contestant(torch_run, float(torch_count)),
            "PyTorch T5, as it comes": Contestant(as_it_comes(torch_run), float(torch_count)),
            "MrT5, none": ours("none", LENGTH, "float32"),
            "MrT5, hard": ours("hard", LENGTH // 2, "float32"),
            "MrT5, none, bfloat16": ours("none", LENGTH, "bfloat16"),
            "MrT5, hard, bfloat16": ours("hard", LENGTH // 2, "bfloat16"),
        },
        args.rounds,
    )
    title = f"greedy, {TOKENS} tokens from {BATCH} x {LENGTH} bytes"
    report(title, results, "PyTorch T5", args.json)
    for dtype in ("", ", bfloat16"):
        ratio = results[f"MrT5, none{dtype}"].median / results[f"MrT5, hard{dtype}"].median
        CONSOLE.print(f"hard{dtype} is {ratio:.2f} times as fast as none")


if __name__ == "__main__":
    main()

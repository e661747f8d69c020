"""A forward pass of MrT5, full length and compacted, against plain ByT5 and PyTorch: `python -m benchmarks.forward`.

Inputs of 1024 bytes, targets of 189, batch 8, emb 512, mlp 1024, 9 + 3 layers, 6 heads of 64, random weights; float32,
and for comparison ByT5 with bfloat16 activations. The gate is set so that the fullest row
keeps 31, 50, 69 or 100 % of its positions. Beside it, the rate of matrix products of the encoder's own shapes alone,
weighted as in the encoder: what no forward pass can exceed.
"""

import dataclasses

# isort: off
# First: it sets the allocator.
from benchmarks.contest import CONSOLE, Contestant, compare, compete, contest_parser, report
# isort: on

import jax
import jax.numpy as jnp

from benchmarks.bench_model import (
    BATCH,
    BYT5,
    CONFIG,
    DATA,
    EXECUTION,
    LENGTH,
    RUNGS,
    keeping,
    make_batch,
    make_params,
    multiply_adds,
)
from benchmarks.torch_model import torch_contestants, torch_forward
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import Deletion, ModelConfig
from mrt5_jax.kernels.products import product, project
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import ForwardSetting, forward, run_prefix
from mrt5_jax.model.multiply_adds import forward_multiply_adds
from mrt5_jax.model.parameters import Params


def jax_contestants(batch: dict[str, jax.Array]) -> dict[str, Contestant]:
    params, plain_params = make_params(), make_params(BYT5)
    run = jax.jit(forward, static_argnums=0)
    ladder = Ladder((*RUNGS, LENGTH))

    def of(config: ModelConfig, deletion: Deletion, own: Params, kept: int) -> Contestant:
        setting = ForwardSetting(MrT5(config, EXECUTION), deletion, ladder)
        return Contestant(lambda: run(setting, own, batch).logits, multiply_adds(kept, config))

    contestants = {
        "ByT5": of(BYT5, "none", plain_params, LENGTH),
        "ByT5, bfloat16": of(dataclasses.replace(BYT5, dtype="bfloat16"), "none", plain_params, LENGTH),
        "MrT5, soft": of(CONFIG, "soft", params, LENGTH),
    }
    for kept in (LENGTH, *reversed(RUNGS)):
        contestants[f"MrT5, hard, {kept / LENGTH:.0%}"] = of(CONFIG, "hard", keeping(params, batch, kept), kept)
    return contestants


def encoder_contestant(batch: dict[str, jax.Array]) -> Contestant:
    """The encoder alone: ByT5's prefix."""
    params = make_params(BYT5)
    run = jax.jit(lambda params, tokens: run_prefix(MrT5(BYT5, EXECUTION), params, tokens).hidden)
    count = BATCH * forward_multiply_adds(BYT5, DATA, LENGTH).prefix
    return Contestant(lambda: run(params, batch["encoder_input_tokens"]), float(count))


def products_contestant() -> Contestant:
    """The encoder's matrix products and nothing else: in one program, as often as the encoder has them."""
    width, rows = CONFIG.num_heads * CONFIG.head_dim, BATCH * LENGTH
    layers = CONFIG.num_encoder_layers
    shapes = [((rows, CONFIG.emb_dim), (CONFIG.emb_dim, width))] * 3 + [((rows, width), (width, CONFIG.emb_dim))]
    shapes += [((rows, CONFIG.emb_dim), (CONFIG.emb_dim, CONFIG.mlp_dim))] * 2
    shapes += [((rows, CONFIG.mlp_dim), (CONFIG.mlp_dim, CONFIG.emb_dim))]
    operands = [(jnp.ones(left), jnp.ones(right)) for left, right in shapes]
    heads = jnp.ones((BATCH, CONFIG.num_heads, LENGTH, CONFIG.head_dim))
    weights = jnp.ones((CONFIG.num_heads, LENGTH, LENGTH))
    dense = jax.jit(project)
    scores = jax.jit(lambda heads: jax.lax.map(lambda row: jnp.sum(product("hqd,hkd->hqk", row, row)), heads))
    values = jax.jit(lambda weights, heads: jax.lax.map(lambda row: product("hqk,hkd->hqd", weights, row), heads))

    def run() -> None:
        for _ in range(layers):
            jax.block_until_ready([dense(*pair) for pair in operands])
            jax.block_until_ready((scores(heads), values(weights, heads)))

    return Contestant(run, float(BATCH * forward_multiply_adds(BYT5, DATA, LENGTH).prefix))


def main() -> None:
    args = contest_parser(__doc__, rounds=5).parse_args()
    batch = make_batch()
    contestants = jax_contestants(batch)
    contestants |= torch_contestants(lambda setting: torch_forward(BYT5, batch, setting), multiply_adds(LENGTH, BYT5))
    contestants["ByT5's encoder"] = encoder_contestant(batch)
    contestants["its matrix products"] = products_contestant()
    results = compete(contestants, args.rounds, args.only)
    report("forward pass, 8 x 1024 -> 189, float32", results, "ByT5", args.json)
    compare(results, ("ByT5", "MrT5, hard, 50%"))
    if {"MrT5, hard, 100%", "ByT5"} <= results.keys():
        machinery = results["MrT5, hard, 100%"].median / results["ByT5"].median - 1
        CONSOLE.print(f"at 100 % kept the machinery costs {machinery:+.1%}")
    if {"ByT5's encoder", "its matrix products"} <= results.keys():
        share = results["ByT5's encoder"].gflops / results["its matrix products"].gflops
        CONSOLE.print(f"the encoder reaches {share:.0%} of the rate of its matrix products alone")


if __name__ == "__main__":
    main()

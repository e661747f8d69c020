"""A forward pass of MrT5, full length and compacted, against plain ByT5 and PyTorch: `python -m benchmarks.forward`.

Inputs of 1024 bytes, targets of 189, batch 8, emb 512, mlp 1024, 9 + 3 layers, 6 heads of 64, random weights; float32,
or `--dtype=bfloat16` for our activations, PyTorch's being float32 all the same. The gate is set so that the fullest row
keeps 31, 50, 69 or 100 % of its positions. Beside it, the rate of matrix products of the encoder's own shapes alone,
weighted as in the encoder: what no forward pass can exceed.
"""

import argparse
import dataclasses
from collections.abc import Callable

from benchmarks.contest import CONSOLE, Contestant, compete, report  # first: it sets the allocator

# isort: split
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
from benchmarks.torch_model import as_it_comes, torch_forward
from mrt5_jax.analysis.multiply_adds import forward_multiply_adds
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import Deletion
from mrt5_jax.forward import ForwardSetting, Params, forward, run_prefix
from mrt5_jax.network import MrT5
from mrt5_jax.products import product, project


def jax_contestants(batch: dict[str, jax.Array], dtype: str) -> dict[str, Contestant]:
    gated, plain = (dataclasses.replace(config, dtype=dtype) for config in (CONFIG, BYT5))
    params, plain_params = make_params(), make_params(BYT5)
    run = jax.jit(forward, static_argnums=0)
    ladder = Ladder((*RUNGS, LENGTH))

    def of(config, deletion: Deletion, own: Params, kept: int) -> Contestant:
        setting = ForwardSetting(MrT5(config, EXECUTION), deletion, ladder)
        return Contestant(lambda: run(setting, own, batch).logits, multiply_adds(kept, config))

    contestants = {
        "ByT5": of(plain, "none", plain_params, LENGTH),
        "MrT5, soft": of(gated, "soft", params, LENGTH),
    }
    for kept in (LENGTH, *reversed(RUNGS)):
        contestants[f"MrT5, hard, {kept / LENGTH:.0%}"] = of(gated, "hard", keeping(params, batch, kept, gated), kept)
    return contestants


def encoder_contestant(batch: dict[str, jax.Array], dtype: str) -> Contestant:
    """The encoder alone: ByT5's prefix."""
    config, params = dataclasses.replace(BYT5, dtype=dtype), make_params(BYT5)
    run = jax.jit(lambda params, tokens: run_prefix(MrT5(config, EXECUTION), params, tokens).hidden)
    count = BATCH * forward_multiply_adds(BYT5, DATA, LENGTH).prefix
    return Contestant(lambda: run(params, batch["encoder_input_tokens"]), float(count))


def products_contestant(dtype: str) -> Contestant:
    """The encoder's matrix products and nothing else: in one program, as often as the encoder has them."""
    width, rows = CONFIG.num_heads * CONFIG.head_dim, BATCH * LENGTH
    layers = CONFIG.num_encoder_layers
    shapes = [((rows, CONFIG.emb_dim), (CONFIG.emb_dim, width))] * 3 + [((rows, width), (width, CONFIG.emb_dim))]
    shapes += [((rows, CONFIG.emb_dim), (CONFIG.emb_dim, CONFIG.mlp_dim))] * 2
    shapes += [((rows, CONFIG.mlp_dim), (CONFIG.mlp_dim, CONFIG.emb_dim))]
    operands = [(jnp.ones(left, dtype), jnp.ones(right, dtype)) for left, right in shapes]
    heads = jnp.ones((BATCH, CONFIG.num_heads, LENGTH, CONFIG.head_dim), dtype)
    weights = jnp.ones((CONFIG.num_heads, LENGTH, LENGTH), dtype)
    dense = jax.jit(project)
    scores = jax.jit(lambda heads: jax.lax.map(lambda row: jnp.sum(product("hqd,hkd->hqk", row, row)), heads))
    values = jax.jit(lambda weights, heads: jax.lax.map(lambda row: product("hqk,hkd->hqd", weights, row), heads))

    def run() -> None:
        for _ in range(layers):
            jax.block_until_ready([dense(*pair) for pair in operands])
            jax.block_until_ready((scores(heads), values(weights, heads)))

    return Contestant(run, float(BATCH * forward_multiply_adds(BYT5, DATA, LENGTH).prefix))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant (default: 5)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of our activations")
    parser.add_argument("--json", metavar="FILE", help="writes the figures here as well")
    args = parser.parse_args()
    batch = make_batch()
    contestants: dict[str, Contestant] = jax_contestants(batch, args.dtype)
    torch_run: Callable[[], None] = torch_forward(BYT5, batch)
    contestants["PyTorch T5"] = Contestant(torch_run, multiply_adds(LENGTH, BYT5))
    contestants["PyTorch T5, as it comes"] = Contestant(as_it_comes(torch_run), multiply_adds(LENGTH, BYT5))
    if args.dtype == "bfloat16":
        narrow: Callable[[], None] = torch_forward(BYT5, batch, narrow=True)
        contestants["PyTorch T5, bfloat16"] = Contestant(narrow, multiply_adds(LENGTH, BYT5))
    contestants["ByT5's encoder"] = encoder_contestant(batch, args.dtype)
    contestants["its matrix products"] = products_contestant(args.dtype)
    results = compete(contestants, args.rounds)
    report(f"forward pass, 8 x 1024 -> 189, {args.dtype}", results, "ByT5", args.json)
    for torch in (name for name in results if name.startswith("PyTorch")):
        for name in ("ByT5", "MrT5, hard, 50%"):
            CONSOLE.print(f"{name}: {results[torch].median / results[name].median:.2f} times as fast as {torch}")
    machinery = results["MrT5, hard, 100%"].median / results["ByT5"].median - 1
    CONSOLE.print(f"at 100 % kept the machinery costs {machinery:+.1%}")
    share = results["ByT5's encoder"].gflops / results["its matrix products"].gflops
    CONSOLE.print(f"the encoder reaches {share:.0%} of the rate of its matrix products alone")


if __name__ == "__main__":
    main()

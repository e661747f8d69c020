"""What chunks save on a multilingual batch: `python -m benchmarks.multilingual --records=FILE`.

`mrt5 eval` of a model trained on text in many languages (`runs/pretrain_text.gin`) records what stays of each
validation row; languages differ by a factor of three. The shares of 256 such rows, here of 256 positions, go through
the benchmark model after the gate (emb 512, mlp 1024, 6 + 3 layers, targets of 48), as one chunk with the maximum
of all rows and as chunks of sorted rows. The ideal is every row at its own exact length.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contest import CONSOLE, Contestant, compete, report  # first: it sets the allocator

# isort: split
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.bench_model import CONFIG, EXECUTION, make_params
from mrt5_jax.compaction.ladder import Ladder, make_ladder
from mrt5_jax.compaction.plan import count_kept
from mrt5_jax.compaction.staged import Begun, Part, Staged, in_graph
from mrt5_jax.config import DataConfig, ExecutionConfig
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import NO_SIGNALS, ForwardSetting, GateRows, teacher_forced
from mrt5_jax.model.multiply_adds import forward_multiply_adds
from mrt5_jax.model.parameters import split_stages
from mrt5_jax.selection.survivors import Survivors

ROWS, LENGTH, TARGET = 256, 256, 48
DATA = DataConfig("", (), LENGTH, TARGET, ROWS, ROWS)


def kept_shares(records: str) -> np.ndarray:
    """Of 256 rows that `mrt5 eval` found, drawn from all of its languages."""
    lines = [json.loads(line) for line in Path(records).read_text(encoding="utf-8").splitlines()]
    shares = [line["num_kept_tokens"] / line["num_input_tokens"] for line in lines if line["deletion"] == "hard"]
    return np.random.default_rng(0).choice(shares, ROWS, replace=len(shares) < ROWS)


def after_gate(counts: np.ndarray, ladder: Ladder, num_chunks: int) -> Callable[[], Any]:
    """The model after the gate, on rows that keep as many positions, spread evenly."""
    hidden = jax.random.normal(jax.random.key(0), (ROWS, LENGTH, CONFIG.emb_dim))
    order = np.argsort(np.random.default_rng(0).random((ROWS, LENGTH)), axis=1)
    keep = jnp.asarray(order < counts[:, None])
    found = Survivors(keep, keep.astype(jnp.float32))
    targets = {"decoder_input_tokens": jnp.ones((ROWS, TARGET), jnp.int32)}
    rows = GateRows(hidden, NO_SIGNALS, jnp.ones((ROWS, LENGTH), bool), found, targets)
    setting = ForwardSetting(MrT5(CONFIG, EXECUTION), "hard", ladder)
    _, params = split_stages(make_params())
    staged = Staged(
        begin=lambda params, shared, rows: Begun(rows, count_kept(rows.survivors.keep), ()),
        body=teacher_forced(setting, lambda logits, targets: logits),
        finish=lambda carry, logits, rungs: Part((), logits),
        ladder=ladder,
        num_chunks=num_chunks,
    )
    run = jax.jit(in_graph(staged))
    return lambda: run(params, (), rows).rows


def multiply_adds(lengths: np.ndarray) -> float:
    """After the gate, of rows at these lengths."""
    by_length = {}
    for length in np.unique(lengths):
        count = forward_multiply_adds(CONFIG, DATA, int(length))
        by_length[length] = count.suffix + count.decoder
    return float(sum(by_length[length] for length in lengths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--records", required=True, metavar="FILE", help="MODEL_DIR/eval/.../records.jsonl of mrt5 eval"
    )
    parser.add_argument("--chunks", type=int, default=16, help="that the 256 rows are cut into (default: 16)")
    parser.add_argument("--max_rungs", type=int, default=16, help="lengths that a chunk may run at (default: 16)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant (default: 3)")
    parser.add_argument("--json", metavar="FILE", help="writes the figures here as well")
    args = parser.parse_args()
    counts = np.maximum(1, np.round(kept_shares(args.records) * LENGTH)).astype(np.int32)
    rounding = max(1, LENGTH // args.max_rungs)
    ladder = make_ladder(LENGTH, ExecutionConfig(rounding=rounding, max_rungs=args.max_rungs), jax.default_backend())
    full = np.full(ROWS, LENGTH)

    def rungs(num_chunks: int) -> np.ndarray:
        fullest = np.sort(counts).reshape(num_chunks, -1).max(axis=1)
        return np.repeat([ladder.host_rung(int(count)) for count in fullest], ROWS // num_chunks)

    many = f"{args.chunks} chunks"
    lengths = {"full length": full, "one chunk": rungs(1), many: rungs(args.chunks)}
    contestants = {
        "full length": Contestant(after_gate(full, Ladder((LENGTH,)), 1), multiply_adds(full)),
        "one chunk": Contestant(after_gate(counts, ladder, 1), multiply_adds(lengths["one chunk"])),
        many: Contestant(after_gate(counts, ladder, args.chunks), multiply_adds(lengths[many])),
    }
    CONSOLE.print(
        f"kept: mean {counts.mean() / LENGTH:.0%}, least {counts.min() / LENGTH:.0%}, most {counts.max() / LENGTH:.0%}"
    )
    results = compete(contestants, args.rounds)
    report("256 multilingual rows after the gate, 256 -> 48", results, "full length", args.json)
    whole, exact = multiply_adds(full), multiply_adds(counts)
    base = results["full length"].median
    for name in ("one chunk", many):
        in_work = (whole - multiply_adds(lengths[name])) / (whole - exact)
        in_time = (1 - results[name].median / base) / (1 - exact / whole)
        CONSOLE.print(f"{name}: {in_work:.0%} of the saving of exact lengths in multiply-adds, {in_time:.0%} in time")


if __name__ == "__main__":
    main()

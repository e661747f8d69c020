"""Rows that keep as many positions as those of a trained model: what a mixture of lengths costs, and what it could.

A file of kept lengths has one row a line, `script<TAB>input<TAB>kept`, as `python -m benchmarks.kept_rows` writes it
from the records of `mrt5 eval`. `batch_keeping` makes a batch with such rows, and `keeping_model` parameters whose gate
keeps exactly those positions: it looks at the byte alone.

`benchmarks/kept_lengths.tsv` is of the learned gate of docs/results/pooling.md after 300 steps: 1,000 rows of
128 bytes of validation text in 15 languages, by `mrt5 eval --model_dir=MODEL_DIR --num_examples=1000` and
`python -m benchmarks.kept_rows MODEL_DIR/eval/.../records.jsonl benchmarks/kept_lengths.tsv`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.bench_model import CONFIG, make_params
from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.evaluation.records import of_deletion, read_records
from mrt5_jax.model.parameters import Params

SMALL = ModelConfig(
    emb_dim=128,
    num_heads=4,
    head_dim=32,
    mlp_dim=256,
    num_encoder_layers=4,
    num_decoder_layers=2,
    gate=GateConfig(layer=1),
    dropout_rate=0.0,
)
"""Of the size that somebody tries on a laptop."""
MODELS = {"small": SMALL, "bench": CONFIG}
KEPT_LENGTHS = str(Path(__file__).with_name("kept_lengths.tsv"))

_FIRST_DELETED = 131
"""Ids from here on are deleted by the gate of `keeping_model`: bytes from 128 on."""
_STRENGTH = 100.0
"""Of the embedding's component that the gate looks at: the layers before it change nothing about its sign."""


def read_kept(path: str | Path, script: str | None = None) -> np.ndarray:
    """Reads the kept share of each row in a file of kept lengths.

    Args:
        script: rows of this script alone; None: all.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith(("#", "script\t"))]
    return np.array([int(kept) / int(inputs) for name, inputs, kept in rows if script in (None, name)])


def draw_counts(shares: np.ndarray, rows: int, length: int, seed: int = 0) -> np.ndarray:
    """Draws kept counts [rows] of full rows of `length` positions at their natural mixture."""
    drawn = np.random.default_rng(seed).choice(shares, rows, replace=len(shares) < rows)
    return np.maximum(1, np.round(drawn * length)).astype(np.int32)


def batch_keeping(counts: Sequence[int] | np.ndarray, length: int, target: int, seed: int = 0) -> dict[str, jax.Array]:
    """Makes a batch of full rows of which a `keeping_model` keeps so many positions each, at random places."""
    rng, counts = np.random.default_rng(seed), np.asarray(counts)
    order = np.argsort(rng.random((len(counts), length)), axis=1)
    keep = order < counts[:, None]
    kept, deleted = rng.integers(3, _FIRST_DELETED, order.shape), rng.integers(_FIRST_DELETED, 259, order.shape)
    targets = rng.integers(3, 259, (len(counts), target), dtype=np.int32)
    arrays = {
        "encoder_input_tokens": np.where(keep, kept, deleted).astype(np.int32),
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones_like(targets),
    }
    return jax.tree.map(jnp.asarray, arrays)


def keeping_model(config: ModelConfig) -> Params:
    """Makes random parameters whose gate keeps bytes below 128: gate values at 0 and at k, none between."""
    params = jax.tree.map(np.array, make_params(config))
    kept = np.arange(config.vocab_size) < _FIRST_DELETED
    embedding, gate = params["token_embedder"]["embedding"], params["encoder"]["gate"]
    embedding[:, 0] = np.where(kept, _STRENGTH, -_STRENGTH)
    gate["kernel"][...], gate["bias"][...] = 0, 0
    gate["kernel"][0] = _STRENGTH
    return jax.tree.map(jnp.asarray, params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", metavar="RECORDS", help="records.jsonl of an `mrt5 eval` with hard deletion")
    parser.add_argument("kept", metavar="FILE", help="the file of kept lengths to write")
    parser.add_argument("--rows", type=int, default=1000, help="to draw from all (default: 1000)")
    args = parser.parse_args()
    records = of_deletion(read_records(args.records), "hard")
    chosen = np.random.default_rng(0).permutation(len(records))[: args.rows]
    lines = ["script\tinput\tkept"]
    lines += [
        f"{record.language or record.task}\t{record.num_input_tokens}\t{record.num_kept_tokens}"
        for record in (records[number] for number in chosen)
        if record.num_input_tokens
    ]
    Path(args.kept).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{args.kept}: {len(lines) - 1} rows")


if __name__ == "__main__":
    main()

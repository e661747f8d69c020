"""Rows that keep as many positions as those of a trained model: what a mixture of lengths costs, and what it could.

A file of kept lengths has one row a line, `script<TAB>input<TAB>kept`, as `python -m benchmarks.kept_rows` writes it
from the records of `mrt5 eval`; with `--config=MODEL_DIR/config.gin`, counts of the inputs' bytes by class follow.
`batch_keeping` makes a batch with such rows, and `keeping_model` parameters whose gate keeps exactly those positions:
it looks at the byte alone.

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
from mrt5_jax.cli import gin_setup
from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.data.byte_classes import BYTE_CLASSES, count_classes
from mrt5_jax.data.streams import eval_examples
from mrt5_jax.evaluation.records import Record, of_deletion, read_records
from mrt5_jax.model.parameters import Params
from mrt5_jax.tools.dealt_saving import read_kept_rows

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
KEPT_CLASSES = str(Path(__file__).with_name("kept_classes.tsv"))
"""The same of another run of that recipe, with byte classes."""

_FIRST_DELETED = 131
"""Ids from here on are deleted by the gate of `keeping_model`: bytes from 128 on."""
_STRENGTH = 100.0
"""Of the embedding's component that the gate looks at: the layers before it change nothing about its sign."""


def read_kept(path: str | Path, script: str | None = None) -> np.ndarray:
    """Reads the kept share of each row in a file of kept lengths.

    Args:
        script: rows of this script alone; None: all.
    """
    rows = read_kept_rows(path)
    return rows.shares[[script in (None, name) for name in rows.languages]]


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


def class_counts(config: str, records: Sequence[Record]) -> list[list[int]]:
    """Returns how many bytes of each class the inputs of records have, whose task is read again."""
    data = gin_setup.resolve([config]).run.data
    wanted = {(record.task, record.index) for record in records}
    found: dict[tuple[str, int], list[int]] = {}
    for task in data.eval_tasks:
        for info, example in eval_examples(task, data, split="validation", num_examples=None):
            if (info.task, info.index) in wanted:
                ids = np.asarray(example["inputs"])[None, : data.input_length]
                found[info.task, info.index] = count_classes(ids)[0].tolist()
            if len(found) == len(wanted):
                break
    return [found[record.task, record.index] for record in records]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", metavar="RECORDS", help="records.jsonl of an `mrt5 eval` with hard deletion")
    parser.add_argument("kept", metavar="FILE", help="the file of kept lengths to write")
    parser.add_argument("--rows", type=int, default=1000, help="to draw from all (default: 1000)")
    parser.add_argument("--config", metavar="GIN", help="MODEL_DIR/config.gin, to count the bytes of its task's inputs")
    args = parser.parse_args()
    records = of_deletion(read_records(args.records), "hard")
    chosen = [records[number] for number in np.random.default_rng(0).permutation(len(records))[: args.rows]]
    counts = class_counts(args.config, chosen) if args.config else [()] * len(chosen)
    lines = ["\t".join(("script", "input", "kept", *(BYTE_CLASSES if args.config else ())))]
    lines += [
        "\t".join(map(str, (record.language or record.task, record.num_input_tokens, record.num_kept_tokens, *of_row)))
        for record, of_row in zip(chosen, counts, strict=True)
        if record.num_input_tokens
    ]
    Path(args.kept).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{args.kept}: {len(lines) - 1} rows")


if __name__ == "__main__":
    main()

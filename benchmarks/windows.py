"""What windows save in evaluation: `python -m benchmarks.windows --kept=FILE`.

Hard evaluation of the same batches without deletion, each batch by itself, and regrouped in windows; by the programs of
`mrt5 eval`, under either dispatch. The rows' kept shares come from a file of kept lengths (`benchmarks.kept_rows`), at
their natural mixture; rows are full. The ideal is every row at its own exact length after the gate, by multiply-adds.
`--model=small` is 4 + 2 layers of 128 with a gate after the first, by default in batches of 32 rows of 64 bytes;
`--model=bench` is the benchmarks' model, in batches of 64 rows of 256 bytes.
"""

from typing import Any

from benchmarks.contest import CONSOLE, Contestant, compete, contest_parser, report  # first: it sets the allocator

# isort: split
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.bench_model import EXECUTION
from benchmarks.kept_rows import KEPT_LENGTHS, MODELS, batch_keeping, draw_counts, keeping_model, read_kept
from mrt5_jax.compaction.ladder import Ladder, make_ladder
from mrt5_jax.config import DataConfig, Deletion, Dispatch, ModelConfig
from mrt5_jax.data.arrangements import INDEX
from mrt5_jax.evaluation.programs import RowResults, WindowEvaluator
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.multiply_adds import body_multiply_adds, forward_multiply_adds
from mrt5_jax.parallel.memory import batches_in_window

BATCHES = {"small": (32, 64), "bench": (64, 256)}
"""Rows and bytes of a batch."""


def multiply_adds(config: ModelConfig, length: int, target: int, slots: np.ndarray) -> float:
    """Of the forward passes of rows that run at so many slots each."""
    data = DataConfig("", (), length, target, 1, 1)
    by_slots = {int(own): forward_multiply_adds(config, data, int(own)).total for own in np.unique(slots)}
    return float(sum(by_slots[int(own)] for own in slots))


def regrouped(counts: np.ndarray, rows: int, window: int, ladder: Ladder) -> np.ndarray:
    """The slots that run where windows of so many batches are sorted, in the order of the chunks."""
    cuts = range(window * rows, counts.size, window * rows)
    fullest = [np.sort(own).reshape(-1, rows)[:, -1] for own in np.split(counts, cuts)]
    return np.repeat([ladder.host_rung(int(count)) for count in np.concatenate(fullest)], rows)


def main() -> None:
    parser = contest_parser(__doc__, rounds=5)
    parser.add_argument(
        "--kept", default=KEPT_LENGTHS, metavar="FILE", help="a file of kept lengths (default: our own)"
    )
    parser.add_argument("--script", help="rows of this script alone (default: all)")
    parser.add_argument("--model", choices=tuple(MODELS), default="small", help="(default: small)")
    parser.add_argument("--rows", type=int, help="of a batch (default: the model's)")
    parser.add_argument("--length", type=int, help="bytes of a row (default: the model's)")
    parser.add_argument("--target", type=int, help="of the rows' targets (default: three sixteenths of the bytes)")
    parser.add_argument("--batches", type=int, help="that are evaluated (default: the default window)")
    parser.add_argument("--window", type=int, help="batches to regroup (default: all of them)")
    args = parser.parse_args()

    config, (rows, length) = MODELS[args.model], BATCHES[args.model]
    rows, length = args.rows or rows, args.length or length
    target = args.target or length * 3 // 16
    num_batches = args.batches or batches_in_window(config, EXECUTION, rows, length)
    window = args.window or num_batches
    model, cost = MrT5(config, EXECUTION), body_multiply_adds(config, target)
    counts = draw_counts(read_kept(args.kept, args.script), num_batches * rows, length)
    params = keeping_model(config)
    batches = [
        batch_keeping(own, length, target, seed) | {INDEX: jnp.arange(rows)}
        for seed, own in enumerate(counts.reshape(num_batches, rows))
    ]
    found: dict[str, list[RowResults]] = {}
    slots: dict[str, np.ndarray] = {}

    def contestant(name: str, deletion: Deletion, dispatch: Dispatch, size: int) -> Contestant:
        ladder = make_ladder(length, EXECUTION, jax.default_backend(), None, cost, dispatch)
        evaluator = WindowEvaluator(model, {length: ladder}, dispatch=dispatch, window=size)
        slots[name] = np.full(counts.size, length) if deletion == "none" else regrouped(counts, rows, size, ladder)

        def run() -> Any:
            found[name] = []
            for start in range(0, num_batches, size):
                found[name] += evaluator(params, batches[start : start + size], deletion)
            return found[name]

        return Contestant(run, multiply_adds(config, length, target, slots[name]))

    hard: dict[str, tuple[Dispatch, int]] = {
        "one batch, host": ("host", 1),
        f"window of {window}, host": ("host", window),
        "one batch, in graph": ("in_graph", 1),
        f"window of {window}, in graph": ("in_graph", window),
    }
    contestants = {"no deletion": contestant("no deletion", "none", "host", 1)}
    contestants |= {name: contestant(name, "hard", *how) for name, how in hard.items()}
    results = compete(contestants, args.rounds, args.only)
    for name in set(hard) & set(found):  # the gate keeps what the file says, and rows run at the slots that are counted
        kept, ran = (np.concatenate([getattr(own, of) for own in found[name]]) for of in ("num_kept_tokens", "rung"))
        assert (kept == counts).all()
        assert ran.sum() == slots[name].sum()
    title = f"{args.model}: {num_batches} batches of {rows} x {length} -> {target}, {args.script or 'all scripts'}"
    report(title, results, "no deletion", args.json)
    whole, exact = (multiply_adds(config, length, target, own) for own in (slots["no deletion"], counts))
    CONSOLE.print(f"kept: {counts.mean():.1f} of {length}; exact lengths would be {whole / exact:.2f} times as fast")
    base = results.get("no deletion")
    for name, result in results.items():
        line = f"{name}: {slots[name].mean():.1f} slots, {1000 * result.median / num_batches:.1f} ms a batch"
        if base is not None and result is not base:
            in_work = (whole - result.multiply_adds) / (whole - exact)
            in_time = (1 - result.median / base.median) / (1 - exact / whole)
            line += f"; of what exact lengths would save {in_work:.0%} in multiply-adds, {in_time:.0%} in time"
        CONSOLE.print(line)


if __name__ == "__main__":
    main()

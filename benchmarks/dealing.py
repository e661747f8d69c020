"""What dealing rows to devices saves: `python -m benchmarks.dealing --kept=FILE`.

One rung holds for all devices, so a chunk is as long as the fullest row that any of them has in it. Batches are drawn
from rows of which it is known what a trained gate keeps; each device sorts its own rows and cuts them into chunks. The
table has the share of the saving that exact lengths would give: with rows as they are drawn, dealt by what the
predictor of training expects (fitted on one half of the rows, used on the other), by the mean of the row's language in
that half, and by what is really kept.

FILE is a file of kept lengths (`benchmarks.kept_rows`); without counts of byte classes the predictor knows languages.
"""

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.kept_rows import KEPT_CLASSES
from mrt5_jax.data.expectation import UNITS
from mrt5_jax.tools.dealt_saving import Sample, held_out_sample, read_kept_rows, share_saved

SIZES = ((1, 64, 8), (8, 16, 4), (8, 16, 8), (8, 64, 16), (64, 16, 8), (256, 4, 4), (256, 16, 8), (256, 64, 16))
"""Devices, rows of each, chunks."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kept", default=KEPT_CLASSES, metavar="FILE", help="(default: our own, with byte classes)")
    parser.add_argument("--rungs", type=int, nargs="+", default=(8, 16), help="even ones (default: 8 16)")
    parser.add_argument("--seed", type=int, default=0, help="of the halves (default: 0)")
    args = parser.parse_args()
    rows = read_kept_rows(args.kept)
    by_all = held_out_sample(rows, args.seed)
    by_language = held_out_sample(rows._replace(class_counts=None), args.seed)
    samples = {
        "predictor": by_all,
        "language": by_language,
        "true length": Sample(by_all.kept, by_all.kept),
    }
    left = float(np.var(by_all.kept - by_all.expected / UNITS) / np.var(by_all.kept))
    print(f"{args.kept}: {len(rows.languages)} rows, mean kept {rows.shares.mean():.2f}")
    print(f"the predictor explains {1 - left:.0%} of the variance in the half that it has not seen")
    table = Table("devices", "rows", "chunks", "rungs", "as drawn", *(f"dealt by {name}" for name in samples))
    for devices, of_device, chunks in SIZES:
        for count in args.rungs:
            rungs = [(number + 1) / count for number in range(count)]
            size = devices, of_device, chunks
            shares = [share_saved(by_all, *size, rungs, dealt=False)]
            shares += [share_saved(sample, *size, rungs, dealt=True) for sample in samples.values()]
            table.add_row(*map(str, (*size, count)), *(f"{share:.2f}" for share in shares))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

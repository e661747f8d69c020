"""Trains every scheme for 300 steps of text: `python -m benchmarks.scheme_runs --text=FOLDER --models=FOLDER`.

FOLDER of the text has a file a language. The model is that of runs/pretrain_text.gin, one seed, the same batches for
all. A scheme whose penalties move something is trained once more without them. Finished runs are not made again;
the table is of all that are there.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.machine import this_machine
from benchmarks.recipes.course import read_metrics
from mrt5_jax.cli.gin_setup import resolve
from mrt5_jax.config import RunConfig
from mrt5_jax.data.batches import train_batches
from mrt5_jax.selection.segments import first_of_examples, previous
from mrt5_jax.selection.spacelike import is_spacelike

SEED, STEPS, WIDTH = 0, 300, 10
"""Of each run; and the steps of a mean: single batches differ by some tenths of a nat."""
STOPPED = 75
BINDINGS = (f"SEED={SEED}", f"TRAIN_STEPS={STEPS}", "config.ExecutionConfig.log_every=1")
RULE = ("config.RunConfig.controller=None", "config.GateConfig.layer=1")
# The recipe's slow gate is made for a controller that pushes; these learn as fast as the rest.
LEARNS = ("config.GateConfig.layer=1", "config.OptimizerConfig.gate_learning_rate=None")
PUSHED = ("config.LossConfig.regularizer_delay=100",)
NOT_PUSHED = ("config.RunConfig.controller=None", "config.LossConfig.regularizer_delay=0")
NO_PENALTIES = ("config.LossConfig.penalties=()", "config.RunConfig.controller=None")


class Scheme(NamedTuple):
    """A run: a file over the recipe's model, and what is bound."""

    file: str | None
    bindings: tuple[str, ...]
    without: tuple[str, ...] | None = None
    """What takes its penalties away; None: it has none that move anything."""
    penalties: tuple[str, ...] = ()
    """Their names in metrics.jsonl."""


SCHEMES = {
    "learned": Scheme(None, PUSHED, NOT_PUSHED, ("gate_mean",)),
    "log_sigmoid": Scheme(
        "mrt5_log_sigmoid", PUSHED, (*NOT_PUSHED, NO_PENALTIES[0]), ("gate_mean", "token_entropy", "mean_entropy")
    ),
    "random": Scheme("random_t5", RULE),
    "fixed": Scheme("fixed_t5", RULE),
    "every_kth, mean": Scheme("mean_pooling", ("POOLING_LAYER=1",)),
    "every_kth, convolution": Scheme("canine_t5", ("POOLING_LAYER=1",)),
    # These two hold the recipe's target, half of all positions, by their prior and N.
    "boundary_predictor": Scheme("bpt5", LEARNS, NO_PENALTIES, ("boundaries",)),
    "hnet": Scheme("hnet_t5", LEARNS, NO_PENALTIES, ("ratio",)),
    "taught_boundaries": Scheme("bpt5_white_space", LEARNS, NO_PENALTIES, ("teacher",)),
    "magnet": Scheme("magnet_t5", LEARNS, NO_PENALTIES, ("boundaries",)),
    "flexitokens": Scheme("flexitokens_t5", LEARNS, NO_PENALTIES, ("bounds",)),
    "spacelike": Scheme("spacebyte_t5", RULE),
    "words": Scheme("words_t5", RULE),
    "top_k, gate": Scheme("top_k_t5", LEARNS),
    "top_k, router": Scheme("top_k_t5", (*LEARNS, "SCORE='router'")),
    "oracle": Scheme("oracle_t5", RULE),
}


def runs() -> dict[str, tuple[Scheme, tuple[str, ...]]]:
    """Returns every run by name: its scheme, and all that is bound."""
    found = {}
    for name, scheme in SCHEMES.items():
        found[name] = scheme, (*BINDINGS, *scheme.bindings)
        if scheme.without is not None:
            found[f"{name}, no penalty"] = scheme, (*BINDINGS, *scheme.bindings, *scheme.without)
    return found


def write_masks(run: RunConfig, path: Path) -> None:
    """Writes the masks that SpaceByte's rule makes of the run's batches, and of some more that are read ahead."""
    stream = train_batches(run.data, seed=run.training.seed)
    lines = {}
    for _ in range(STEPS + 8):
        tokens = next(stream)["encoder_input_tokens"]
        mask, spacelike = tokens > 0, np.asarray(is_spacelike(tokens))
        keep = mask & (np.asarray(first_of_examples(mask, None)) | (spacelike & ~np.asarray(previous(spacelike))))
        for row, of, kept in zip(tokens, mask, keep, strict=True):
            lines[tuple(row[of].tolist())] = "".join(map(str, kept[of].astype(int)))
    text = (json.dumps({"inputs": list(ids), "mask": kept}) for ids, kept in lines.items() if ids)
    path.write_text("\n".join(text), encoding="utf-8")


def train_one(name: str, text: str, models: Path) -> None:
    """Trains a run to its end."""
    scheme, bound = runs()[name]
    files = ["runs/pretrain_text.gin", *([] if scheme.file is None else [f"models/{scheme.file}.gin"])]
    bindings = [f"TEXT_FILES='{text}/*.txt'", f"MODEL_DIR='{folder_of(name, models)}'", *bound]
    if scheme.file == "oracle_t5":
        masks = models / "masks.jsonl"
        plain = [one for one in bindings if "GateConfig" not in one]
        if not masks.is_file():
            write_masks(resolve(files[:1], bindings=plain).run, masks)
        bindings.append(f"MASKS='{masks}'")
    flags = [*(f"--gin_file={file}" for file in files), *(f"--gin.{binding}" for binding in bindings)]
    subprocess.run([sys.executable, "-m", "mrt5_jax", "train", *flags], check=True)


def folder_of(name: str, models: Path) -> Path:
    return models / name.replace(", ", "_").replace(" ", "_")


def is_finished(folder: Path) -> bool:
    return (folder / "checkpoints" / str(STEPS)).is_dir()


def report(models: Path) -> None:
    """Prints a table of the runs that are finished, in Markdown."""
    print("| | loss | kept | penalties |\n|---|---|---|---|")
    for name, (scheme, _) in runs().items():
        if not is_finished(folder := folder_of(name, models)):
            continue
        lines = read_metrics(folder)
        assert len(lines) == STEPS, folder

        def means(metric: str, digits: int, lines: list = lines) -> str:
            values = np.array([line[metric] for line in lines])
            if metric == "deletion_rate":
                values = 100 * (1 - values)
            parts = (values[begin : begin + WIDTH].mean() for begin in (0, (STEPS - WIDTH) // 2, STEPS - WIDTH))
            return " → ".join(f"{part:.{digits}f}" for part in parts)

        penalties = "; ".join(f"{penalty} {means(penalty, 3)}" for penalty in scheme.penalties)
        print(f"| {name} | {means('loss', 2)} | {means('deletion_rate', 0)} % | {penalties} |")
    print(f"means over steps 1-10, 146-155 and 291-300, kept in %; seed {SEED}. {this_machine()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, metavar="FOLDER", help="with a file of text a language")
    parser.add_argument("--models", type=Path, required=True, metavar="FOLDER", help="where MODEL_DIRs are, or will be")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(runs()), help="these alone (default: all)")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so long (default: all)")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    args.models.mkdir(parents=True, exist_ok=True)
    for name in args.only or runs():
        if is_finished(folder_of(name, args.models)):
            continue
        if time.monotonic() > end:
            return STOPPED
        train_one(name, args.text, args.models)
    report(args.models)
    return 0


if __name__ == "__main__":
    sys.exit(main())

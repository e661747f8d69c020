"""Trains the toy that comes with the package, writes its files, and prints how good they are.

    python -m mrt5_jax.toy.make [--output_dir=toy_run] [--toy_dir=mrt5_jax/toy]

The recipe is that of `mrt5 quickstart`, `runs/quickstart.gin`, from the seed below. The files are read again and judged
as `mrt5_jax.load` reads them, on strings that were never trained on. Started again, the command goes on where it was
stopped. Its exit status is 1 where the toy is not good enough.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from mrt5_jax import toy
from mrt5_jax.api.loading import describe_toy, load
from mrt5_jax.api.runs import evaluate, placed
from mrt5_jax.cli.quickstart import NUM_STRINGS, PAGE, SPLIT, inspect_strings, train_model, vowel_lines
from mrt5_jax.compilation_cache import keep_programs_from_now_on
from mrt5_jax.errors import PREEMPTED_EXIT_CODE, Preempted
from mrt5_jax.evaluation.inspection import VowelStatistics
from mrt5_jax.evaluation.records import of_deletion, summarize
from mrt5_jax.tasks.diagnostics import diagnostic_task  # pyright: ignore[reportMissingImports] - setuptools puts it there

TOY_SEED = 0
SEQUENCE_ACCURACY = 0.95
"""Of the strings, at least so many are written exactly under hard deletion."""
VOWELS_DELETED = 0.95
MOST_BYTES = 1_200_000
"""Of all its files together."""


def judge_toy(folder: Path) -> tuple[float, VowelStatistics]:
    """Returns the sequence accuracy of a toy under hard deletion, and what it deletes, both of unseen strings.

    Args:
        folder: with the files of `toy.write_toy`.
    """
    model = describe_toy(folder).prepare().load()
    assert model.run is not None
    evaluation = dataclasses.replace(model.run.evaluation, num_examples=NUM_STRINGS)
    run = dataclasses.replace(model.run, evaluation=evaluation)
    task = diagnostic_task("vowel_removal", length=run.data.input_length)
    assert (task,) == run.data.eval_tasks
    found = evaluate(model, task, split=SPLIT, deletions=("hard",), num_examples=NUM_STRINGS)
    vowels, _ = inspect_strings(run, placed(model), found.records)
    return summarize(of_deletion(found.records, "hard"))["sequence_accuracy"], vowels


def size_of(folder: Path) -> int:
    """Returns the bytes of a toy's files."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix not in ("", ".py"))


def main() -> int:
    """Trains, writes, judges, and prints the figures; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("toy_run"), help="where it is trained (%(default)s)")
    parser.add_argument("--toy_dir", type=Path, default=toy.FOLDER, help="where its files go (%(default)s)")
    args = parser.parse_args()
    keep_programs_from_now_on()
    run = train_model(args.output_dir / "mrt5", TOY_SEED, args.output_dir / PAGE)
    trained = load(run.model_dir)
    assert trained.run is not None
    args.toy_dir.mkdir(parents=True, exist_ok=True)
    saved = dataclasses.replace(trained.run, model_dir=toy.TOY)
    toy.write_toy(args.toy_dir, trained.params, saved, trained.config_text)
    accuracy, vowels = judge_toy(args.toy_dir)
    size = size_of(args.toy_dir)
    print(f"seed {TOY_SEED}, step {trained.step:,}; {size:,} bytes of files, at most {MOST_BYTES:,}")
    print(f"{accuracy:.2%} of {NUM_STRINGS:,} unseen strings are written exactly under hard deletion")
    print(*vowel_lines(vowels), sep="\n")
    good = accuracy >= SEQUENCE_ACCURACY and vowels.vowels.rate >= VOWELS_DELETED and size <= MOST_BYTES
    print("good enough" if good else f"not good enough: {SEQUENCE_ACCURACY:.0%} and {VOWELS_DELETED:.0%} are wanted")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Preempted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(PREEMPTED_EXIT_CODE)

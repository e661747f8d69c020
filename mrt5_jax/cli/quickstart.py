"""`mrt5 quickstart`: trains a tiny ByT5 and a tiny MrT5 on vowel removal, and shows what deletion costs and saves."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mrt5_jax.config import Deletion, RunConfig
from mrt5_jax.runs.files import given_local_path

if TYPE_CHECKING:
    from mrt5_jax.evaluation.evaluate import Evaluation
    from mrt5_jax.evaluation.inspection import VowelStatistics
    from mrt5_jax.evaluation.model_dirs import LoadedModel
    from mrt5_jax.evaluation.page import Section
    from mrt5_jax.evaluation.records import Record

GIN_FILE = "runs/quickstart.gin"
BYT5_BINDINGS = (
    "config.ModelConfig.gate=None",
    "config.ModelConfig.softmax1=False",
    "config.RunConfig.controller=None",
    "config.LossConfig.score_penalty=0.0",
    "TRAIN_STEPS=1500",
)
"""What makes a plain ByT5 of the run's MrT5. It has no gate to wait for, and needs fewer steps."""

NUM_STRINGS = 2000
NUM_EXAMPLES = 30
SPLIT = "test"
PAGE = "examples.html"


class Quickstart(NamedTuple):
    """What the two models do on unseen strings."""

    byt5: "Evaluation"
    mrt5: "Evaluation"
    """Under soft and hard deletion."""
    vowels: "VowelStatistics"
    """Of hard deletion."""
    page: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags: where to, and from which random start."""
    parser.add_argument(
        "--output_dir",
        default="quickstart",
        type=given_local_path,
        metavar="DIR",
        help="default: quickstart; started again, it goes on there",
    )
    parser.add_argument("--seed", type=int, help=f"default: that of {GIN_FILE}")


def run(args: argparse.Namespace) -> int:
    """Trains what is not trained yet, evaluates, prints the table and where the page is."""
    from rich.console import Console

    from mrt5_jax.evaluation.tables import COLUMNS_EXPLAINED, deletion_rows, gap_line, results_table

    results = quickstart(Path(args.output_dir), args.seed)
    rows = [
        *deletion_rows(results.byt5.records, results.byt5.milliseconds),
        *deletion_rows(results.mrt5.records, results.mrt5.milliseconds, results.mrt5.body),
    ]
    rows = [row._replace(name=name) for row, name in zip(rows, ("ByT5", "MrT5 soft", "MrT5 hard"), strict=True)]
    console = Console()
    console.print(results_table(f"vowel removal, {NUM_STRINGS:,} unseen strings", rows))
    console.print(COLUMNS_EXPLAINED, style="dim", highlight=False, soft_wrap=True)
    for line in (gap_line(results.mrt5.records), *vowel_lines(results.vowels)):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"coloured examples: {results.page}", soft_wrap=True, highlight=False)
    console.print(f"the models: {args.output_dir}/byt5, {args.output_dir}/mrt5", soft_wrap=True, highlight=False)
    return 0


def quickstart(output_dir: Path, seed: int | None = None) -> Quickstart:
    """Trains both models below `output_dir`, or goes on where they stand; evaluates them and writes the page.

    Raises:
        UserError: `output_dir` has models of another seed or recipe.
    """
    byt5_run = _train(output_dir / "byt5", seed, BYT5_BINDINGS)
    byt5 = _evaluate(byt5_run, _load(byt5_run), ("none",))
    mrt5_run = _train(output_dir / "mrt5", seed, ())
    loaded = _load(mrt5_run)
    mrt5 = _evaluate(mrt5_run, loaded, ("soft", "hard"))
    vowels, sections = inspect_strings(mrt5_run, loaded, mrt5.records)
    from mrt5_jax.evaluation.page import render_page
    from mrt5_jax.runs.model_dir import write_atomically

    gate = mrt5_run.model.gate
    assert gate is not None
    introduction = f"Unseen strings; the model is to write them without their vowels. {' '.join(vowel_lines(vowels))}"
    page = output_dir / PAGE
    write_atomically(
        page, render_page("MrT5 on vowel removal: what the gate deletes", introduction, sections, gate.scale)
    )
    return Quickstart(byt5, mrt5, vowels, page)


def _train(model_dir: Path, seed: int | None, bindings: Sequence[str]) -> RunConfig:
    """Trains a model, or goes on where it stands; returns its run, to be evaluated on NUM_STRINGS strings."""
    from mrt5_jax.cli import gin_setup
    from mrt5_jax.training.loop import train

    seeded = () if seed is None else (f"SEED={seed}",)
    configured = gin_setup.resolve([GIN_FILE], bindings=[f"MODEL_DIR={str(model_dir)!r}", *seeded, *bindings])
    configured.check()
    configured.print_notes()
    print(f"training {model_dir}", file=sys.stderr)
    train(configured.run, configured.config_text)
    evaluation = dataclasses.replace(configured.run.evaluation, num_examples=NUM_STRINGS)
    return dataclasses.replace(configured.run, evaluation=evaluation)


def _load(run: RunConfig) -> "LoadedModel":
    from mrt5_jax.evaluation.model_dirs import load_model

    return load_model(run.model_dir, run.model, None, run.execution)


def _evaluate(run: RunConfig, loaded: "LoadedModel", deletions: Sequence[Deletion]) -> "Evaluation":
    """Evaluates a run's model on its first task, and writes that to its MODEL_DIR."""
    from mrt5_jax.cli.progress import watched
    from mrt5_jax.evaluation.model_dirs import evaluate_task, write_evaluation

    task, total = run.data.eval_tasks[0], -(-NUM_STRINGS // run.data.eval_batch_size)
    print(f"evaluating {run.model_dir}", file=sys.stderr)
    found = evaluate_task(loaded, run, task, SPLIT, deletions, lambda batches: watched(batches, "batches", total))
    write_evaluation(run.model_dir, found, task, SPLIT, loaded.step)
    return found


def inspect_strings(
    run: RunConfig, loaded: "LoadedModel", records: "Sequence[Record]"
) -> tuple["VowelStatistics", list["Section"]]:
    """Returns what the gate deletes of all the strings, and the first of them with what the model writes.

    Args:
        records: of the strings of the run's first evaluation task, under hard deletion among others.
    """
    import jax
    import numpy as np

    from mrt5_jax.data.batches import eval_batches
    from mrt5_jax.data.vocabulary import decode_to_text
    from mrt5_jax.evaluation.inspection import make_inspector, pieces, vowel_statistics
    from mrt5_jax.evaluation.page import Section
    from mrt5_jax.evaluation.records import of_deletion

    inspector = make_inspector(loaded.model)
    hard = iter(of_deletion(records, "hard"))
    tokens, keep, sections = [], [], []
    for batch in eval_batches(run.data.eval_tasks[0], run.data, split=SPLIT, num_examples=NUM_STRINGS):
        inputs, targets = batch.arrays["encoder_input_tokens"], batch.arrays["decoder_target_tokens"]
        selection = jax.device_get(inspector(loaded.params, inputs))
        tokens.append(inputs)
        keep.append(selection.keep)
        for row, record in zip(range(len(batch.examples)), hard, strict=False):
            if len(sections) < NUM_EXAMPLES:
                target = decode_to_text(targets[row])
                verdict = "correct" if record.sequence_correct else f"should be {target}"
                note = f"{record.prediction} ({verdict})"
                found = pieces(inputs[row], selection.keep[row], selection.signals.key_bias[row])
                sections.append(Section(f"string {record.index}", found, note))
    return vowel_statistics(np.concatenate(tokens), np.concatenate(keep)), sections


def vowel_lines(vowels: "VowelStatistics") -> list[str]:
    """Says what is deleted of vowels and letters in one sentence, of '#' and the end of the sequence in another."""
    return [
        f"{vowels.vowels.rate:.2%} of {vowels.vowels.total:,} vowels are deleted; of the {vowels.letters.deleted:,} "
        f"deleted letters, {vowels.vowels_among_deleted_letters:.2%} are vowels.",
        f"'#' is deleted in {vowels.hashes.deleted:,} of {vowels.hashes.total:,} strings, the end of the sequence in "
        f"{vowels.ends.deleted:,} of {vowels.ends.total:,}.",
    ]


if __name__ == "__main__":
    from mrt5_jax.cli.main import entry_point

    sys.argv.insert(1, "quickstart")
    entry_point()

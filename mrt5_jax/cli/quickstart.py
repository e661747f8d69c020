"""`mrt5 quickstart`: trains a tiny MrT5 on vowel removal, at first as a ByT5, and shows what it deletes."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mrt5_jax.config import Deletion, RunConfig
from mrt5_jax.errors import UserError
from mrt5_jax.runs.files import explained, given_local_path

if TYPE_CHECKING:
    from mrt5_jax.evaluation.evaluate import Evaluation
    from mrt5_jax.evaluation.inspection import VowelStatistics
    from mrt5_jax.evaluation.model_dirs import LoadedModel
    from mrt5_jax.evaluation.page import Section
    from mrt5_jax.evaluation.records import Record

GIN_FILE = "runs/quickstart.gin"
LENGTHS = ("config.ExecutionConfig.rounding=28",)
"""Without their vowels the strings keep 26 of 32 ids on average, and most fit 28: the programs' one shorter length.
By default they would have 12 and 22, which hardly any string fits, and would compile longer."""
NUM_STRINGS = 2000
NUM_EXAMPLES = 30
SPLIT = "test"
PAGE = "examples.html"
TITLE = "MrT5 on vowel removal: what the gate deletes"


class Quickstart(NamedTuple):
    """What the model does on unseen strings."""

    byt5: "Evaluation"
    """Without deletion, after `gate_step`: until then nothing has pushed its gate."""
    mrt5: "Evaluation"
    """At the end, under soft and hard deletion."""
    gate_step: int
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

    output_dir = Path(args.output_dir)
    results = quickstart(output_dir, args.seed)
    rows = [
        *deletion_rows(results.byt5.records, results.byt5.milliseconds),
        *deletion_rows(results.mrt5.records, results.mrt5.milliseconds, results.mrt5.body),
    ]
    rows = [row._replace(name=name) for row, name in zip(rows, ("ByT5", "MrT5 soft", "MrT5 hard"), strict=True)]
    console = Console()
    console.print(results_table(f"vowel removal, {NUM_STRINGS:,} unseen strings", rows))
    console.print(COLUMNS_EXPLAINED, style="dim", highlight=False, soft_wrap=True)
    before = f"ByT5: the same model at step {results.gate_step:,}, before its gate is pushed, without deletion"
    for line in (before, gap_line(results.mrt5.records), *vowel_lines(results.vowels)):
        console.print(line, highlight=False, soft_wrap=True)
    for line in (f"coloured examples: {results.page}", f"the model: {output_dir / 'mrt5'}"):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return 0


def quickstart(output_dir: Path, seed: int | None = None) -> Quickstart:
    """Trains the model below `output_dir`, or goes on where it stands; evaluates it and writes the page.

    Until `LossConfig.regularizer_delay` nothing pushes its gate: with the gate ignored it is a ByT5 then.

    Raises:
        UserError: `output_dir` has a model of another seed or recipe, or cannot be written; or the seed is none.
    """
    from mrt5_jax.evaluation.page import render_page
    from mrt5_jax.runs.model_dir import write_atomically

    page = output_dir / PAGE
    run = train_model(output_dir / "mrt5", seed, page)
    gate_step = run.loss.regularizer_delay
    byt5 = _evaluate(run, _load(run, gate_step), ("none",))
    loaded = _load(run)
    mrt5 = _evaluate(run, loaded, ("soft", "hard"))
    vowels, sections = inspect_strings(run, loaded, mrt5.records)
    gate = run.model.gate
    assert gate is not None
    introduction = f"Unseen strings; the model is to write them without their vowels. {' '.join(vowel_lines(vowels))}"
    with explained(page):
        write_atomically(page, render_page(TITLE, introduction, sections, gate.scale))
    return Quickstart(byt5, mrt5, gate_step, vowels, page)


def train_model(model_dir: Path, seed: int | None, page: Path) -> RunConfig:
    """Trains the model, or goes on where it stands; returns its run, to be evaluated on NUM_STRINGS strings.

    Args:
        model_dir: where its checkpoints go.
        seed: None: that of the recipe.
        page: where the strings are shown while it trains.

    Raises:
        UserError: `model_dir` has a model of another seed or recipe, or cannot be written; or the seed is none.
    """
    from mrt5_jax.cli import gin_setup
    from mrt5_jax.cli.pictures import Pictures
    from mrt5_jax.training.loop import train

    seeded = () if seed is None else (f"SEED={seed}",)
    configured = gin_setup.resolve([GIN_FILE], bindings=[f"MODEL_DIR={str(model_dir)!r}", *seeded, *LENGTHS])
    configured.check()
    run = configured.run
    _check_earlier(run)
    configured.print_notes()
    print(f"training {model_dir} to step {run.training.num_steps:,}", file=sys.stderr)
    train(run, configured.config_text, hooks=[Pictures(run, SPLIT, NUM_EXAMPLES, TITLE, page)])
    return dataclasses.replace(run, evaluation=dataclasses.replace(run.evaluation, num_examples=NUM_STRINGS))


def _check_earlier(run: RunConfig) -> None:
    """Refuses a MODEL_DIR that an earlier command has left, if this one cannot go on with it or compare it."""
    from mrt5_jax.runs.model_dir import CHECKPOINTS
    from mrt5_jax.runs.run_files import read_run

    saved = read_run(run.model_dir)
    if saved is not None and saved.training.seed != run.training.seed:
        raise UserError(
            f"{run.model_dir} was begun with --seed={saved.training.seed}: give that seed, or another --output_dir"
        )
    checkpoints, gate_step = Path(run.model_dir, CHECKPOINTS), run.loss.regularizer_delay
    steps = [int(folder.name) for folder in checkpoints.glob("*") if folder.name.isdigit()]
    if gate_step not in steps and any(step > gate_step for step in steps):
        raise UserError(
            f"{checkpoints} has later steps than {gate_step}, and not that one, with which the table compares: give "
            "another --output_dir"
        )


def _load(run: RunConfig, step: int | None = None) -> "LoadedModel":
    from mrt5_jax.evaluation.model_dirs import load_model

    return load_model(run.model_dir, run.model, step, run.execution)


def _evaluate(run: RunConfig, loaded: "LoadedModel", deletions: Sequence[Deletion]) -> "Evaluation":
    """Evaluates the run's model on its first task, and writes that to its MODEL_DIR."""
    from mrt5_jax.cli.progress import watched
    from mrt5_jax.evaluation.model_dirs import evaluate_task, write_evaluation

    task, total = run.data.eval_tasks[0], -(-NUM_STRINGS // run.data.eval_batch_size)
    print(f"evaluating {run.model_dir}, step {loaded.step:,}", file=sys.stderr)
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

"""Makes what is missing of the study's runs: `python -m benchmarks.recipes --text=FOLDER --models=FOLDER`.

FOLDER/train and FOLDER/validation of the text have a file LANGUAGE.txt for each language of the study. Training goes
in pieces of a few minutes; what was stopped goes on where it was, here or on another machine that has its MODEL_DIR. A
run that is finished leaves benchmarks/recipes/results/NAME.json and is not made again.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import this_machine
from benchmarks.recipes.course import course, read_metrics
from benchmarks.recipes.study import LANGUAGES, Recipe, recipes

RESULTS = Path(__file__).parent / "results"
STOPPED = 75
"""Exit code of a run that was asked to stop, and has saved where it stands."""
NUM_EXAMPLES = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, evaluates and writes results until all that was wanted is there, or the pieces are used up."""
    args = _parse(arguments)
    wanted = {name: recipe for name, recipe in recipes().items() if re.fullmatch(args.only, name)}
    for name, recipe in wanted.items():
        done = (RESULTS / f"{name}.json").is_file()
        if args.list or done:
            print(f"{name}: {'done' if done else 'missing'}")
            continue
        pieces = _train(name, recipe, args)
        if pieces is None:
            return STOPPED
        args.pieces -= pieces
        _evaluate(name, recipe, args)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(_result(name, recipe, args), indent=1) + "\n")
        print(f"{name}: written", flush=True)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=__doc__)
    parser.add_argument("--text", type=Path, required=True, metavar="FOLDER", help="with train/ and validation/")
    parser.add_argument("--models", type=Path, required=True, metavar="FOLDER", help="where MODEL_DIRs are, or will be")
    parser.add_argument("--only", default=".*", metavar="REGEX", help="names of runs (default: all)")
    parser.add_argument("--minutes", type=float, default=6, help="of a piece (default: 6)")
    parser.add_argument("--pieces", type=int, default=1000, help="how many to make (default: until all is done)")
    parser.add_argument("--list", action="store_true", help="only say what is done and what is missing")
    return parser.parse_args(arguments)


def _train(name: str, recipe: Recipe, args: argparse.Namespace) -> int | None:
    """Trains to the end; returns in how many pieces, or None where they did not suffice."""
    for piece in range(1, args.pieces + 1):
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "mrt5_jax", "train", *_flags(name, recipe, args)])
        try:
            process.wait(args.minutes * 60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
        code = process.wait()
        with (args.models / name / "pieces.txt").open("a") as file:
            file.write(f"{time.perf_counter() - start:.1f}\n")
        if code not in (0, STOPPED):
            raise SystemExit(f"{name}: training failed, see above")
        if code == 0:
            return piece
    return None


def _flags(name: str, recipe: Recipe, args: argparse.Namespace) -> list[str]:
    bindings = [f"MODEL_DIR={str(args.models / name)!r}", f"SEED={recipe.seed}"]
    if recipe.reads_text:
        for macro, split in (("TEXT_FILES", "train"), ("VALIDATION_FILES", "validation")):
            bindings.append(f"{macro}={[str(args.text / split / f'{language}.txt') for language in LANGUAGES]}")
        if recipe.base is not None:
            bindings.append(f"WARM_START={str(args.models / recipe.base)!r}")
    # A line a step, so that means of any steps can be taken.
    bindings += [*recipe.bindings, "config.ExecutionConfig.log_every=1"]
    return [*(f"--gin_file={file}" for file in recipe.files), *(f"--gin.{binding}" for binding in bindings)]


def _evaluate(name: str, recipe: Recipe, args: argparse.Namespace) -> None:
    flags = [f"--gin.config.EvaluationConfig.deletions={recipe.deletions}", f"--num_examples={NUM_EXAMPLES}"]
    subprocess.run(
        [sys.executable, "-m", "mrt5_jax", "eval", f"--model_dir={args.models / name}", "--split=validation", *flags],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _result(name: str, recipe: Recipe, args: argparse.Namespace) -> dict[str, Any]:
    model_dir = args.models / name
    lines = read_metrics(model_dir)
    (summary,) = model_dir.glob("eval/*/summary.json")
    found = json.loads(summary.read_text())
    seconds = [float(line) for line in (model_dir / "pieces.txt").read_text().split()]
    return {
        "name": name,
        "recipe": recipe._asdict(),
        "steps": len(lines),
        "minutes": round(sum(seconds) / 60, 1),
        "machine": this_machine()._asdict(),
        "courses": {language: course(lines, language, target) for language, target in recipe.targets},
        "examples": found["num_examples"],
        "metrics": _rounded(found["metrics"]),
        "languages": {language: _rounded(of["metrics"]) for language, of in found["languages"].items()},
    }


def _rounded(metrics: dict[str, dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """Of each deletion what the study compares."""
    names = ("loss", "token_accuracy", "sequence_accuracy", "deletion_rate")
    return {
        deletion: {name: None if of[name] is None else round(of[name], 4) for name in names if name in of}
        for deletion, of in metrics.items()
    }


if __name__ == "__main__":
    raise SystemExit(main())

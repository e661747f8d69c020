"""Makes what is missing of the study's runs: `python -m benchmarks.recipes --text=FOLDER --models=FOLDER`.

FOLDER/train and FOLDER/validation of the text have a file LANGUAGE.txt for each language of the study. Training goes
in pieces of a few minutes; what was stopped goes on where it was, here or on another machine that has its MODEL_DIR.
There --models has to be the same path, such as a relative one, since it is part of the runs that begin with another. A
run that is finished leaves benchmarks/recipes/results/NAME.json and is not made again, unless others that are missing
begin with its model and that is not here. Quickstarts are made last, and by the clock; they need no text.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import this_machine
from benchmarks.recipes.course import course, read_metrics
from benchmarks.recipes.pieces import STOPPED, Pieces, seconds_of
from benchmarks.recipes.quickstarts import QUICKSTARTS, quickstart_result, run_quickstart
from benchmarks.recipes.study import LANGUAGES, Recipe, recipes

RESULTS = Path(__file__).parent / "results"
NUM_EXAMPLES = 1000
MISSING, DONE = "missing", "done"


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, evaluates and writes results until all that was wanted is there, or the pieces are used up."""
    study = recipes()
    args = _parse(arguments, [*study, *QUICKSTARTS])
    states = {name: _state(name) for name in args.names}
    for name, state in states.items():
        print(f"{name}: {state}", flush=True)
    if args.list:
        return 0
    missing = {name for name, state in states.items() if state == MISSING}
    bases = {base for name in missing if name in study and (base := study[name].base) is not None}
    for name in bases:
        if (state := _state(name)) == MISSING:
            missing.add(name)
        elif state != DONE:
            raise SystemExit(f"{name}, which others begin with: {state}")
    pieces = Pieces(args.minutes, args.pieces)
    for name in (*study, *QUICKSTARTS):
        if name in missing:
            if not (_quickstart if name in QUICKSTARTS else _made)(name, args, pieces):
                return STOPPED
            print(f"{name}: written", flush=True)
        elif name in bases and not is_trained(args.models / name):
            print(f"{name}: trained here too, for those that begin with it", flush=True)
            if not _trained(name, study[name], args, pieces):
                return STOPPED
    return 0


def _parse(arguments: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    """The flags, and `names`: of the runs that are wanted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=__doc__)
    parser.add_argument("--text", type=Path, metavar="FOLDER", help="with train/ and validation/")
    parser.add_argument("--models", type=Path, required=True, metavar="FOLDER", help="where MODEL_DIRs are, or will be")
    parser.add_argument("--only", default=".*", metavar="REGEX", help="names of runs (default: all)")
    parser.add_argument("--minutes", type=float, default=5.5, help="of a piece, before it saves (default: 5.5)")
    parser.add_argument("--pieces", type=int, default=1000, help="how many to make (default: until all is done)")
    parser.add_argument("--list", action="store_true", help="only say what is done and what is missing")
    args = parser.parse_args(arguments)
    try:
        args.names = [name for name in names if re.fullmatch(args.only, name)]
    except re.error as error:
        parser.error(f"--only={args.only}: {error}")
    if not args.names:
        parser.error(f"--only={args.only}: no run has such a name; there are {', '.join(names)}")
    if args.text is None and not args.list and not set(args.names) <= set(QUICKSTARTS):
        parser.error("--text is missing: quickstarts alone need none (--only='quickstart_.*')")
    return args


def _settings(name: str) -> dict[str, Any]:
    """What a run is made of, as its result has it."""
    if name in QUICKSTARTS:
        return {"seed": QUICKSTARTS[name]}
    return json.loads(json.dumps(recipes()[name]._asdict()))


def _state(name: str) -> str:
    """Whether a run's result is there."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return MISSING
    if json.loads(path.read_text(encoding="utf-8"))["recipe"] != _settings(name):
        return f"done by another recipe than today's: remove {path} and its MODEL_DIR to make it again"
    return DONE


def is_trained(model_dir: Path) -> bool:
    """Says whether the checkpoint of a run's last step is there."""
    saved = model_dir / "run_config.json"
    if not saved.is_file():
        return False
    num_steps = json.loads(saved.read_text(encoding="utf-8"))["training"]["num_steps"]
    return (model_dir / "checkpoints" / str(num_steps)).is_dir()


def _quickstart(name: str, args: argparse.Namespace, pieces: Pieces) -> bool:
    if not run_quickstart(name, args.models / name, pieces):
        return False
    _write(name, quickstart_result(args.models / name))
    return True


def _made(name: str, args: argparse.Namespace, pieces: Pieces) -> bool:
    """Trains and evaluates a run of the study, and writes its result."""
    recipe = recipes()[name]
    if not _trained(name, recipe, args, pieces):
        return False
    flags = [f"--gin.config.EvaluationConfig.deletions={recipe.deletions}", f"--num_examples={NUM_EXAMPLES}"]
    command = _mrt5("eval", f"--model_dir={args.models / name}", "--split=validation", *flags)
    folder = args.models / name
    if not pieces.run(name, command, folder / "evaluation_pieces.txt", output=folder / "evaluation.txt"):
        return False
    _write(name, _result(recipe, folder))
    return True


def _trained(name: str, recipe: Recipe, args: argparse.Namespace, pieces: Pieces) -> bool:
    folder = args.models / name
    return is_trained(folder) or pieces.run(name, _mrt5("train", *_flags(name, recipe, args)), folder / "pieces.txt")


def _mrt5(*words: str) -> list[str]:
    return [sys.executable, "-m", "mrt5_jax", *words]


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


def _result(recipe: Recipe, model_dir: Path) -> dict[str, Any]:
    """What a trained and evaluated run of the study shows."""
    lines = read_metrics(model_dir)
    (summary,) = model_dir.glob(f"eval/*-validation-step{len(lines)}/summary.json")
    found = json.loads(summary.read_text(encoding="utf-8"))
    seconds = seconds_of(model_dir / "pieces.txt")
    return {
        "text": _digests(model_dir),
        "steps": len(lines),
        "minutes": round(sum(seconds) / 60, 1),
        "courses": {language: course(lines, language, target) for language, target in recipe.targets},
        "examples": found["num_examples"],
        "metrics": _rounded(found["metrics"]),
        "languages": {language: _rounded(of["metrics"]) for language, of in found["languages"].items()},
    }


def _write(name: str, result: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    whole = {"name": name, "recipe": _settings(name), "machine": this_machine()._asdict(), **result}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def _digests(model_dir: Path) -> dict[str, str]:
    """Of each file that a run was trained on; empty where it reads none."""
    path = model_dir / "data_files.json"
    files = json.loads(path.read_text(encoding="utf-8"))["files"] if path.is_file() else []
    return {f"{file['split']}/{file['language']}": file["sha256"][:12] for file in files}


def _rounded(metrics: dict[str, dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """Of each deletion what the study compares."""
    names = ("loss", "token_accuracy", "sequence_accuracy", "deletion_rate")
    return {
        deletion: {name: None if of[name] is None else round(of[name], 4) for name in names if name in of}
        for deletion, of in metrics.items()
    }


if __name__ == "__main__":
    raise SystemExit(main())

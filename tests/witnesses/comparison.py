"""What the present code makes of a witness, and how far it is from what was recorded.

    python -m tests.witnesses.comparison                                         # ours: a line for each kind of number
    python -m tests.witnesses.comparison ../shared/golden/model_dirs vowels      # one of another folder

A folder of witnesses has a MODEL_DIR for each name, and in expected/NAME what it gave. A run has metrics.jsonl, of the
run that was never interrupted, and evaluation.json; an imported model's has requests, scores and predictions.
"""

import contextlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mrt5_jax.cli.main import main

OURS = Path(__file__).parent / "model_dirs"
DELETIONS = ("none", "soft", "hard")
STEP = 10
"""Of a run's checkpoint."""


class Rule(NamedTuple):
    """How far numbers of a kind may be from what was recorded."""

    kind: str
    fields: str
    """Regular expression of their names, without the evaluation's task and deletion."""
    allowed: float
    measure: str
    """"relative" or "absolute"; what is no number has to be equal."""


SLOTS = "slots"
"""Of what runs at which length: how it is computed, not what."""

RULES = (
    Rule("losses", "loss|total_loss|bits_per_byte", 2e-5, "relative"),
    Rule("counts", r"step|num_\w+|kept_length|dropped|rescued|monitor_saturated", 0.0, "absolute"),
    Rule("rates and alpha", r"deletion_rate|alpha|controller_\w+", 1e-6, "absolute"),
    Rule(SLOTS, r"rung|rung_\d+/\w+", 1e-6, "absolute"),
    Rule("gate and parameters", "gate_mean|parameter_norm|learning_rate", 2e-5, "relative"),
    Rule("gradients and penalty", "gradient_norm|score_penalty", 1e-4, "relative"),
    # Of losses that are nearly equal; each may be 2e-5 off.
    Rule("gaps of losses", "soft_hard_gap|monitor_gap", 1e-4, "absolute"),
    # The highest of nearly equal logits may be another one on another processor.
    Rule("accuracies", "token_accuracy|sequence_accuracy", 0.01, "absolute"),
    Rule("scores", "score", 1e-4, "absolute"),
    Rule("words", "task|split|inputs|targets|prediction|prediction_ids", 0.0, "absolute"),
)


class Difference(NamedTuple):
    """The largest difference of a kind."""

    size: float
    place: str


class Comparison(NamedTuple):
    """A witness's largest differences, by kind."""

    name: str
    largest: dict[str, Difference]

    def beyond(self, but: str | None = None) -> list[str]:
        """What is further off than its rule allows, a line each; `but` is a kind that may be."""
        allowed = {rule.kind: float("inf") if rule.kind == but else rule.allowed for rule in RULES}
        return [line for kind, line in self._lines() if not self.largest[kind].size <= allowed[kind]]

    def table(self) -> str:
        """A line for each kind."""
        return "\n".join(line for _, line in self._lines())

    def _lines(self) -> Iterator[tuple[str, str]]:
        for rule in RULES:
            if rule.kind in self.largest:
                size, place = self.largest[rule.kind]
                line = f"{self.name}: {rule.kind} {size:.2e} {rule.measure}, {rule.allowed:g} allowed"
                yield rule.kind, f"{line}{f' ({place})' if place else ''}"


def witnesses(folder: Path) -> list[str]:
    """Names of a folder's witnesses."""
    return sorted(path.name for path in (folder / "expected").iterdir())


def compare(folder: Path, name: str, scratch: Path) -> Comparison:
    """Runs the present code on a copy of a witness.

    Args:
        scratch: an empty folder for the copy.
    """
    model_dir, expected = copy_of(folder / name, scratch / name), folder / "expected" / name
    largest: dict[str, Difference] = {}
    pairs = of_a_run if (expected / "metrics.jsonl").exists() else of_an_import
    for place, recorded, found in pairs(model_dir, expected):
        for rule, size, field in differences(recorded, found):
            if rule.kind not in largest or not size <= largest[rule.kind].size:
                where = f"{place} {field}: {found.get(field)}, recorded {recorded[field]}" if size else ""
                largest[rule.kind] = Difference(size, where)
    return Comparison(name, largest)


def copy_of(source: Path, target: Path) -> Path:
    """A copy that can be written to, whatever the modes of what it is a copy of."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    return target


Pair = tuple[str, dict[str, Any], dict[str, Any]]
"""Where two objects come from, the recorded one, and that of the present code."""


def of_a_run(model_dir: Path, expected: Path) -> Iterator[Pair]:
    """Evaluates at the checkpoint and goes on to the run's end."""
    recorded = json.loads((expected / "evaluation.json").read_text(encoding="utf-8"))
    deletions = recorded["metrics"]
    run("eval", f"--model_dir={model_dir}", f"--step={STEP}", "--num_examples=64", "--deletion", *deletions)
    (summary,) = model_dir.glob("eval/*/summary.json")
    yield "evaluation", flat(recorded), flat(json.loads(summary.read_text(encoding="utf-8")))
    metrics = model_dir / "metrics.jsonl"
    assert max(line["step"] for line in json_lines(metrics)) == STEP, "the witness begins at its checkpoint"
    run("train", f"--gin_file={model_dir / 'config.gin'}", f"--gin.MODEL_DIR={str(model_dir)!r}")
    for line, found in zip(json_lines(expected / "metrics.jsonl"), json_lines(metrics), strict=True):
        if line["step"] > STEP:
            yield f"step {line['step']}", line, found


def of_an_import(model_dir: Path, expected: Path) -> Iterator[Pair]:
    """Scores the recorded requests and predicts their targets, under each deletion."""
    requests = expected / "requests.jsonl"
    for mode in ("score", "predict"):
        for deletion in DELETIONS:
            output = model_dir / f"{mode}_{deletion}.jsonl"
            flags = [f"--mode={mode}", f"--deletion={deletion}", "--input_length=128", "--max_target_length=24"]
            run("infer", f"--model_dir={model_dir}", f"--input={requests}", f"--output={output}", *flags)
            lines = zip(json_lines(expected / output.name), json_lines(output), strict=True)
            for number, (line, found) in enumerate(lines, start=1):
                yield f"{mode} {deletion} line {number}", line, found


def run(*words: str) -> None:
    """A command of mrt5 in this process, its output kept apart."""
    with contextlib.redirect_stdout(sys.stderr):
        code = main(words)
    assert code == 0, f"mrt5 {' '.join(words)} ended with exit code {code}"


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def flat(summary: dict[str, Any]) -> dict[str, Any]:
    """An evaluation's summary with its metrics named DELETION/METRIC."""
    metrics = {
        f"{deletion}/{name}": value
        for deletion, numbers in summary["metrics"].items()
        for name, value in numbers.items()
    }
    return {name: summary[name] for name in ("task", "split", "step", "num_examples", "soft_hard_gap")} | metrics


def differences(recorded: dict[str, Any], found: dict[str, Any]) -> Iterator[tuple[Rule, float, str]]:
    """Of every recorded field; what the present code says besides is not compared."""
    for field, value in recorded.items():
        rule = rule_of(field)
        yield rule, difference(value, found.get(field), rule.measure), field


def rule_of(field: str) -> Rule:
    """The one rule for a field, which may begin with an evaluation's task and deletion."""
    name = re.sub(rf"^(eval/[^/]+/)?(({'|'.join(DELETIONS)})/)?", "", field)
    (rule,) = (rule for rule in RULES if re.fullmatch(rule.fields, name))
    return rule


def difference(recorded: Any, found: Any, measure: str) -> float:
    """Infinite where something that is no number differs, or is missing."""
    if isinstance(recorded, float | int) and isinstance(found, float | int):
        size = abs(found - recorded)
        return size / abs(recorded) if size and recorded and measure == "relative" else size
    return 0.0 if recorded == found else float("inf")


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else OURS
    for witness in sys.argv[2:] or witnesses(root):
        with tempfile.TemporaryDirectory() as place:
            print(compare(root, witness, Path(place)).table(), flush=True)

"""Evaluating from Python is `mrt5 eval`; what cannot be evaluated is refused in one line."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.api.model import Model
from mrt5_jax.api.runs import evaluate, train
from mrt5_jax.cli.main import main
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.records import to_json_lines


def test_evaluate_is_eval(model: Model, model_dir: Path, tmp_path: Path) -> None:
    """Records are the same, bit for bit; from Python nothing is written."""
    shutil.copytree(model_dir, tmp_path / "model")
    found = evaluate(model, "diagnostics.copy", num_examples=4)
    assert not (model_dir / "eval").exists()
    assert main(["eval", f"--model_dir={tmp_path / 'model'}", "--task", "diagnostics.copy", "--num_examples=4"]) == 0
    written = tmp_path / "model" / "eval" / "diagnostics.copy-test-step0" / "records.jsonl"
    assert to_json_lines(found.records) == written.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"task": 3}, "task=3: give the name of a task, or a TaskSpec"),
        ({"task": "diagnostics.copi"}, "no task or mixture is called 'diagnostics.copi': did you mean"),
        ({"split": "tset"}, "has no tset split, only"),
        ({"deletions": ["hrad"]}, "deletions: 'hrad' should be 'none' or 'soft' or 'hard' or 'random'"),
        ({"deletions": "hard"}, "deletions: 'h' should be"),
        ({"num_examples": 0}, "num_examples=0: must be a whole number, at least 1"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(how: dict[str, Any], message: str, model: Model) -> None:
    with pytest.raises(UserError) as refused:
        evaluate(model, **{"task": "diagnostics.copy", **how})
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_run_is_refused(model: Model) -> None:
    with pytest.raises(UserError, match=r"run is of type Model: give a config\.RunConfig"):
        train(model)


def test_a_model_without_a_gate_is_evaluated_under_no_deletion(model: Model) -> None:
    plain = dataclasses.replace(model, config=dataclasses.replace(model.config, gate=None))
    with pytest.raises(UserError, match=r"deletions: 'hard' needs a gate, and .* is a ByT5: leave it out"):
        evaluate(plain, "diagnostics.copy", deletions=["hard"])

"""What an evaluation leaves in a MODEL_DIR."""

import json
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.data import registry
from mrt5_jax.data.sources import IndexedSource, one_by_one
from mrt5_jax.data.task_specs import Mixture, TaskSpec
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.finished import finished_evaluation
from mrt5_jax.evaluation.model_dirs import languages_line, split_to_evaluate, write_evaluation
from mrt5_jax.evaluation.records import Record, read_records, summarize

RECORD = Record("t", "el", 0, "hard", 1.0, 4, 4, True, 10, 6, 8, False, "text")


def test_again_writes_the_same_bytes_in_the_same_place(tmp_path: Path) -> None:
    """Only timing.json may differ between two evaluations; nothing else appears."""
    folder = write_evaluation(tmp_path, Evaluation([RECORD], {"hard": 1.0}), "a/b", "test", 7)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert folder == tmp_path / "eval" / "a_b-test-step7"
    assert write_evaluation(tmp_path, Evaluation([RECORD], {"hard": 2.0}), "a/b", "test", 7) == folder
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(after) == {"records.jsonl", "summary.json", "timing.json"}
    assert {name for name in after if after[name] != before[name]} == {"timing.json"}


def test_summary_by_language_without_nan(tmp_path: Path) -> None:
    """JSON knows no NaN; examples without a language are in no language's figures."""
    records = [RECORD, RECORD._replace(language="de", num_target_tokens=0, nll=0.0), RECORD._replace(language="")]
    folder = write_evaluation(tmp_path, Evaluation(records, {"hard": 1.0}), "t", "test", 7)
    text = (folder / "summary.json").read_text()
    summary = json.loads(text)
    assert "NaN" not in text
    assert list(summary["languages"]) == ["el", "de"]
    assert summary["languages"]["de"]["metrics"]["hard"]["loss"] is None
    assert summary["metrics"]["hard"] == summarize(records)
    assert (summary["num_examples"], summary["soft_hard_gap"]) == (3, None)
    assert read_records(folder / "records.jsonl") == records


@pytest.fixture
def mixture(monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a task with all splits, of one that has no test split, and of one to train on, each of a language."""
    tasks = []
    for language, splits in (
        ("de", ("train", "validation", "test")),
        ("sw", ("train", "validation")),
        ("th", ("train",)),
    ):
        source = IndexedSource(
            one_by_one(lambda split, index: {"inputs": "a", "targets": "b"}), dict.fromkeys(splits, 2)
        )
        tasks.append(TaskSpec(f"test.splits.{language}", source, languages=(language,)))
        monkeypatch.setitem(registry._tasks, tasks[-1].name, tasks[-1])
    mixed = Mixture("test.splits", tuple(tasks), {task.name: 1.0 for task in tasks})
    monkeypatch.setitem(registry._mixtures, mixed.name, mixed)
    return mixed.name


def test_a_mixture_is_evaluated_on_a_split_that_all_its_tasks_have(mixture: str) -> None:
    """Or a total would lack a language without a word; what is only trained on is no matter."""
    assert split_to_evaluate(mixture, "validation") == "validation"
    assert split_to_evaluate(mixture, "train") == "train"
    assert split_to_evaluate("test.splits.de") == "test"
    assert split_to_evaluate("test.splits.sw") == "validation"
    with pytest.raises(UserError, match=r"mixture test\.splits: test\.splits\.sw of its tasks has no test split: eval"):
        split_to_evaluate(mixture)


def test_a_language_without_examples_is_named(mixture: str) -> None:
    records = [RECORD._replace(language="de")]
    assert "validation split has no example of sw, th: tables" in languages_line(records, mixture, "validation")
    others = [RECORD._replace(language=language) for language in ("sw", "th")]
    assert languages_line([*records, *others], mixture, "validation") == ""


def test_what_is_finished_is_known_by_its_settings_and_examples(tmp_path: Path) -> None:
    """Other settings, other examples, a damaged summary or none: not finished."""
    settings = {"weights": "abc", "deletions": ["hard"], "thresholds": [-15.0], "num_examples": None}
    evaluation = Evaluation([RECORD], {"hard": 1.0}, 3, 4)
    folder = write_evaluation(tmp_path, evaluation, "t", "test", 7, settings=settings, examples="as now")

    def found(settings: dict[str, Any] = settings, examples: str = "as now") -> Evaluation | None:
        return finished_evaluation(folder, settings, None, lambda: examples)

    assert found() == evaluation
    assert found(settings | {"weights": "def"}) is None
    assert found(examples="others") is None
    (folder / "summary.json").write_text("{")
    assert found() is None
    (folder / "summary.json").unlink()
    assert found() is None

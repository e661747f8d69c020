"""What an evaluation leaves in a MODEL_DIR."""

import json
from pathlib import Path

from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.model_dirs import write_evaluation
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

"""What a report reads: whole MODEL_DIRs, also of runs that are still training; damage is named."""

import json
from pathlib import Path

import pytest

from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.model_dirs import RECORDS, SUMMARY, TIMING, evaluation_folder, write_evaluation
from mrt5_jax.evaluation.records import of_deletion, summarize
from mrt5_jax.report.reading import fingerprint, read_metrics, read_run_results
from mrt5_jax.runs.model_dir import METRICS

from .made_runs import STEP, TARGET, TIMES, make_run, training_lines, work


def evaluation_of(folder: Path) -> Path:
    return Path(evaluation_folder(folder, "tasks", "test", STEP))


def test_a_run_is_read_whole_under_its_name(tmp_path: Path) -> None:
    folder, records = make_run(tmp_path / "mrt5")
    found = read_run_results(str(folder))
    assert (found.name, found.folder) == ("mrt5", str(folder))
    assert found.metrics == training_lines(20)
    assert found.targets == {"": TARGET}
    assert sorted(found.records) == sorted(record._replace(model="mrt5") for record in records)
    assert not found.is_unfinished
    assert found.last_step == 20
    assert not found.notes
    renamed = read_run_results(f"other={folder}")
    assert renamed.name == "other"
    assert {record.model for record in renamed.records} == {"other"}


def test_times_are_those_of_the_evaluation(tmp_path: Path) -> None:
    """Of the deletions that remove positions, beside no deletion, with what summary.json says was saved."""
    folder, records = make_run(tmp_path / "run")
    (time,) = read_run_results(str(folder)).times
    saved = summarize(of_deletion(records, "hard"), work)
    assert time == ("tasks", "test", STEP, "hard", 7.5, 10.0, saved["saved"], saved["saved_if_exact"])
    (evaluation_of(folder) / TIMING).unlink()
    assert read_run_results(str(folder)).times == []


def test_a_run_that_trains_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path / "run", num_examples=0, steps=5, num_steps=10)
    with (folder / METRICS).open("a") as file:
        file.write('{"step": 6, "los')
    found = read_run_results(str(folder))
    assert found.metrics == training_lines(5)
    assert found.is_unfinished
    (folder / METRICS).unlink()
    found = read_run_results(str(folder))
    assert found.is_unfinished
    assert found.last_step == 0


def test_numbers_that_json_lacks_are_read(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1, "loss": "inf"}\n')
    assert read_metrics(tmp_path) == [{"step": 1.0, "loss": float("inf")}]


@pytest.mark.parametrize("line", ["[1]", '{"loss": 1}', '{"step": "x"}', '{"step": 1, "loss": null}', "{", '"a"', "\0"])
def test_a_line_that_training_did_not_write_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / METRICS).write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is not a line that training wrote"):
        read_metrics(tmp_path)


def test_of_overlapping_evaluations_the_last_is_shown_and_the_other_named(tmp_path: Path) -> None:
    folder, records = make_run(tmp_path / "run")
    labelled = [record._replace(label_correct=True) for record in records]
    write_evaluation(folder, Evaluation(labelled, TIMES, body=work), "tasks", "test", STEP, "labels")
    found = read_run_results(str(folder))
    assert len(found.records) == len(records)
    assert all(record.label_correct for record in found.records)
    assert len(found.notes) == 2
    assert "tasks-test-step7 and tasks-test-step7-labels both have tasks under none deletion" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (TIMING, "{", "is not JSON"),
        (TIMING, "[]", "holds no object"),
        (TIMING, "{}", "is not what `mrt5 eval` writes"),
        (SUMMARY, '{"metrics": []}', "is not what `mrt5 eval` writes"),
        (RECORDS, '{"schema": 99}', "a record of schema 99"),
        (RECORDS, "{}", "is no record"),
    ],
)
def test_damage_of_an_evaluation_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    folder, _ = make_run(tmp_path / "run")
    (evaluation_of(folder) / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_run_results(str(folder))


def test_a_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path / "run")
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps({"step": 21}) + "\n")
    assert fingerprint(folder) != before

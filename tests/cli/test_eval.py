"""`mrt5 eval`: records, summaries and tables of a MODEL_DIR; mistakes in one line, before anything is written."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest

from mrt5_jax.cli.main import main
from mrt5_jax.evaluation.records import of_deletion, read_records, soft_hard_gap, summarize
from mrt5_jax.inference.engine import Engine
from mrt5_jax.model.multiply_adds import body_multiply_adds
from mrt5_jax.runs.checkpoints import save_model
from mrt5_jax.runs.model_dir import read_model_config

from ..inference.models import random_params
from .small_run import NUM_TEST, contents, make_model_dir


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture
def failing(model_dir: Path, capsys: pytest.CaptureFixture[str]):
    """Runs a command that has to fail, and returns the one line that it says; MODEL_DIR stays as it was."""

    def run(*argv: str) -> str:
        before = contents(model_dir)
        assert main(["eval", *argv]) == 2
        error = capsys.readouterr().err
        assert error.startswith("mrt5: ")
        assert error.count("\n") == 1, error
        assert contents(model_dir) == before
        return error

    return run


@pytest.fixture(scope="module")
def evaluated(model_dir: Path) -> tuple[Path, str]:
    """The folder that a plain evaluation leaves, and what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["eval", f"--model_dir={model_dir}"]) == 0
    (folder,) = (model_dir / "eval").glob("diagnostics.vowel_removal*-test-step0")
    return folder, out.getvalue()


def test_model_dir_is_enough(evaluated) -> None:
    """The run's own task, its test split, soft and hard deletion, all examples; a folder by task, split and step."""
    folder, _ = evaluated
    records = read_records(folder / "records.jsonl")
    assert folder.name.endswith("-test-step0")
    assert folder.name.startswith("diagnostics.vowel_removal")
    assert [record.deletion for record in records].count("soft") == NUM_TEST
    assert sorted(record.index for record in of_deletion(records, "hard")) == list(range(NUM_TEST))


def test_summary_is_of_the_records(evaluated) -> None:
    """Whatever summary.json says can be computed from records.jsonl; what is clocked lies apart."""
    folder, _ = evaluated
    records = read_records(folder / "records.jsonl")
    summary = json.loads((folder / "summary.json").read_text())
    body = body_multiply_adds(read_model_config(folder.parents[1]), 12)
    assert summary["metrics"] == {name: summarize(of_deletion(records, name), body) for name in ("soft", "hard")}
    assert summary["soft_hard_gap"] == soft_hard_gap(records)
    assert (summary["num_examples"], summary["step"], summary["split"]) == (NUM_TEST, 0, "test")
    timing = json.loads((folder / "timing.json").read_text())
    assert set(timing["milliseconds_per_batch"]) == {"soft", "hard"}
    assert "milliseconds" not in (folder / "summary.json").read_text()


def test_tables_and_places_are_printed(evaluated) -> None:
    folder, out = evaluated
    for word in ("soft-hard gap", "deletion", "kept", f"{folder}/"):
        assert word in out


def test_flags_choose(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Task, split, deletions and number; the gap says what it lacks."""
    argv = ["--task", "diagnostics.copy", "--split=validation", "--deletion", "none", "--num_examples=3"]
    bindings = ["--gin.INPUT_LENGTH=64", "--gin.TARGET_LENGTH=64"]
    assert main(["eval", f"--model_dir={model_dir}", *argv, *bindings]) == 0
    records = read_records(model_dir / "eval" / "diagnostics.copy-validation-step0" / "records.jsonl")
    assert [record.deletion for record in records] == ["none"] * 3
    assert {record.task for record in records} == {"diagnostics.copy"}
    assert "needs both soft and hard" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", ["host", "in_graph"])
def test_a_window_changes_no_record_but_the_rung(dispatch: str, tmp_path: Path) -> None:
    """Batches of two lengths; all in one window, in windows of two and a last one of one, and each by itself."""
    buckets = "config.DataConfig.length_buckets=(10, 12)"
    model_dir = make_model_dir(tmp_path / "model", "config.ExecutionConfig.max_rungs=3", buckets)
    found = []
    for window in (1, 2, None):
        bindings = [
            f"config.ExecutionConfig.{name}" for name in (f"window={window}", f"inference_dispatch='{dispatch}'")
        ]
        argv = [
            "eval",
            f"--model_dir={model_dir}",
            "--deletion",
            "hard",
            "random",
            *(f"--gin.{own}" for own in bindings),
        ]
        assert main(argv) == 0
        (folder,) = (model_dir / "eval").iterdir()
        found.append(read_records(folder / "records.jsonl"))
    alone, *together = found
    assert len(alone) == 2 * NUM_TEST
    assert len({record.rung for record in alone}) > 1
    for records in together:
        for one, other in zip(records, alone, strict=True):
            assert one._replace(nll=0.0, rung=0) == other._replace(nll=0.0, rung=0)
            assert one.nll == pytest.approx(other.nll, rel=1e-5)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--step=7"], ["no step 7"]),
        (["--step", "0", "7"], ["no step 7; it has 0"]),
        (["--task=diagnostics.vowel_remval"], ["diagnostics.vowel_remval", "did you mean diagnostics.vowel_removal"]),
        (["--split=dev"], ["has no dev split", "validation"]),
        (["--deletion=gentle"], ["--deletion", "gentle", "soft"]),
        (["--num_examples=0"], ["--num_examples=0", "at least 1"]),
        (["--num_examples=x"], ["--num_examples", "x"]),
        (["--timing_rounds=0"], ["--timing_rounds=0", "at least 1"]),
        (["--gin.NO_SUCH=1"], ["NO_SUCH"]),
        (["--gin_file=nowhere.gin"], ["nowhere.gin", "not found"]),
        (["--gin.config.ModelConfig.mlp_dim=32"], ["model_config.json", "mlp_dim 16 -> 32"]),
        (
            ["--gin.config.ExecutionConfig.chunks=4", "--gin.config.DataConfig.eval_batch_size=2"],
            ["eval_batch_size=2", "chunks=4"],
        ),
        (["--gin.config.ExecutionConfig.window=0"], ["ExecutionConfig.window = 0", "greater than 0"]),
        (["--gin.config.ExecutionConfig.window=1000000000"], ["window = 1000000000", "GiB", "give at most"]),
    ],
)
def test_mistakes_are_one_line(failing, model_dir: Path, argv: list[str], words: list[str]) -> None:
    error = failing(f"--model_dir={model_dir}", *argv)
    for word in words:
        assert word in error


def test_no_model_dir(failing, tmp_path: Path) -> None:
    assert "model_config.json is not there" in failing(f"--model_dir={tmp_path}")
    assert "--model_dir" in failing()


def test_imported_model_needs_a_configuration(failing, model_dir: Path, tmp_path: Path) -> None:
    """Weights alone do not say on what to evaluate them."""
    config = read_model_config(model_dir)
    save_model(tmp_path / "imported", random_params(config), config)
    assert "--gin_file" in failing(f"--model_dir={tmp_path / 'imported'}")


def test_tables_are_made_again_from_records_alone(evaluated, tmp_path: Path, capsys) -> None:
    """Of a folder that has been moved away from its model; in every form, the figures of the records."""
    folder, _ = evaluated
    records = read_records(folder / "records.jsonl")
    (tmp_path / "moved.jsonl").write_bytes((folder / "records.jsonl").read_bytes())
    files = [str(tmp_path / f"table.{ending}") for ending in ("csv", "json", "md", "tex")]
    assert main(["eval", "--from_records", f"moved={tmp_path / 'moved.jsonl'}", "--tables", *files]) == 0
    out = capsys.readouterr().out
    assert all(f"written: {file}" in out for file in files)
    assert "bits per byte of text" in " ".join(out.split())
    found = {
        (row["deletion"], row["figure"]): row["value"]
        for row in json.loads((tmp_path / "table.json").read_text())
        if (row["model"], row["language"]) == ("moved", None)
    }
    for deletion in ("soft", "hard"):
        expected = summarize(of_deletion(records, deletion))
        assert found[deletion, "loss"] == pytest.approx(expected["loss"])
        assert found[deletion, "bits_per_target_token"] == pytest.approx(expected["bits_per_byte"])
        assert found[deletion, "deletion_rate"] == pytest.approx(expected["deletion_rate"])
        assert found[deletion, "bits_per_text_byte"] > found[deletion, "bits_per_target_token"], "ends are no text"


def test_runtimes_and_work_lie_beside_the_records(model_dir: Path, tmp_path: Path) -> None:
    """Tables of the folder alone have the very figures, the clocked ones among them."""
    argv = ["eval", f"--model_dir={model_dir}", "--split=validation", "--num_examples=5", "--deletion", "none", "hard"]
    assert main([*argv, "--timing_rounds=3", f"--tables={tmp_path / 'first.json'}"]) == 0
    (folder,) = (model_dir / "eval").glob("diagnostics.vowel_removal*-validation-step0")
    windows = json.loads((folder / "timing.json").read_text())["windows"]
    assert [(one["deletion"], one["examples"]) for one in windows] == [("none", {"": 5}), ("hard", {"": 5})] * 3
    assert main(["eval", "--from_records", str(folder), f"--tables={tmp_path / 'again.json'}"]) == 0
    rows = json.loads((tmp_path / "first.json").read_text())
    assert rows == json.loads((tmp_path / "again.json").read_text())
    found = {row["figure"]: row["value"] for row in rows if (row["deletion"], row["language"]) == ("hard", None)}
    assert found["runtime_min"] <= found["runtime"] <= found["runtime_max"]
    none = {row["figure"]: row["value"] for row in rows if (row["deletion"], row["language"]) == ("none", None)}
    assert found["speedup"] == pytest.approx(none["runtime"] / found["runtime"])
    assert found["ideal_speedup"] >= none["ideal_speedup"] == 1
    assert "speedup" not in none


def test_an_evaluation_says_what_it_is_of(evaluated, model_dir: Path) -> None:
    folder, out = evaluated
    for record in read_records(folder / "records.jsonl"):
        assert (record.model, record.step, record.split, record.mixture) == (model_dir.name, 0, "test", record.task)
        assert record.threshold == -15.0, "half of the gate's scale"
        assert record.num_text_bytes == record.num_target_tokens - 1, "all but the end of the sequence"
    assert "standard error" in out


def test_what_is_finished_needs_no_model_again(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands in the records is what was generated; a second run reads it, unless other figures are asked for."""
    argv = ["eval", f"--model_dir={model_dir}", "--deletion", "soft", "--generate", "--num_examples=6"]
    assert main([*argv, f"--tables={tmp_path / 'table.json'}"]) == 0
    (folder,) = (model_dir / "eval").glob("*-greedy")
    records = read_records(folder / "records.jsonl")
    lines = [
        json.loads(line) for path in folder.glob("generated-soft-*.jsonl") for line in path.read_text().splitlines()
    ]
    assert len(records) == len(lines) == 6
    written = {line["index"]: line["prediction"] for line in lines}
    assert [record.generated for record in records] == [written[record.index] for record in records]
    assert {record.search for record in records} == {"greedy"}
    rows = json.loads((tmp_path / "table.json").read_text())
    (share,) = (row["value"] for row in rows if (row["figure"], row["language"]) == ("generated_accuracy", None))
    assert share == pytest.approx(sum(record.generated_correct for record in records) / 6)

    def refuse(*args, **kwargs) -> None:
        raise AssertionError("everything is there")

    before = contents(folder)
    monkeypatch.setattr(Engine, "generate_window", refuse)
    monkeypatch.setattr("mrt5_jax.evaluation.shares.evaluate_task", refuse)
    assert main(argv) == 0
    assert contents(folder) == before
    assert "evaluated and clocked already" in capsys.readouterr().out
    for other in (["--timing_rounds=2"], ["--gin.config.DataConfig.eval_batch_size=2"]):
        with pytest.raises(AssertionError, match="everything is there"):
            main([*argv, *other])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--search=beam"], ["--search needs --generate"]),
        (["--generate", "--beam_size=2"], ["--beam_size needs --search=beam"]),
        (["--generate", "--search=beam", "--beam_size=0"], ["beam size 0"]),
        (["--generate", "--deletion", "random"], ["--generate", "random deletion"]),
        (["--tables=table.xls"], ["--tables=table.xls", ".csv", ".tex"]),
        (["--from_records", "a.jsonl"], ["--model_dir", "--from_records", "leave it out"]),
    ],
)
def test_mistakes_about_generation_and_tables_are_one_line(failing, model_dir: Path, argv: list[str], words) -> None:
    error = failing(f"--model_dir={model_dir}", *argv)
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["--step=3"], "--step"),
        (["--num_examples=0"], "--num_examples"),
        (["--generate"], "--generate"),
        (["--gin.SEED=1"], "--gin.SEED=1"),
        ([], "nowhere.jsonl"),
    ],
)
def test_mistakes_beside_records_are_one_line(failing, argv: list[str], word: str) -> None:
    assert word in failing("--from_records", "nowhere.jsonl", *argv)


@pytest.mark.slow
def test_a_rate_finds_its_threshold_and_random_deletion_deletes_as_much(model_dir: Path) -> None:
    """On the text where it is looked for; no deletion is evaluated once, whatever the threshold."""
    argv = ["eval", f"--model_dir={model_dir}", "--split=validation", "--num_examples=10"]
    assert main([*argv, "--deletion", "none", "hard", "random", "--target_rate", "0.3", "0.6"]) == 0
    folders = sorted((model_dir / "eval").glob("*-validation-step0-threshold*"))
    points = {records[-1].threshold: records for records in (read_records(one / "records.jsonl") for one in folders)}
    assert len(points) == 2
    for threshold, rate in zip(sorted(points), (0.3, 0.6), strict=True):
        hard, random = (of_deletion(points[threshold], deletion) for deletion in ("hard", "random"))
        assert summarize(hard)["deletion_rate"] == pytest.approx(rate, abs=0.03)
        assert [one.num_kept_tokens for one in hard] == [one.num_kept_tokens for one in random]
        assert {one.threshold for one in [*hard, *random]} == {threshold}
    undeleted = [len(of_deletion(records, "none")) for records in points.values()]
    assert sorted(undeleted) == [0, 10]


def test_a_threshold_that_was_found_is_stored_and_then_used(model_dir: Path, tmp_path: Path, capsys) -> None:
    """In a file of its own: the trained configuration keeps its bytes, and the next evaluation its folder."""
    own = tmp_path / "model"
    shutil.copytree(model_dir, own, ignore=shutil.ignore_patterns("eval"))
    before = contents(own)
    argv = ["eval", f"--model_dir={own}", "--num_examples=10", "--deletion", "hard"]
    assert main([*argv, "--target_rate=0.5", "--store_threshold"]) == 0
    assert f"stored: {own}/threshold.json; remove it" in capsys.readouterr().out
    assert {path: data for path, data in contents(own).items() if path in before} == before
    stored = json.loads((own / "threshold.json").read_text())
    assert (stored["target_rate"], stored["split"], stored["step"]) == (0.5, "validation", 0)
    (found,) = (own / "eval").iterdir()
    assert found.name.endswith(f"-threshold{stored['threshold']:.12g}")
    shutil.rmtree(own / "eval")
    assert main(argv) == 0
    error = capsys.readouterr().err
    assert f"mrt5: {own}/threshold.json: gate values are compared with {stored['threshold']:g}" in error
    (again,) = (own / "eval").iterdir()
    assert again.name == found.name
    assert {record.threshold for record in read_records(again / "records.jsonl")} == {stored["threshold"]}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--follow", "--step=0"], ["--step", "--follow", "leave one"]),
        (["--follow", "--target_rate=0.5", "--store_threshold"], ["--store_threshold", "--follow"]),
        (["--keep_best=los"], ["--keep_best=los", "did you mean loss?", "it has loss, bits_per_target_token"]),
        (["--keep_best=generated_accuracy"], ["this evaluation has no generated_accuracy"]),
        (["--keep_best=loss:best"], ["this evaluation has no loss:best"]),
        (["--keep_best=deletion_rate"], ["--keep_best=deletion_rate:min or --keep_best=deletion_rate:max"]),
        (["--keep_best=loss", "--threshold=-15"], ["--keep_best=loss", "one threshold"]),
        (["--keep_best=loss", "--task", "diagnostics.copy", "diagnostics.merge_abc"], ["2 tasks", "give one --task"]),
    ],
)
def test_mistakes_about_checkpoints_are_one_line(failing, model_dir: Path, argv: list[str], words: list[str]) -> None:
    error = failing(f"--model_dir={model_dir}", *argv)
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--store_threshold"], ["--store_threshold", "one --target_rate, one --task"]),
        (["--store_threshold", "--target_rate", "0.5", "0.7"], ["--store_threshold", "one --target_rate"]),
        (["--threshold=-15", "--target_rate=0.5"], ["--threshold and --target_rate", "give one"]),
        (["--threshold=-40"], ["threshold", "-40", "between scale"]),
        (["--target_rate=1.5"], ["--target_rate=1.5", "between 0 and 1"]),
        (["--threshold=-15", "--deletion", "none"], ["--threshold", "no effect under none deletion"]),
        (["--labels"], ["--labels", "has no labels", "TaskSpec.labels"]),
        (["--labels", "--threshold=-15"], ["has no labels"]),
        (["--labels", "--deletion", "random"], ["--labels", "random deletion"]),
    ],
)
def test_mistakes_about_thresholds_and_labels_are_one_line(failing, model_dir: Path, argv: list[str], words) -> None:
    error = failing(f"--model_dir={model_dir}", *argv)
    for word in words:
        assert word in error

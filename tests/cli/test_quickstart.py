"""The quickstart around its training; what the model learns is judged in tests/end_to_end."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mrt5_jax.cli import quickstart
from mrt5_jax.cli.main import main
from mrt5_jax.cli.pictures import NUM_SHOWN, Pictures
from mrt5_jax.cli.quickstart import NUM_EXAMPLES, SPLIT, inspect_strings, vowel_lines
from mrt5_jax.evaluation.model_dirs import LoadedModel, evaluate_task, load_model
from mrt5_jax.evaluation.records import of_deletion
from mrt5_jax.evaluation.terminal import LEGEND
from mrt5_jax.runs.run_files import SavedRun, read_run

from .small_run import NUM_TEST, SIZES, make_model_dir

SMALL = [
    "from __gin__ import dynamic_registration",
    "from mrt5_jax import config",
    "from mrt5_jax.tasks import diagnostics",
    "include 'runs/quickstart.gin'",
    "BATCH_SIZE = 4",
    "TRAIN_STEPS = 4",
    "GATE_STEP = 2",
    f"diagnostics.diagnostic_task.num_test = {NUM_TEST}",
    *(f"config.ModelConfig.{name} = {value}" for name, value in SIZES.items()),
    "config.OptimizerConfig.warmup_steps = 0",
    "config.ExecutionConfig.scan_unroll = 1",
]
"""A gin file of the quickstart's recipe for a model that is soon compiled and learns nothing."""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture(scope="module")
def run(model_dir: Path) -> SavedRun:
    saved = read_run(model_dir)
    assert saved is not None
    return saved


@pytest.fixture(scope="module")
def loaded(model_dir: Path, run: SavedRun) -> LoadedModel:
    return load_model(model_dir, run.model, None, run.execution)


def moment(step: int, last: bool = False, params: Any = None) -> Any:
    """What a hook reads of a `Moment`."""
    return SimpleNamespace(step=step, last=last, state=SimpleNamespace(params=params))


def test_the_page_shows_what_the_evaluation_found(run: SavedRun, loaded: LoadedModel) -> None:
    """Of each string as many tokens are kept as its record says."""
    records = evaluate_task(loaded, run, run.data.eval_tasks[0], "test", ("soft", "hard")).records
    vowels, sections = inspect_strings(run, loaded, records)
    hard = of_deletion(records, "hard")
    kept = [sum(sum(piece.keep) for piece in section.pieces) for section in sections]
    assert len(sections) == min(NUM_EXAMPLES, NUM_TEST)
    assert kept == [record.num_kept_tokens for record in hard[: len(sections)]]
    assert vowels.ends.total == NUM_TEST
    assert len(vowel_lines(vowels)) == 2


def test_a_model_in_training_is_shown(
    run: SavedRun, loaded: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a page, and the first strings on the terminal: text, marks and gate values, three lines each."""
    page = tmp_path / "page.html"
    pictures = Pictures(run, SPLIT, NUM_EXAMPLES, "a title", page)
    pictures(moment(500, params=loaded.params))
    html = page.read_text(encoding="utf-8")
    assert "<h1>a title</h1>" in html
    assert "at step 500 of 2,200, before it is pushed (from step 600 on)" in html
    assert html.count('class="text"') == run.data.eval_batch_size
    first, legend, *strings = capsys.readouterr().err.splitlines()
    assert first.endswith(f"more strings: {page}")
    assert legend == LEGEND
    assert len(strings) == 3 * NUM_SHOWN
    assert all(text.startswith("#") and text.endswith("</s>") for text in strings[::3])
    assert all(set(marks) <= {" ", "x"} for marks in strings[1::3])
    assert all(values.replace(" ", "").isdigit() for values in strings[2::3])

    pictures(moment(700, params=loaded.params))
    assert "before it is pushed" not in page.read_text(encoding="utf-8")
    assert len(capsys.readouterr().err.splitlines()) == 1 + 3 * NUM_SHOWN, "the legend stands there already"

    page.unlink()
    page.mkdir()
    pictures(moment(900, params=loaded.params))
    first, *strings = capsys.readouterr().err.splitlines()
    assert first.endswith(f"{page} cannot be written (Is a directory)"), "which does not stop the training"
    assert len(strings) == 3 * NUM_SHOWN


def test_pictures_come_early_and_then_seldom(run: SavedRun, tmp_path: Path) -> None:
    """None after the last step, when there is an evaluation to show."""
    pictures = Pictures(run, SPLIT, NUM_EXAMPLES, "a title", tmp_path / "page.html")
    steps = [step for step in range(1, 1201) if pictures.due(moment(step, last=step == 1200))]
    assert steps == [100, 300, 600, 900]


def test_a_seed_that_is_none_is_refused(refused: Any, tmp_path: Path) -> None:
    for seed, words in (("-1", "from 0 to 4294967295"), ("4294967296", "from 0 to 4294967295"), ("one", "--seed")):
        assert words in refused("quickstart", f"--output_dir={tmp_path / 'out'}", f"--seed={seed}")
    assert not (tmp_path / "out").exists()


def test_a_model_without_the_step_that_is_compared_is_refused(refused: Any, tmp_path: Path) -> None:
    """As earlier versions left them, which trained the ByT5 for itself."""
    (tmp_path / "out/mrt5/checkpoints/1000").mkdir(parents=True)
    message = refused("quickstart", f"--output_dir={tmp_path / 'out'}")
    assert "later steps than 600" in message
    assert "--output_dir" in message


@pytest.mark.slow
def test_a_quickstart_goes_on_and_a_finished_one_says_where_the_results_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table has a line for the ByT5 and two for the MrT5, from one training, whatever was interrupted."""
    (tmp_path / "small.gin").write_text("\n".join(SMALL) + "\n")
    monkeypatch.setattr(quickstart, "GIN_FILE", str(tmp_path / "small.gin"))
    monkeypatch.setattr(quickstart, "NUM_STRINGS", NUM_TEST)
    out = tmp_path / "out"
    command = ["quickstart", f"--output_dir={out}", "--seed=3"]

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(quickstart, "_evaluate", interrupt)
        assert main(command) == 130
    metrics = (out / "mrt5/metrics.jsonl").read_bytes()
    for _ in range(2):
        capsys.readouterr()
        assert main(command) == 0
        shown = capsys.readouterr().out
        for words in ("ByT5 ", "MrT5 soft ", "MrT5 hard ", "at step 2,", str(out / "examples.html"), str(out / "mrt5")):
            assert words in shown
    assert (out / "mrt5/metrics.jsonl").read_bytes() == metrics, "it was trained once"
    assert {folder.name.rpartition("-")[2] for folder in (out / "mrt5/eval").iterdir()} == {"step2", "step4"}
    assert main(["quickstart", f"--output_dir={out}"]) == 2
    assert "was begun with --seed=3" in capsys.readouterr().err

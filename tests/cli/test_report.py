"""`mrt5 report`: mistakes in one line; texts of a real model; a page that follows a run."""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrt5_jax.cli.main import main
from mrt5_jax.config import GateConfig
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.model_dirs import write_evaluation
from mrt5_jax.runs.lock import run_lock
from mrt5_jax.runs.model_dir import METRICS

from ..evaluation.many_records import random_evaluation
from ..report.made_runs import CONFIG, TIMES, PageReader, make_run, training_lines, work, write_metrics
from .small_run import make_model_dir

TEXT = "<b>\u05d0</b> \U0001f600 a\u0301\n".encode() + b"\xff\0"


@pytest.fixture
def drawable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is refused before anything is drawn."""
    monkeypatch.setattr("mrt5_jax.report.drawing.check_drawing", lambda: None)


def page_in(folder: Path) -> PageReader:
    return PageReader((folder / "index.html").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("drawable")
def test_model_dirs_that_cannot_be_reported_are_named(refused, tmp_path: Path) -> None:
    out = f"--out={tmp_path / 'out'}"
    assert "nowhere is not a MODEL_DIR" in refused("report", str(tmp_path / "nowhere"), out)
    empty, _ = make_run(tmp_path / "empty", num_examples=0)
    assert f"{empty} has no records: `mrt5 eval --model_dir={empty}` writes them" in refused("report", str(empty), out)
    one, _ = make_run(tmp_path / "a" / "same")
    two, _ = make_run(tmp_path / "b" / "same")
    assert f"are both called same: name one, as in OTHER={two}" in refused("report", str(one), str(two), out)
    (path,) = one.glob("eval/*/records.jsonl")
    path.write_text('{"schema": 99}\n')
    assert "records.jsonl, line 1: a record of schema 99" in refused("report", str(one), out)
    assert "NAME=PATH" in refused("report", "name=", out)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("drawable")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--follow", "--texts=a.txt"], ["--texts", "--follow"]),
        (["--text_bytes=5"], ["--text_bytes=5", "no effect without --texts"]),
        (["--text_bytes=0", "--texts=a.txt"], ["--text_bytes=0", "at least 1"]),
        (["--example_tasks=-1"], ["--example_tasks=-1", "at least 0"]),
        (["--texts=nowhere.txt"], ["--texts: nowhere.txt", "No such file"]),
    ],
)
def test_mistakes_in_flags(refused, tmp_path: Path, flags: list[str], words: list[str]) -> None:
    folder, _ = make_run(tmp_path / "run")
    message = refused("report", str(folder), f"--out={tmp_path / 'out'}", *flags)
    for word in words:
        assert word in message


@pytest.mark.usefixtures("drawable")
def test_texts_that_cannot_be_shown_are_named(refused, tmp_path: Path) -> None:
    folder, _ = make_run(tmp_path / "run")
    for name in ("a/de.txt", "b/de.txt", "c/en.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"" if name.startswith("c") else b"text")
    given = [str(tmp_path / name) for name in ("a/de.txt", "b/de.txt")]
    assert "two files are called de" in refused("report", str(folder), "--texts", *given)
    assert "en.txt is empty" in refused("report", str(folder), "--texts", str(tmp_path / "c/en.txt"))


@pytest.mark.usefixtures("drawable")
@pytest.mark.parametrize("gate", [None, GateConfig(1, "every_kth", stride=4)], ids=["no gate", "pooling"])
def test_texts_need_a_model_with_gate_values(
    refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: GateConfig | None
) -> None:
    """Models without are not even loaded: these have no checkpoint."""
    monkeypatch.setattr(sys.modules[make_run.__module__], "CONFIG", dataclasses.replace(CONFIG, gate=gate))
    folder, _ = make_run(tmp_path / "run", num_examples=4)
    (tmp_path / "de.txt").write_bytes(b"text")
    message = refused("report", str(folder), "--texts", str(tmp_path / "de.txt"))
    assert message == "--texts: none of the models has gate values: leave it out"


def test_a_place_that_is_no_folder_is_refused_before_anything_is_read(refused, tmp_path: Path) -> None:
    """Also without matplotlib, and where MODEL_DIR is none."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "out" / "index.html").mkdir(parents=True)
    for out in ("file", "file/below"):
        expected = f"--out: {tmp_path / out}: {tmp_path / 'file'} is not a folder: give another name"
        assert refused("report", "nowhere", f"--out={tmp_path / out}") == expected
    assert "index.html in it is a folder" in refused("report", "nowhere", f"--out={tmp_path / 'out'}")
    assert (tmp_path / "file").read_text() == "mine"


def test_without_matplotlib_one_line_names_the_extra(refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder, _ = make_run(tmp_path / "run")
    assert "pip install 'mrt5-jax[report]'" in refused("report", str(folder))


def test_a_model_and_its_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the gate deletes is the model's own word; what was left out of a text, and who has no gate, is said."""
    pytest.importorskip("matplotlib", reason="needs matplotlib: the extra report")
    bindings = ("config.ModelConfig.gate=None", "config.RunConfig.controller=None")
    runs = {"mrt5": make_model_dir(tmp_path / "mrt5"), "byt5": make_model_dir(tmp_path / "byt5", *bindings)}
    for seed, (name, folder) in enumerate(runs.items()):
        records = random_evaluation(6, ("none",) if name == "byt5" else ("none", "hard"), seed=seed)
        write_evaluation(folder, Evaluation(records, TIMES, body=work), "tasks", "test", 7)
    (tmp_path / "x.txt").write_bytes(TEXT)
    (tmp_path / "long.txt").write_bytes(b"a" * 30)
    out = tmp_path / "out"
    texts = ["--texts", str(tmp_path / "x.txt"), str(tmp_path / "long.txt"), "--text_bytes=20"]
    assert main(["report", *map(str, runs.values()), f"--out={out}", *texts]) == 0
    assert f"written: {out}/index.html" in capsys.readouterr().out
    page = page_in(out)
    assert b"".join(page.texts) == TEXT[:20] + b"a" * 20
    text = (out / "index.html").read_text(encoding="utf-8")
    assert "long: the first 20 of 30 bytes" in text
    assert "byt5 has no gate" in text
    assert (out / "bytes_1.png").read_bytes().startswith(b"\x89PNG")
    assert main(["report", str(runs["mrt5"]), f"--out={tmp_path / 'x.txt'}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"mrt5: --out: {tmp_path / 'x.txt'}")


def test_a_page_follows_a_run_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is written when there are new numbers, and only then; the last one is not read again by browsers."""
    pytest.importorskip("matplotlib", reason="needs matplotlib: the extra report")
    folder, _ = make_run(tmp_path / "run", num_examples=0, steps=5, num_steps=10)
    out = tmp_path / "out"
    last_steps, pages = [], []

    def sleep(seconds: float) -> None:
        page = (out / "index.html").read_text(encoding="utf-8")
        assert 'http-equiv="refresh"' in page
        last_steps.append(page_in(out).rows("chart-training_loss")[-1][1])
        pages.append((out / "index.html").stat().st_mtime_ns)
        if len(pages) == 2:
            with (folder / METRICS).open("a") as file:
                file.write(json.dumps({"step": 6, "loss": 0.5}) + "\n")
        if len(pages) == 3:
            write_metrics(folder, training_lines(10))

    monkeypatch.setattr("mrt5_jax.cli.report.time", SimpleNamespace(sleep=sleep))
    with run_lock(folder):
        assert main(["report", str(folder), f"--out={out}", "--follow"]) == 0
    assert last_steps == [5, 5, 6]
    assert pages[0] == pages[1] < pages[2]
    assert "refresh" not in (out / "index.html").read_text(encoding="utf-8")
    assert page_in(out).rows("chart-training_loss")[-1][1] == 10
    assert "nothing more to follow: training has ended" in capsys.readouterr().out


def test_following_ends_where_a_run_stops_short_of_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has the last numbers of the run, and says why it ends; of one that has stopped before, at once."""
    pytest.importorskip("matplotlib", reason="needs matplotlib: the extra report")
    folder, _ = make_run(tmp_path / "run", num_examples=0, steps=5, num_steps=10)
    out, training = tmp_path / "out", contextlib.ExitStack()
    training.enter_context(run_lock(folder))

    def sleep(seconds: float) -> None:
        with (folder / METRICS).open("a") as file:
            file.write(json.dumps({"step": 6, "loss": 0.5}) + "\n")
        training.close()

    monkeypatch.setattr("mrt5_jax.cli.report.time", SimpleNamespace(sleep=sleep))
    assert main(["report", str(folder), f"--out={out}", "--follow"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == (
        "nothing more to follow: run stopped at step 6 of 10, and nothing trains there now (`mrt5 train` goes on)"
    )
    assert "refresh" not in (out / "index.html").read_text(encoding="utf-8")
    assert page_in(out).rows("chart-training_loss")[-1][1] == 6
    write_metrics(folder, training_lines(10)[:-1])
    monkeypatch.setattr("mrt5_jax.cli.report.time", None)
    assert main(["report", str(folder), f"--out={out}", "--follow"]) == 0
    assert "run stopped at step 10 of 10, before its evaluation, and" in capsys.readouterr().out

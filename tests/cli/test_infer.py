"""`mrt5 infer`: every line answered once and in order, whatever stops it; mistakes named by line."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mrt5_jax.cli.main import main
from mrt5_jax.config import DataConfig, RunConfig, TrainingConfig
from mrt5_jax.inference.engine import Engine
from mrt5_jax.runs.checkpoints import save_model
from mrt5_jax.runs.run_files import RUN_CONFIG
from mrt5_jax.runs.stored_threshold import StoredThreshold, write_threshold

from ..inference.models import random_params
from .infer_lines import CONFIG, ENGINE, SIZES, TEXTS, read_lines, write_lines


def test_scores_are_added_to_the_lines_in_order(command: list[str], tmp_path: Path) -> None:
    assert main([*command, "--mode=score"]) == 0
    answers = read_lines(tmp_path / "out.jsonl")
    assert [answer["id"] for answer in answers] == list(range(len(TEXTS)))
    for text, answer in zip(TEXTS, answers, strict=True):
        targets = np.zeros((2, 6), np.int32)
        targets[0, : len(text[:3].encode()) + 1] = [*(byte + 3 for byte in text[:3].encode()), 1]
        inputs = np.zeros((2, 24), np.int32)
        inputs[0, : len(text.encode()) + 1] = [*(byte + 3 for byte in text.encode()), 1]
        batch = {
            "encoder_input_tokens": inputs,
            "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
            "decoder_target_tokens": targets,
            "decoder_loss_weights": (targets > 0).astype(np.int32),
        }
        expected = {name: values[0].item() for name, values in ENGINE.score(batch)._asdict().items()}
        assert answer["num_input_tokens"] == len(text.encode()) + 1
        assert answer == {"inputs": text, "targets": text[:3], "id": answer["id"]} | {
            name: pytest.approx(value, rel=1e-4) for name, value in expected.items()
        }


def test_predictions_have_ids_and_text(command: list[str], tmp_path: Path) -> None:
    assert main(command) == 0
    answers = read_lines(tmp_path / "out.jsonl")
    for text, answer in zip(TEXTS, answers, strict=True):
        inputs = np.zeros((2, 24), np.int32)
        inputs[0, : len(text.encode()) + 1] = [*(byte + 3 for byte in text.encode()), 1]
        generated = ENGINE.generate(inputs, 6)
        ids = generated.tokens[0, : generated.num_tokens[0]].tolist()
        assert answer["prediction_ids"] == ids
        assert answer["prediction"] == bytes(i - 3 for i in ids if 3 <= i < 259).decode(errors="ignore")


def test_drafts_change_no_answer_and_say_how_many_steps_they_saved(
    command: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert main([*command, f"--output={tmp_path / 'plain.jsonl'}"]) == 0
    assert "drafts of" not in capsys.readouterr().out
    assert main([*command, "--draft_length=3"]) == 0
    plain, drafted = read_lines(tmp_path / "plain.jsonl"), read_lines(tmp_path / "out.jsonl")
    steps = [answer.pop("num_steps") for answer in drafted]
    for one, other in zip(plain, drafted, strict=True):
        assert other == one | {"score": pytest.approx(one["score"], rel=1e-4)}
    ids = [len(answer["prediction_ids"]) for answer in plain]
    assert all(1 <= few <= count for few, count in zip(steps, ids, strict=True))
    saved = 1 - sum(steps) / sum(ids)
    expected = f"drafts of 3: {sum(ids)} ids in {sum(steps)} steps, {saved:.0%} of the steps saved\n"
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--mode=predict", "--search=sampling", "--seed=5"], ["--mode=score"]])
def test_a_killed_run_goes_on_to_the_same_bytes(
    flags: list[str], command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed twice: while computing, and while writing a line. Two batches of two lines are a window."""
    flags = [*flags, "--window=2"]
    whole = tmp_path / "whole.jsonl"
    assert main([*command, *flags, f"--output={whole}"]) == 0
    output = tmp_path / "out.jsonl"
    method = "score_window" if "--mode=score" in flags else "generate_window"
    compute, computed = getattr(Engine, method), []

    def run(calls: int) -> int:
        """Runs until so many windows are computed."""
        computed.clear()

        def dying(engine: Engine, batches: Any, *args: Any) -> Any:
            if len(computed) == calls:
                raise KeyboardInterrupt
            computed.append(str(batches))
            return compute(engine, batches, *args)

        with monkeypatch.context() as patch:
            patch.setattr(Engine, method, dying)
            return main([*command, *flags])

    assert run(1) == 130
    assert 0 < len(read_lines(output)) < len(TEXTS)
    before = list(computed)
    output.write_bytes(output.read_bytes()[:-7])
    assert run(9) == 0
    assert computed[:1] == before, "the batches of the half-written window should be cut as they were"
    assert len(computed) == 3
    assert output.read_bytes() == whole.read_bytes()
    assert main([*command, *flags]) == 0, "a finished run has nothing left to do"
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [1, 150, 1500])
def test_a_run_killed_outright_goes_on_to_the_same_bytes(kill_at: int, command: list[str], tmp_path: Path) -> None:
    """SIGKILL of the real process, once so many lines are on disk; the answers come two batches at a time."""
    command = [*command, "--window=2"]
    write_lines(tmp_path / "in.jsonl", [{"inputs": TEXTS[number % 10], "id": number} for number in range(2000)])
    process = [sys.executable, "-m", "mrt5_jax", *command, "--search=sampling"]
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    subprocess.run([*process, f"--output={whole}"], check=True, capture_output=True)
    with subprocess.Popen(process, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while not output.exists() or output.read_bytes().count(b"\n") < kill_at:
            assert running.poll() is None, "the run should not end before it is killed"
        running.kill()
    before = output.read_bytes()
    assert before != whole.read_bytes()
    subprocess.run(process, check=True, capture_output=True)
    assert output.read_bytes() == whole.read_bytes()
    assert whole.read_bytes().startswith(before[: before.rfind(b"\n") + 1]), "what was written should have stayed"


@pytest.mark.parametrize(
    ("flags", "same"),
    [
        pytest.param(["--dispatch=in_graph"], True, marks=pytest.mark.slow),
        (["--chunks=2"], True),
        pytest.param(["--chunks=auto"], True, marks=pytest.mark.slow),
        (["--window=1"], True),
        (["--capacity=0.2"], False),
    ],
)
def test_who_chooses_the_length(flags: list[str], same: bool, command: list[str], tmp_path: Path) -> None:
    """Only a capacity may change an answer."""
    command = [*command, "--deletion=hard", "--mode=score"]
    plain, other = tmp_path / "plain.jsonl", tmp_path / "other.jsonl"
    assert main([*command, f"--output={plain}"]) == main([*command, *flags, f"--output={other}"]) == 0
    counts = [[line["num_kept_tokens"] for line in read_lines(path)] for path in (plain, other)]
    scores = [[line["score"] for line in read_lines(path)] for path in (plain, other)]
    assert (counts[0] == counts[1]) is same
    assert (scores[0] == pytest.approx(scores[1], rel=1e-4)) is same


def test_the_same_text_on_another_line_gets_a_sample_of_its_own(command: list[str], tmp_path: Path) -> None:
    """In other windows too: a line's number counts from the beginning of the file."""
    write_lines(tmp_path / "in.jsonl", [{"inputs": "some bytes"}] * 10)
    assert main([*command, "--search=sampling", "--temperature=3"]) == 0
    predictions = [tuple(answer["prediction_ids"]) for answer in read_lines(tmp_path / "out.jsonl")]
    assert len(set(predictions)) == 10


def test_once_warm_nothing_compiles(command: list[str], tmp_path: Path) -> None:
    """Under hard deletion too, where each rung has its program."""
    write_lines(tmp_path / "in.jsonl", [{"inputs": text} for text in ("ab", "some bytes", "y" * 20)])
    command = [*command, "--deletion=hard"]
    assert main([*command, f"--output={tmp_path / 'first.jsonl'}"]) == 0
    compiled: list[str] = []

    def listen(event: str, duration: float, **details: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(str(details))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        assert main(command) == 0
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "first.jsonl").read_text()
    assert not compiled


def test_inputs_that_are_too_long_are_refused_or_cut(command: list[str], tmp_path: Path, capsys: Any) -> None:
    path = write_lines(tmp_path / "long.jsonl", [{"inputs": "a"}, {"inputs": "b" * 24}])
    long = [*command, f"--input={path}"]
    assert main(long) == 2
    assert f"{path}:2: the input has 25 ids, more than 24" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
    assert main([*long, "--truncate"]) == 0
    assert len(read_lines(tmp_path / "out.jsonl")) == 2


def test_lengths_are_those_the_model_was_trained_with(command: list[str], model_dir: Path, capsys: Any) -> None:
    data = DataConfig("task", ("task",), input_length=7, target_length=5, batch_size=1, eval_batch_size=1)
    run = RunConfig(str(model_dir), CONFIG, data, TrainingConfig(num_steps=1))
    (model_dir / RUN_CONFIG).write_text(json.dumps(dataclasses.asdict(run)))
    try:
        assert main([word for word in command if word not in SIZES]) == 2
    finally:
        (model_dir / RUN_CONFIG).unlink()
    assert "in.jsonl:4: the input has 11 ids, more than 7" in capsys.readouterr().err


def test_a_byt5_goes_on_under_whatever_deletion_was_asked_for(command: list[str], tmp_path: Path) -> None:
    """It deletes nothing under any, and OUTPUT.settings.json has the word that was given."""
    config = dataclasses.replace(CONFIG, gate=None)
    save_model(tmp_path / "byt5", random_params(config), config)
    command = [*command, f"--model_dir={tmp_path / 'byt5'}", "--mode=score"]
    assert main(command) == 0
    before = (tmp_path / "out.jsonl").read_bytes()
    assert json.loads((tmp_path / "out.jsonl.settings.json").read_text())["deletion"] == "soft"
    assert main(command) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_what_was_written_survives_a_bad_line_that_came_later(command: list[str], tmp_path: Path, capsys: Any) -> None:
    assert main(command) == 0
    before = (tmp_path / "out.jsonl").read_bytes()
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write("{not json\n")
    assert main(command) == 2
    assert f"in.jsonl:{len(TEXTS) + 1}: not JSON" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_what_may_be_a_mistake_is_said(command: list[str], tmp_path: Path, capsys: Any) -> None:
    write_lines(tmp_path / "in.jsonl", [{"inputs": "a <extra_id_0>"}, {"inputs": "b"}])
    assert main(command) == 0
    said = capsys.readouterr().err
    assert f"{tmp_path}/in.jsonl: <extra_id_0> in a text is taken as these very characters" in said
    assert len(read_lines(tmp_path / "out.jsonl")) == 2
    (tmp_path / "blank.jsonl").write_text("\n \n")
    assert main([*command, f"--input={tmp_path}/blank.jsonl", f"--output={tmp_path}/none.jsonl"]) == 0
    assert f"{tmp_path}/blank.jsonl: no request in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output=/dev/stdout"], "/dev/stdout: a pipe or a device, where a stopped run could not go on"),
        (["--output=-"], "-: standard output, where a stopped run could not go on"),
        (["--output=az://b/out.jsonl"], "az://b/out.jsonl: nothing here serves az://"),
        (["--input=https://b/in.jsonl"], "https://b/in.jsonl: nothing here serves https://"),
        (["--model_dir=https://h/m"], "https://h/m: nothing here serves https://"),
        (["--input=/dev/zero"], "/dev/zero: a device"),
        (["--input=."], ".: a folder: name a file in it"),
        (["--temperature=2"], "--temperature needs --search=sampling"),
        (["--search=sampling", "--beam_size=2"], "--beam_size needs --search=beam"),
        (["--search=sampling", "--top_p=2"], "top_p 2.0"),
        (["--search=beam", "--draft_length=4"], "--draft_length needs --search=greedy"),
        (["--search=sampling", "--draft_length=4"], "--draft_length needs --search=greedy"),
        (["--mode=score", "--draft_length=4"], "--draft_length needs --mode=predict"),
        (["--draft_length=-1"], "draft length -1: must be at least 1"),
        (["--mode=score", "--search=beam"], "--search needs --mode=predict"),
        (["--batch_size=0"], "--batch_size=0: must be at least 1"),
        (["--chunks=3"], "--chunks=3: must divide --batch_size=2"),
        (["--chunks=some"], "argument --chunks: 'some' is neither a number nor auto"),
        (["--window=0"], "--window=0: must be at least 1"),
        (["--window=1000000000"], "window = 1000000000: at the gate, so many batches of 2 x 24 take 2,861.0 GiB"),
        (["--search=beam", "--beam_size=99999999999"], "--beam_size=99999999999: should be at most"),
        (["--capacity=0"], "capacity = 0.0: must be a share"),
        (["--seed=-1", "--search=sampling"], "--seed=-1: should be from 0"),
        (["--step=7"], "has no step 7"),
        (["--model_dir=nowhere"], "nowhere"),
        (["--input=nothing.jsonl"], "nothing.jsonl: No such file"),
        (["--deletion=random"], "invalid choice"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    flags: list[str], message: str, command: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert main([*command, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_another_stored_threshold_is_another_setting(
    command: list[str], model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An OUTPUT has answers at one threshold, whoever gives it."""
    own = tmp_path / "own"
    shutil.copytree(model_dir, own)
    argv = [*command, f"--model_dir={own}", "--mode=score"]
    write_threshold(own, StoredThreshold(-2.5, 0.5, "t", "validation", 0))
    assert main(argv) == 0
    write_threshold(own, StoredThreshold(-3.5, 0.5, "t", "validation", 0))
    capsys.readouterr()
    assert main(argv) == 2
    assert "threshold -2.5 -> -3.5" in capsys.readouterr().err
    (own / "threshold.json").unlink()
    assert main([*argv, "--threshold=-2.5"]) == 0, "the same, by the flag"

"""benchmarks.accelerator: its parts with fakes for what only an accelerator has, and all of it with small sizes."""

import ast
import dataclasses
import importlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest


class Parts:
    """The modules of the benchmark, which is no part of the package."""

    def __getattr__(self, name: str) -> Any:
        return importlib.import_module(f"benchmarks.accelerator.{name}")


@pytest.fixture
def parts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.syspath_prepend(str(repository))
    return Parts()


class FakeDevice:
    """Counts its memory as GPUs and TPUs do."""

    platform = "gpu"

    def __init__(self, *peaks: int, limit: int = 0) -> None:
        self._peaks, self._limit = list(peaks), limit

    def memory_stats(self) -> dict[str, int]:
        peak = self._peaks.pop(0) if len(self._peaks) > 1 else sum(self._peaks)
        return {"peak_bytes_in_use": peak, "bytes_limit": self._limit}


class FakeContestant:
    compile_seconds = 1.5
    memory = 7

    def __init__(self, name: str, turns: list[str], good_turns: int = -1) -> None:
        self._name, self._turns, self._left = name, turns, good_turns

    def turn(self, calls: int) -> None:
        self._left -= 1
        if self._left == -1:
            raise ValueError(f"{self._name} broke\nand more")
        self._turns.append(self._name)


class FakeClock:
    """Every look at it costs a second."""

    budget = 100.0

    def __init__(self, left: float = 1e9) -> None:
        self._left = left

    @property
    def left(self) -> float:
        self._left -= 1
        return self._left

    @property
    def passed(self) -> float:
        return 0.0


def contestant(parts: Parts, name: str, prepare: Callable[[], Any], section: str = "section") -> Any:
    return parts.race.Contestant(name, section, 1000, 2000.0, prepare)


def raising(error: Exception) -> Callable[[], Any]:
    def prepare() -> Any:
        raise error

    return prepare


def test_the_sizes_are_those_of_the_shipped_configuration(parts: Parts, repository: Path) -> None:
    """Read as text: gin's own reading imports TensorFlow."""
    text = "".join((repository / f"gin_configs/models/{name}.gin").read_text() for name in ("byt5_small", "mrt5"))
    shipped = dict(re.findall(r"^  (\w+) = ([^@%\n]+)$", text, re.MULTILINE))
    model = parts.sizes.BYT5_SMALL.model
    measured = dataclasses.asdict(model) | dataclasses.asdict(model.gate)
    assert {"emb_dim", "num_heads", "mlp_dim", "num_encoder_layers", "softmax1", "scale"} < shipped.keys()
    assert {name: measured[name] for name in shipped} == {k: ast.literal_eval(v) for k, v in shipped.items()}
    assert model.gate.layer == int(re.findall(r"GATE_LAYER = (\d+)", text)[0])


@pytest.mark.parametrize("name", ["BYT5_SMALL", "SMALL"])
def test_half_of_the_bytes_of_every_row_are_even(parts: Parts, name: str) -> None:
    tokens = parts.sizes.make_batch(getattr(parts.sizes, name))["encoder_input_tokens"]
    assert (np.sum(tokens % 2 == 0, axis=1) == tokens.shape[1] // 2).all()
    assert tokens.min() >= 3
    assert tokens.max() < 259


def test_contestants_take_turns_and_one_that_fails_is_named(parts: Parts) -> None:
    turns: list[str] = []
    makers = {name: FakeContestant(name, turns, good_turns=3 if name == "b" else -1) for name in "abc"}
    entries = [contestant(parts, name, lambda name=name: makers[name]) for name in "abc"]
    entries.insert(1, contestant(parts, "none", raising(parts.race.UnableError("nothing there"))))
    device = FakeDevice(0, 5, 9, 9)
    outcome = parts.race.race(entries, FakeClock(), 3, device)
    # Once while they get ready, then in turns; b fails in the last one.
    assert "".join(turns) == "abc" + "abc" + "abc" + "ac"
    assert [one.contestant.name for one in outcome.finished] == ["a", "c"]
    assert [len(one.result.seconds) for one in outcome.finished] == [3, 3]
    assert outcome.absences == [("none", "nothing there"), ("b", "ValueError: b broke")]
    # The device's own count is that of who raised it: a to 5, b to 9, c not.
    assert [one.device_peak for one in outcome.finished] == [5, None]
    assert {(one.compile_seconds, one.memory) for one in outcome.finished} == {(1.5, 7)}


def test_the_last_ones_are_left_out_when_time_runs_out(parts: Parts) -> None:
    turns: list[str] = []
    entries = [contestant(parts, name, lambda name=name: FakeContestant(name, turns)) for name in "abcd"]
    outcome = parts.race.race(entries, FakeClock(left=25.0), 2, FakeDevice(0))
    assert [one.contestant.name for one in outcome.finished] == ["a", "b"]
    assert outcome.absences == [("c", "no time left of 100 s"), ("d", "no time left of 100 s")]


def test_too_little_memory_halves_the_batch(parts: Parts, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    main = importlib.import_module("benchmarks.accelerator.__main__")
    monkeypatch.setattr(main, "SharedModel", lambda sizes, device: sizes)

    def ours(sizes: Any) -> list[Any]:
        exhausted = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of 80 GiB")
        fits = FakeContestant("step", [])
        return [contestant(parts, "step", raising(exhausted) if sizes.rows > limit else lambda: fits)]

    monkeypatch.setattr(main, "our_contestants", ours)
    monkeypatch.setattr(main, "their_contestants", lambda process, sizes: [])
    sizes, limit = parts.sizes.SMALL._replace(rows=16), 5
    ran, outcome = main.run_race(sizes, FakeDevice(0), None, FakeClock(), 1)
    assert ran.rows == 4
    assert [one.contestant.name for one in outcome.finished] == ["step"]
    said = capsys.readouterr().out
    assert "step does not fit with 16 rows: once more with 8" in said
    limit = 0
    ran, outcome = main.run_race(sizes, FakeDevice(0), None, FakeClock(), 1)
    assert outcome.absences == [("everything", "step does not fit with a single row")]


def test_the_first_batch_follows_the_memory(parts: Parts) -> None:
    main = importlib.import_module("benchmarks.accelerator.__main__")
    sizes = parts.sizes.BYT5_SMALL
    found = [main.first_rows(sizes, FakeDevice(limit=gib * 2**30)) for gib in (60, 15, 1)]
    assert found == [16, 4, 1]
    assert main.first_rows(sizes, jax.devices()[0]) == 16  # the CPU counts nothing


def test_differences_beyond_their_tolerance_are_wrong(parts: Parts) -> None:
    module = parts.correctness
    right = module.Computed({"none": np.ones((2, 3))}, np.ones((2, 2), bool), 2.0, {"a": np.ones(4), "b": np.ones(2)})
    tolerances = {"logits": 1e-3, "loss": 1e-3, "gradient": 1e-3}

    def verdicts(**changes: Any) -> list[bool]:
        return [one.passed for one in module.compare("float32", right._replace(**changes), right, tolerances)]

    assert verdicts() == [True, True, True, True]
    assert verdicts(logits={"none": np.full((2, 3), 1.002)}) == [False, True, True, True]
    assert verdicts(kept=np.array([[True, True], [True, False]])) == [True, False, True, True]
    assert verdicts(loss=math.nan) == [True, True, False, True]
    assert verdicts(gradient={"a": np.ones(4), "b": np.array([1, math.nan])}) == [True, True, True, False]


def test_pytorch_is_waited_for_and_its_memory_counted_on_a_gpu(parts: Parts) -> None:
    log: list[str] = []
    cuda = SimpleNamespace(
        reset_peak_memory_stats=lambda: log.append("reset"),
        synchronize=lambda: log.append("wait"),
        max_memory_allocated=lambda: 123,
    )
    run_and_wait = parts.theirs.run_and_wait
    assert run_and_wait(lambda: log.append("call"), 2, cuda) == 123
    assert log == ["reset", "call", "call", "wait"]
    assert run_and_wait(lambda: log.append("call"), 1, None) is None


def test_where_pytorch_cannot_run_it_says_why(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="is refused for another reason where PyTorch is not installed")
    theirs = parts.theirs
    with pytest.raises(parts.race.UnableError, match="PyTorch does not run on a tpu"):
        theirs.TorchProcess(parts.sizes.SMALL, "tpu", FakeClock()).run("training step", 1, 1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    process = theirs.TorchProcess(parts.sizes.SMALL, "cpu", FakeClock())
    with pytest.raises(parts.race.UnableError, match="torch and transformers not installed"):
        process.run("training step", 1, 1)
    process.close()


def test_an_attention_that_is_not_there_is_refused_with_those_that_are(parts: Parts, capsys: Any) -> None:
    main = importlib.import_module("benchmarks.accelerator.__main__").main
    with pytest.raises(SystemExit, match="2"):
        main(["--attention=flash"])
    error = capsys.readouterr().err
    assert "flash" in error
    assert "xla" in error
    with pytest.raises(SystemExit, match="2"):
        main(["--json=/no/such/folder/figures.json"])


def test_a_forward_pass_that_runs_at_another_length_is_refused(parts: Parts) -> None:
    ours, sizes = parts.ours, parts.sizes
    shared = ours.SharedModel(sizes.with_attention(sizes.SMALL, "xla"), jax.devices()[0])
    with pytest.raises(parts.race.UnableError, match="ran at the length: 64, expected 128"):
        ours.ForwardPasses(shared, "hard", sizes.SMALL.input_length)


@pytest.mark.slow
def test_a_step_replaces_the_state_and_leaves_the_gate(parts: Parts) -> None:
    ours, sizes = parts.ours, parts.sizes
    shared = ours.SharedModel(sizes.with_attention(sizes.SMALL, "xla"), jax.devices()[0])
    before = np.asarray(shared.params["encoder"]["gate"]["kernel"])
    step = ours.TrainingSteps(shared, "saturated", "capacity", sizes.SMALL.kept)
    step.turn(2)
    assert step.memory > 0
    state = shared.take()
    assert int(state.step) == 3
    np.testing.assert_allclose(state.params["encoder"]["gate"]["kernel"], before, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_all_of_it_with_small_sizes(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.accelerator", "--small", "--rounds=1", "--json", tmp_path / "a.json"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no accelerator" in done.stdout
    figures = json.loads((tmp_path / "a.json").read_text())
    assert len(figures["checks"]) == 12
    assert all(one["passed"] for one in figures["checks"])
    names = [one["name"] for one in figures["results"]]
    left_out = [one["name"] for one in figures["left_out"]]
    ours = ["none", "saturated 50 %, in-graph", "soft", "saturated 50 %, host", "saturated 50 %, capacity"]
    expected = [f"training step, {name}" for name in ours]
    expected += [f"{what}, {name}" for what in ("forward pass", "decoding 8 tokens") for name in ("none", "hard 50 %")]
    assert [name for name in names if "PyTorch" not in name] == expected
    theirs = {f"{what}, PyTorch" for what in ("training step", "forward pass", "decoding 8 tokens")}
    assert {name for name in names + left_out if "PyTorch" in name} == theirs

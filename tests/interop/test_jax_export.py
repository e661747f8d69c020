"""Programs that run without this package: the same ids as `mrt5 infer`, and nothing of ours imported."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mrt5_jax.cli.main import main
from mrt5_jax.config import GateConfig
from mrt5_jax.inference.engine import Engine
from mrt5_jax.interop import exported_loader, jax_export
from mrt5_jax.interop.models import Model

NEWEST_JAX_VARIABLE = "MRT5_PYTHON_WITH_NEWEST_JAX"
"""Names the absolute path of a Python with numpy and the newest jax in which exported programs are promised to run."""
LENGTHS = ["--input_length=32", "--max_target_length=8"]
SIZES = [*LENGTHS, "--batch_size=4", "--platforms=cpu"]


@pytest.fixture(scope="module", autouse=True)
def _two_short_lengths():
    """Programs are for 16 and 32 ids, whose few rungs take a third of the time of those for 64 and 128."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mrt5_jax.inference.requests.SHORTEST", 16)
        yield


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, shared: Path) -> Path:
    """A golden MrT5 that deletes about a third."""
    folder = tmp_path_factory.mktemp("jax_export") / "model"
    assert main(["convert", "hf-import", str(shared / "golden" / "mrt5_tiny"), str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def exported(model_dir: Path) -> Path:
    folder = model_dir.with_name("exported")
    assert main(["convert", "jax-export", str(model_dir), str(folder), *SIZES]) == 0
    return folder


def texts_of(english: Path, number: int) -> list[dict[str, str]]:
    """Texts of many lengths, and characters of several bytes."""
    lines = english.read_text(encoding="utf-8").splitlines()
    texts = [line[: 3 + 3 * (n % 8)] + "é" * (n % 3) for n, line in enumerate(lines) if len(line) > 120]
    return [{"inputs": text} for text in texts[:number]]


def run_loader(folder: Path, requests: list[dict[str, str]], python: str = sys.executable) -> list[dict[str, Any]]:
    """Answers of a folder's own loader in a process that finds nothing of ours, by this Python or another one."""
    script = f"""
import runpy, sys
sys.modules["mrt5_jax"] = sys.modules["flax"] = None
sys.path.insert(0, {str(folder)!r})  # before what is installed, so that the folder's own flatbuffers has to do
import flatbuffers
assert flatbuffers.__file__.startswith({str(folder)!r})
runpy.run_path({str(folder / "load.py")!r}, run_name="__main__")
"""
    ours = () if python == sys.executable else ("XLA_FLAGS", "PYTHONPATH")  # for this jaxlib and this Python alone
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    given = "".join(json.dumps(request) + "\n" for request in requests)
    ran = subprocess.run(
        [python, "-c", script], input=given, capture_output=True, text=True, cwd="/", env=environment, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def newest_pin(repository: Path) -> Version:
    """The newest jax that constraints.txt pins for any Python."""
    lines = (repository / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line.startswith("jax==")]
    return max(Version(specifier.version) for pin in pins for specifier in pin.specifier)


@pytest.fixture
def newest_jax(repository: Path) -> str:
    """A Python that has it."""
    if not (python := os.environ.get(NEWEST_JAX_VARIABLE)):
        pytest.skip(f"needs a Python with jax {newest_pin(repository)} and numpy, its path in {NEWEST_JAX_VARIABLE}")
    return python


def test_the_promised_window_ends_after_the_newest_jax_that_is_pinned(repository: Path) -> None:
    """So a new pin moves it, and is tested there."""
    major, minor = newest_pin(repository).release[:2]
    assert f"{major}.{minor + 1}" == jax_export.FIRST_JAX_NOT_PROMISED


def test_programs_run_at_both_ends_of_the_promised_window(newest_jax: str, repository: Path, exported: Path) -> None:
    """In the jax that exports them here, and in the newest."""
    asked = [newest_jax, "-c", "import jax; print(jax.__version__)"]
    version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    manifest = json.loads((exported / "manifest.json").read_text())
    assert SpecifierSet(manifest["jax"]).contains(version)
    assert Version(version).release[:2] == newest_pin(repository).release[:2]
    requests = [{"inputs": "some text"}, {"inputs": "é"}, {"inputs": "more of it"}, {"inputs": "x", "targets": "ab"}]
    here, there = (run_loader(exported, requests, python) for python in (sys.executable, newest_jax))
    assert [answer.get("prediction_ids") for answer in there] == [answer.get("prediction_ids") for answer in here]
    np.testing.assert_allclose([one["score"] for one in there], [one["score"] for one in here], rtol=1e-4)


def test_the_exported_programs_give_what_infer_gives(model_dir, exported, shared, tmp_path) -> None:
    """In a process of its own that finds nothing of ours, on texts of both lengths and of a last batch not full."""
    requests = texts_of(shared / "data" / "english" / "validation.txt", 22)
    asked, answered = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    asked.write_text("".join(json.dumps(request) + "\n" for request in requests))
    assert main(["infer", f"--model_dir={model_dir}", f"--input={asked}", f"--output={answered}", *LENGTHS]) == 0
    expected = [json.loads(line) for line in answered.read_text().splitlines()]
    pairs = [request | {"targets": "abc"} for request in requests[:3]]
    answers = run_loader(exported, [*requests, *pairs])
    assert [answer["prediction_ids"] for answer in answers[: len(requests)]] == [e["prediction_ids"] for e in expected]
    assert [answer["prediction"] for answer in answers[: len(requests)]] == [e["prediction"] for e in expected]
    assert len({len(json.dumps(answer["prediction_ids"])) for answer in answers[: len(requests)]}) > 1

    asked.write_text("".join(json.dumps(request) + "\n" for request in pairs))
    scored = tmp_path / "scores.jsonl"
    flags = [*LENGTHS, "--mode=score"]
    assert main(["infer", f"--model_dir={model_dir}", f"--input={asked}", f"--output={scored}", *flags]) == 0
    scores = [json.loads(line)["score"] for line in scored.read_text().splitlines()]
    np.testing.assert_allclose([answer["score"] for answer in answers[len(requests) :]], scores, rtol=1e-5)


def test_every_platform_has_its_programs_and_the_folder_says_what_it_holds(model_dir, tmp_path) -> None:
    """None of them has to be here."""
    flags = ["--input_length=16", "--max_target_length=4", "--batch_size=2"]
    assert main(["convert", "jax-export", str(model_dir), str(tmp_path / "all"), *flags]) == 0
    manifest = json.loads((tmp_path / "all" / "manifest.json").read_text())
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    assert (manifest["input_lengths"], manifest["target_lengths"]) == ([16], [4])
    assert manifest["not_included"] == "sampling and beam search"
    for where in manifest["platforms"]:
        assert manifest["rungs"][where]["16"][-1] == 16
        assert len(manifest["rungs"][where]["16"]) > 1
    programs = {f"{name}_16.{where}.jaxexport" for name in ("generate", "score") for where in manifest["platforms"]}
    others = {"manifest.json", "parameters.npz", "load.py", "flatbuffers"}
    assert {path.name for path in (tmp_path / "all").iterdir()} == programs | others


def test_the_loader_is_short_and_needs_jax_and_numpy_alone(exported) -> None:
    text = (exported / "load.py").read_text()
    assert len(text.splitlines()) <= 60
    imported = {line.split()[1].partition(".")[0] for line in text.splitlines() if line.startswith(("import", "from"))}
    assert imported - set(sys.stdlib_module_names) == {"jax", "numpy"}


def test_a_text_that_is_too_long_or_a_platform_that_is_not_there_is_refused(exported, tmp_path) -> None:
    model = exported_loader.ExportedModel(exported)
    with pytest.raises(ValueError, match="a text of 32 bytes: exported for at most 31"):
        list(model.generate(["a" * 32]))
    manifest = json.loads((exported / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"platforms": ["tpu"]}))
    with pytest.raises(ValueError, match="jax runs on cpu here"):
        exported_loader.ExportedModel(tmp_path)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--platforms=cpu,rocm"], "--platforms=cpu,rocm: 'rocm' is not one of cpu, cuda, tpu"),
        (["--batch_size=0"], "--batch_size=0: must be at least 1"),
        (["--step=9"], "has no step 9"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_leaves_nothing(model_dir, tmp_path, capsys, flags, complaint) -> None:
    assert main(["convert", "jax-export", str(model_dir), str(tmp_path / "new"), *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert complaint in line
    assert list(tmp_path.iterdir()) == []


def test_a_platform_that_jax_cannot_lower_for_is_named_and_nothing_is_left(
    model_dir, tmp_path, capsys, monkeypatch
) -> None:
    def refuse(*args, **kwargs):
        raise RuntimeError("no such platform\nand more")

    monkeypatch.setattr(jax_export.export, "export", refuse)
    assert main(["convert", "jax-export", str(model_dir), str(tmp_path / "new"), "--platforms=tpu"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "cannot export for tpu here (no such platform): leave it out of --platforms" in line
    assert list(tmp_path.iterdir()) == []


GATES = {
    "byt5": None,
    "log_sigmoid": GateConfig(layer=1, kind="log_sigmoid"),
    "pooling": GateConfig(layer=1, kind="every_kth", stride=3, reduction="segment_mean"),
}


@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("byt5", "log_sigmoid")), "pooling"]
)
def test_what_other_formats_have_no_name_for_is_exported_too(kind, tmp_path, byt5, random_params) -> None:
    """The same scores as the model's own program gives."""
    config = dataclasses.replace(byt5, gate=GATES[kind])
    model = Model(config, random_params(config))
    jax_export.export_programs(model, tmp_path, jax_export.ExportSizes(16, 4, 2), ["cpu"])
    (answer,) = exported_loader.ExportedModel(tmp_path).score(["some text"], ["ab"])
    ids = np.zeros((1, 16), np.int32)
    ids[0, :10] = [*(byte + 3 for byte in b"some text"), 1]
    targets = np.array([[100, 101, 1]], np.int32)
    batch = {
        "encoder_input_tokens": ids,
        "decoder_input_tokens": np.array([[0, 100, 101]], np.int32),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones_like(targets),
    }
    expected = Engine(config, model.params).score(batch).score
    np.testing.assert_allclose(answer["score"], np.asarray(expected)[0], rtol=1e-4)

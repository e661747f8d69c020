"""Every kind of model that has a name, and what is wrong with a name, in one line each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mrt5_jax.api.loading import load
from mrt5_jax.api.model import Model
from mrt5_jax.cli.main import main
from mrt5_jax.errors import UserError
from mrt5_jax.runs.stored_threshold import StoredThreshold, write_threshold

from ..cli.small_run import make_model_dir
from ..interop import hub_server
from .models import texts

TEXTS = texts(12)


def same(one: Model, other: Model, answers: bool = True) -> None:
    """Equal configurations, bits and, where that is asked for, answers."""
    assert one.config == other.config
    left, right = (jax.tree_util.tree_leaves_with_path(model.params) for model in (one, other))
    assert [path for path, _ in left] == [path for path, _ in right]
    for (path, array), (_, twin) in zip(left, right, strict=True):
        assert np.asarray(array).tobytes() == np.asarray(twin).tobytes(), path
    if answers:
        assert one.generate(TEXTS) == other.generate(TEXTS)


def test_what_is_saved_is_loaded_bit_for_bit(model: Model, tmp_path: Path) -> None:
    """Lengths of the run too; and the command line takes it."""
    model.save(tmp_path / "saved")
    saved = load(tmp_path / "saved")
    same(saved, model)
    assert (saved.input_length, saved.target_length) == (model.input_length, model.target_length)
    assert main(["inspect", f"--model_dir={tmp_path / 'saved'}", "--text=a"]) == 0
    with pytest.raises(UserError, match="saved exists already: give a new folder"):
        model.save(tmp_path / "saved")


def test_what_is_exported_is_loaded_bit_for_bit(model: Model, tmp_path: Path) -> None:
    """Of a folder of Hugging Face there is no run: lengths are given, and how layers are unrolled."""
    model.export_hf(tmp_path / "exported")
    as_trained: Any = {name: getattr(model, name) for name in ("input_length", "target_length", "execution")}
    exported = load(tmp_path / "exported", **as_trained)
    same(exported, model)
    exported.save(tmp_path / "saved")
    saved = load(tmp_path / "saved", **as_trained)
    same(saved, model)
    with pytest.raises(UserError, match="exported is a model of Hugging Face, which has no steps: leave step=3 out"):
        load(tmp_path / "exported", step=3)
    saved.export_hf(tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "exported" / name).read_bytes()


@pytest.mark.parametrize("folder", ["mrt5_tiny", "byt5_tiny"])
def test_a_folder_of_hugging_face_is_a_model(folder: str, shared: Path, tmp_path: Path) -> None:
    found = load(shared / "golden" / folder, input_length=64, target_length=8)
    found.save(tmp_path / "saved")
    same(load(tmp_path / "saved", input_length=64, target_length=8), found, answers=False)


def test_a_threshold_takes_the_place_of_the_models_own(model: Model, tmp_path: Path) -> None:
    models = [load(model.name, threshold=threshold) for threshold in (-29.9, -15.0, -0.1)]
    kept = [sum(sum(found.keep) for found in one.deletions(TEXTS)) for one in (*models, model)]
    assert kept[0] > kept[1] == kept[3] > kept[2]
    models[0].save(tmp_path / "saved")
    assert load(tmp_path / "saved").config == models[0].config != model.config


def test_a_stored_threshold_takes_the_place_of_the_trained_one_until_its_file_is_removed(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said in one line; a threshold that is given wins; what was trained stays as it is."""
    folder = tmp_path / "model"
    shutil.copytree(model.name, folder)
    before = (folder / "model_config.json").read_bytes()
    write_threshold(folder, StoredThreshold(-2.5, 0.7, "t:0123456789ab", "validation", 0))
    stored = load(folder)
    assert stored.config.gate is not None
    assert stored.config.gate.threshold == -2.5
    (said,) = (record.getMessage() for record in caplog.records if record.name == "mrt5_jax.api.loading")
    assert (
        f"{folder}/threshold.json: gate values are compared with -2.5, found at step 0 for a rate of 0.7 on t (val"
        in said
    )
    caplog.clear()
    given = load(folder, threshold=-20.0)
    assert given.config.gate is not None
    assert given.config.gate.threshold == -20.0
    assert not [record for record in caplog.records if record.name == "mrt5_jax.api.loading"]
    (folder / "threshold.json").unlink()
    assert load(folder).config == model.config
    assert (folder / "model_config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "threshold.json is damaged, no JSON"),
        ('{"threshold": -1.0}', r"threshold.json: missing field\(s\) target_rate"),
        (
            '{"threshold": -99.0, "target_rate": 0.5, "task": "t", "split": "validation", "step": 0}',
            r"threshold.json is of another model \(.*should be between scale.*\): remove it",
        ),
    ],
)
def test_a_stored_threshold_that_cannot_be_used_is_named(model: Model, tmp_path: Path, text: str, message: str) -> None:
    shutil.copytree(model.name, tmp_path / "model")
    (tmp_path / "model" / "threshold.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "model")


def test_deletions_differ_and_none_deletes_nothing(model: Model) -> None:
    pairs = [(text, "abc") for text in TEXTS]
    scores = {name: load(model.name, deletion=name).score(pairs) for name in ("hard", "soft", "none")}
    assert scores["hard"] == model.score(pairs)
    assert [one.kept for one in scores["soft"]] == [one.kept for one in scores["hard"]]
    assert all(one.kept == one.length for one in scores["none"])
    values = {name: [one.log_probability for one in found] for name, found in scores.items()}
    assert not np.allclose(values["hard"], values["none"], atol=1e-2)
    assert not np.allclose(values["hard"], values["soft"], atol=1e-3)


@pytest.fixture(scope="module")
def byt5(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("plain") / "byt5"
    return str(make_model_dir(folder, "config.ModelConfig.gate=None", "config.RunConfig.controller=None"))


def test_a_byt5_deletes_nothing(byt5: str) -> None:
    plain = load(byt5)
    assert plain.deletion == "none"
    assert "ByT5" in repr(plain)
    with pytest.raises(UserError, match="has no gate: nothing to inspect"):
        plain.deletions(["a"])
    for wrong in ({"threshold": -1.0}, {"deletion": "hard"}):
        with pytest.raises(UserError, match=r"has no gate, and so|is a ByT5, which has no gate: leave it out"):
            load(byt5, **wrong)


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing there": (
        lambda folder: folder / "nowhere",
        "nowhere/model_config.json is not there, nothing has that name",
    ),
    "a file": (lambda folder: folder / "model_config.json", "is not there, nor is config.json: give a MODEL_DIR"),
    "an empty folder": (lambda folder: make(folder.parent / "empty"), "is not there, nor is config.json: give"),
    "no name": (lambda folder: "", "a model is named by a string, not by ''"),
    "a number": (lambda folder: 3, "a model is named by a string, not by 3"),
    "a scheme": (lambda folder: "https://h/m", "https://h/m: nothing here serves https://"),
    "a newer format": (lambda folder: newer(folder), "unknown field(s) better; written by a newer version? Update"),
    "no checkpoint": (lambda folder: without_checkpoints(folder), "has no checkpoint"),
}


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def newer(folder: Path) -> Path:
    path = folder / "model_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "better": 1}))
    return folder


def without_checkpoints(folder: Path) -> Path:
    shutil.rmtree(folder / "checkpoints")
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_model_is_refused_in_one_line(name: str, model_dir: Path, tmp_path: Path) -> None:
    make_source, message = WRONG[name]
    copy = tmp_path / "copy"
    shutil.copytree(model_dir, copy)
    with pytest.raises(UserError) as refused:
        load(make_source(copy))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_of_the_hub_is_loaded_by_its_id(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    model.export_hf(tmp_path / "published")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with hub_server.serve({"someone/mrt5": tmp_path / "published"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        same(load("someone/mrt5@v1"), model, answers=False)
        with pytest.raises(UserError, match=r"someone/else: on the Hugging Face hub .* there is no such model"):
            load("someone/else")


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="nobody/nothing: on the Hugging Face hub at http") as refused:
        load("nobody/nothing")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"step": 7}, "has no step 7; it has 0"),
        ({"deletion": "random"}, "deletion='random': should be 'hard' or 'soft' or 'none'"),
        ({"deletion": "hrad"}, "deletion='hrad': should be"),
        ({"threshold": 1.0}, "threshold = 1.0: should be between scale=-30.0 and 0"),
        ({"threshold": float("nan")}, "threshold = nan: should be between"),
        ({"threshold": "low"}, "threshold='low': should be a number"),
        ({"capacity": 0.0}, "capacity = 0.0: must be a share"),
        ({"input_length": 0}, "input_length=0: must be a whole number, at least 1"),
        ({"target_length": -3}, "target_length=-3: must be a whole number"),
    ],
)
def test_what_the_model_has_not_is_refused_in_one_line(wanted: dict, message: str, model_dir: Path) -> None:
    with pytest.raises(UserError) as refused:
        load(model_dir, **wanted)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)

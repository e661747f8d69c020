"""The toy that comes with the package writes strings without their vowels, and is used like any other model."""

from pathlib import Path

import jax
import numpy as np
import pytest

import mrt5_jax
from mrt5_jax import toy
from mrt5_jax.api.model import Model
from mrt5_jax.cli.main import main
from mrt5_jax.toy import make


@pytest.fixture(scope="module")
def model() -> Model:
    return mrt5_jax.load("toy")


def test_it_deletes_vowels_and_writes_the_rest(model: Model) -> None:
    assert (model.deletion, model.input_length) == ("hard", 32)
    texts = ["#HelloWorld", "#WhichOfTheseBytesStay"]
    without = ["#HllWrld", "#WhchfThsBytsSty"]
    assert [found.text for found in model.generate(texts)] == without
    assert [found.kept_bytes.decode() for found in model.deletions(texts)] == without
    right, wrong = model.score([(texts[0], without[0]), (texts[0], texts[0])])
    assert right.log_probability > -1 > wrong.log_probability


def test_it_is_inspected_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "--model_dir=toy", "--text=#HelloWorld"]) == 0
    text, marks = capsys.readouterr().out.splitlines()[:2]
    assert text == "#HelloWorld</s>"
    assert [place for place, mark in enumerate(marks) if mark == "x"] == [2, 5, 7]


def test_what_is_here_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of that name is the user's own, also where it is no model."""
    monkeypatch.chdir(tmp_path)
    Path("toy").mkdir()
    with pytest.raises(mrt5_jax.UserError, match=r"toy/model_config\.json is not there, nor is config\.json"):
        mrt5_jax.load("toy")


def test_it_has_one_step(model: Model) -> None:
    assert mrt5_jax.load("toy", step=model.step).step == model.step > 0
    with pytest.raises(mrt5_jax.UserError, match=rf"^toy has no step 7; it has {model.step}$"):
        mrt5_jax.load("toy", step=7)


def test_saved_it_is_a_model_dir_with_the_same_bits(model: Model, tmp_path: Path) -> None:
    """Which the commands take that need one."""
    model.save(tmp_path / "saved")
    saved = mrt5_jax.load(tmp_path / "saved")
    assert saved.config == model.config
    jax.tree.map(np.testing.assert_array_equal, saved.params, model.params)
    assert main(["eval", f"--model_dir={tmp_path / 'saved'}", "--num_examples=8", "--deletion=hard"]) == 0


def test_its_files_hold_its_parameters_exactly(model: Model, tmp_path: Path) -> None:
    """They are read as they would be written again."""
    assert model.run is not None
    toy.write_toy(tmp_path, model.params, model.run, model.config_text)
    assert (tmp_path / toy.PARAMS).read_bytes() == (toy.FOLDER / toy.PARAMS).read_bytes()
    assert make.size_of(toy.FOLDER) <= make.MOST_BYTES
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {path.name for path in toy.FOLDER.iterdir() if path.suffix not in ("", ".py")}


@pytest.mark.slow
def test_it_is_good_enough_on_unseen_strings() -> None:
    accuracy, vowels = make.judge_toy(toy.FOLDER)
    assert vowels.vowels.total > 10_000
    assert accuracy >= make.SEQUENCE_ACCURACY
    assert vowels.vowels.rate >= make.VOWELS_DELETED

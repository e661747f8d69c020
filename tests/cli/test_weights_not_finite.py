"""Weights with NaN or infinities: imported only when asked for, never answered from, never trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mrt5_jax.cli.main import main
from mrt5_jax.errors import UserError
from mrt5_jax.interop.hf import write_hf
from mrt5_jax.interop.names import unstack_layers
from mrt5_jax.runs.checkpoints import save_model
from mrt5_jax.runs.model_dir import read_model_config
from mrt5_jax.training.warm_start import warm_start

from ..inference.models import random_params, small_config
from ..interop import t5x_layouts
from .small_run import contents, make_model_dir

CONFIG = small_config(vocab_size=384)
GATELESS = small_config(vocab_size=384, gate=None)
ROW = 5
"""Of the embedding: the byte 0x02."""
REQUESTS = [
    {"inputs": "plain", "targets": "a"},
    {"inputs": "with \x02 in it", "targets": "b"},
    {"inputs": "plain", "targets": "\x02c"},
]
Change = Callable[[dict[str, Any]], None]


def _in_the_embedding(params: dict[str, Any]) -> None:
    params["token_embedder"]["embedding"][ROW, 3] = np.inf


def _in_the_gate(params: dict[str, Any]) -> None:
    params["encoder"]["gate"]["kernel"][0] = np.nan


def _in_the_head(params: dict[str, Any]) -> None:
    params["decoder"]["logits_dense"]["kernel"][3, ROW] = np.nan


def changed(params: Any, change: Change) -> dict[str, Any]:
    copied = jax.tree.map(lambda leaf: np.array(leaf), params)
    change(copied)
    return copied


def strictly(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, each of which has to be JSON by the standard, which lacks NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def infer(model_dir: Path, tmp_path: Path, *flags: str) -> tuple[int, list[dict[str, Any]]]:
    requests, output = tmp_path / "in.jsonl", tmp_path / f"{model_dir.name}{''.join(flags)}.jsonl"
    requests.write_text("".join(json.dumps(request) + "\n" for request in REQUESTS))
    files = [f"--model_dir={model_dir}", f"--input={requests}", f"--output={output}"]
    sizes = ["--batch_size=4", "--input_length=24", "--max_target_length=4"]
    return main(["infer", *files, *sizes, *flags]), strictly(output)


def test_an_import_is_refused_until_it_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hf").mkdir()
    write_hf(changed(random_params(CONFIG), _in_the_gate), CONFIG, tmp_path / "hf")
    command = ["convert", "hf-import", str(tmp_path / "hf"), str(tmp_path / "model")]
    for flags in ([], ["--repeat_check"]):
        assert main([*command, *flags]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "encoder.block.1.delete_gate.feed_forward.weight (1): give --allow_non_finite" in line
        assert not (tmp_path / "model").exists()
    assert main([*command, "--allow_non_finite", "--repeat_check"]) == 0
    said = capsys.readouterr().out
    assert "kept as they are: values that are not finite in encoder.block.1.delete_gate.feed_forward.weight (1)" in said
    assert "repeat check: every tensor is the same" in said


def test_so_is_one_of_t5x(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoint_1").mkdir()
    flat = unstack_layers(changed(random_params(GATELESS), _in_the_embedding), GATELESS)
    arrays = {f"target.{name.replace('/', '.')}": array for name, array in flat.items()}
    t5x_layouts.legacy(tmp_path / "checkpoint_1", arrays)
    command = ["convert", "t5x-import", str(tmp_path / "checkpoint_1"), str(tmp_path / "model")]
    assert main(command) == 2
    assert "token_embedder/embedding (1): give --allow_non_finite" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    assert main([*command, "--allow_non_finite"]) == 0


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    save_model(folder, random_params(CONFIG), CONFIG)
    return folder


def with_values(change: Change, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    save_model(folder, changed(random_params(CONFIG), change), CONFIG, allow_non_finite=True)
    return folder


def assert_unanswered(answer: dict[str, Any], request: dict[str, Any]) -> None:
    assert "not finite" in answer.pop("error")
    assert {name: value for name, value in answer.items() if value is not None} == request


def test_lines_that_touch_them_have_no_score(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the input or in the target; the other line has its own."""
    _, expected = infer(sound, tmp_path, "--mode=score")
    code, answers = infer(with_values(_in_the_embedding, tmp_path), tmp_path, "--mode=score")
    assert code == 1
    assert f"2 of {len(REQUESTS)} lines have no answer" in capsys.readouterr().err
    assert answers[0].pop("score") == pytest.approx(expected[0].pop("score"), rel=1e-5)
    assert answers[0] == expected[0]
    for answer, request in zip(answers[1:], REQUESTS[1:], strict=True):
        assert_unanswered(answer, request)


@pytest.mark.parametrize("change", [_in_the_gate, _in_the_head])
def test_no_line_has_a_score_where_all_touch_them(
    change: Change, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answers = infer(with_values(change, tmp_path), tmp_path, "--mode=score")
    assert code == 1
    assert f"{len(REQUESTS)} of {len(REQUESTS)} lines have no answer" in capsys.readouterr().err
    for answer, request in zip(answers, REQUESTS, strict=True):
        assert_unanswered(answer, request)


@pytest.mark.parametrize("search", ["greedy", pytest.param("beam", marks=pytest.mark.slow)])
def test_no_prediction_is_made_of_them(search: str, sound: Path, tmp_path: Path) -> None:
    _, expected = infer(sound, tmp_path, f"--search={search}")
    code, answers = infer(with_values(_in_the_embedding, tmp_path), tmp_path, f"--search={search}")
    assert code == 1
    assert answers[0] == expected[0]
    assert (answers[1]["prediction"], answers[1]["prediction_ids"]) == (None, None)
    assert "not finite" in answers[1]["error"]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A MODEL_DIR of a run, whose weights were imported with NaN in the gate."""
    folder = make_model_dir(tmp_path / "run")
    config = read_model_config(folder)
    shutil.rmtree(folder / "checkpoints")
    save_model(folder, changed(random_params(config), _in_the_gate), config, allow_non_finite=True)
    return folder


@pytest.mark.slow
def test_evaluation_inspection_and_training_refuse_them(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run_dir)
    page = tmp_path / "page.html"
    for words, said in (
        (["eval", f"--model_dir={run_dir}"], "numbers are not finite for"),
        (["inspect", f"--model_dir={run_dir}", "--text=#a", f"--html={page}"], "gate values of this text are not"),
        (
            ["train", f"--gin_file={run_dir}/config.gin", f"--gin.MODEL_DIR='{run_dir}'"],
            "weights that are not finite cannot be trained",
        ),
    ):
        capsys.readouterr()
        assert main(words) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mrt5: ")]
        assert said in line
        assert {path: data for path, data in contents(run_dir).items() if path.name != "run.lock"} == before
    assert not page.exists()
    with pytest.raises(UserError, match="weights that are not finite cannot be trained"):
        warm_start(random_params(read_model_config(run_dir)), run_dir)

"""Runs whose MODEL_DIR lies in a bucket: the same numbers and parameters, byte for byte, as in a folder."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.runs.files import files_for, read_bytes
from mrt5_jax.runs.restoring import best_step, restore_params
from mrt5_jax.training.hooks import Every
from mrt5_jax.training.loop import train

from .small_runs import EVERY, make_run, same_bits, trained

pytestmark = pytest.mark.usefixtures("kept_programs")


@pytest.fixture(scope="module")
def in_a_folder(tmp_path_factory: pytest.TempPathFactory, task: str, kept_programs: None) -> Any:
    return trained(make_run(tmp_path_factory.mktemp("run"), task))


@pytest.mark.parametrize("bucket_server", ["gs", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_a_run_in_a_bucket_is_that_of_a_folder(bucket_server: Any, tmp_path: Path, task: str, in_a_folder: Any) -> None:
    model_dir = bucket_server.url(f"{tmp_path.name}/run")
    run = dataclasses.replace(make_run(tmp_path, task), model_dir=model_dir)

    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, hooks=[Every(EVERY + 1, stop)])
    state = train(run)
    files, folder = files_for(model_dir), Path(in_a_folder.model_dir)
    assert read_bytes(f"{model_dir}/metrics.jsonl") == (folder / "metrics.jsonl").read_bytes()
    assert same_bits(state.params, in_a_folder.state.params)
    assert same_bits(restore_params(model_dir).params, restore_params(folder).params)
    assert same_bits(restore_params(model_dir, EVERY).params, restore_params(folder, EVERY).params)
    assert best_step(model_dir) == best_step(folder)
    names = {name.partition("/")[0] for name in files.below(model_dir)}
    assert names == {path.name for path in folder.iterdir()}
    assert any("tfevents" in name for name in files.below(f"{model_dir}/events"))

"""Commands on a MODEL_DIR, requests and answers in a bucket give what they give in folders, byte for byte."""

from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.cli.main import main
from mrt5_jax.interop.model_dirs import complete_or_absent
from mrt5_jax.runs.files import LocalFiles, files_for, read_bytes
from mrt5_jax.runs.restoring import restore_params

from ..training.small_runs import same_bits
from .small_run import SIZES, make_model_dir

REQUESTS = '{"inputs": "#ab", "targets": "b"}\n{"inputs": "#cd", "targets": "d"}\n'


def copied(folder: Path, target: str) -> None:
    """What lies in a MODEL_DIR, as conversions write it into a bucket."""
    with complete_or_absent(target) as filled:
        for name in LocalFiles().below(folder):
            if not name.startswith("run.lock"):
                LocalFiles().write(filled / name, read_bytes(folder / name))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["pretrain_text", "quickstart"])
def test_a_run_with_everything_in_a_bucket_is_that_of_folders(
    bucket_server: Any, tmp_path: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text, gin file, weights to begin with and MODEL_DIR; span corruption and the removal of vowels."""
    warm = make_model_dir(tmp_path / "warm")
    root = bucket_server.url(f"{tmp_path.name}-runs")
    copied(warm, f"{root}/warm")
    imports = "from __gin__ import dynamic_registration\nfrom mrt5_jax import config\n"
    (tmp_path / "own.gin").write_text(f"{imports}include 'runs/{recipe}.gin'\n")
    (tmp_path / "en.txt").write_text("".join(f"line {number} of a text in a bucket\n" for number in range(2000)))
    for name in ("own.gin", "en.txt"):
        files_for(root).write(f"{root}/{name}", (tmp_path / name).read_bytes())
    for place in (str(tmp_path), root):
        flags = [
            f"--gin_file={place}/own.gin",
            f"--gin.MODEL_DIR='{place}/run'",
            f"--gin.config.RunConfig.warm_start='{place}/warm'",
            *([f"--gin.TEXT_FILES='{place}/*.txt'"] if recipe == "pretrain_text" else []),
            *("--gin.INPUT_LENGTH=32", "--gin.TARGET_LENGTH=32", "--gin.BATCH_SIZE=4", "--gin.TRAIN_STEPS=4"),
            *("--gin.config.TrainingConfig.eval_every=2", "--gin.config.TrainingConfig.eval_batches=1"),
            *("--gin.config.CheckpointConfig.every=2", "--gin.config.ExecutionConfig.log_every=1"),
            *("--gin.config.ExecutionConfig.max_rungs=1", "--gin.config.OptimizerConfig.warmup_steps=1"),
            *(f"--gin.config.ModelConfig.{name}={value}" for name, value in SIZES.items()),
        ]
        assert main(["train", *flags]) == 0
    there, here = f"{root}/run", tmp_path / "run"
    assert read_bytes(f"{there}/metrics.jsonl") == (here / "metrics.jsonl").read_bytes()
    for step in (2, 4):
        assert same_bits(restore_params(there, step).params, restore_params(here, step).params)


@pytest.mark.slow
def test_eval_infer_inspect_and_convert_in_a_bucket(
    bucket_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_model_dir(tmp_path / "run")
    root = bucket_server.url(tmp_path.name)
    copied(folder, f"{root}/run")
    files_for(root).write(f"{root}/in.jsonl", REQUESTS.encode())
    (tmp_path / "in.jsonl").write_text(REQUESTS)
    for place in (str(tmp_path), root):
        assert main(["eval", f"--model_dir={place}/run"]) == 0
        for mode in ("score", "predict"):
            here = [f"--input={place}/in.jsonl", f"--output={place}/{mode}.jsonl", f"--mode={mode}"]
            assert main(["infer", f"--model_dir={place}/run", *here]) == 0
        assert main(["inspect", f"--model_dir={place}/run", "--text=#ab", f"--html={place}/page.html"]) == 0
        assert main(["convert", "hf-export", f"{place}/run", f"{place}/exported"]) == 0
        assert main(["convert", "hf-import", f"{place}/exported", f"{place}/imported"]) == 0
    names = [
        *(name for name in LocalFiles().below(tmp_path) if "/eval/" in name and "timing" not in name),
        *("score.jsonl", "predict.jsonl"),
        *(f"exported/{name}" for name in LocalFiles().below(tmp_path / "exported")),
    ]
    assert len(names) >= 6
    for name in names:
        assert read_bytes(f"{root}/{name}") == (tmp_path / name).read_bytes(), name
    assert {name.partition("/")[0] for name in files_for(root).below(f"{root}/imported")} == {
        path.name for path in (tmp_path / "imported").iterdir()
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["eval", "--model_dir=gs://bucket"], "gs://bucket: names no path in a bucket"),
        (["infer", "--model_dir=S3://", "--input=a", "--output=b"], "S3://: names no path in a bucket"),
        (["quickstart", "--output_dir=gs://bucket/a"], "gs://bucket/a: this has to be a local path"),
    ],
)
def test_paths_that_cannot_be_are_refused_in_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in _refusal(flags, capsys)


def test_a_model_dir_that_is_not_there_or_may_not_be_read_is_named(
    bucket_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"{bucket_server.scheme}://no-such-bucket/run"
    assert _refusal(["eval", f"--model_dir={place}"], capsys).startswith(
        f"mrt5: {place}/model_config.json is not there"
    )
    bucket_server.refuse(403)
    try:
        assert "there are no credentials for it" in _refusal(["eval", f"--model_dir={place}"], capsys)
    finally:
        bucket_server.refuse(None)


def test_a_warm_start_from_a_bucket_that_gives_no_right_to_it_is_refused_before_anything_is_written(
    bucket_servers: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The MODEL_DIR lies in a bucket of Google's, the weights to begin with in one that is forbidden."""
    for server in bucket_servers.values():
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
    run, warm = (
        bucket_servers[scheme].url(f"{tmp_path.name}-{what}") for scheme, what in (("gs", "run"), ("s3", "warm"))
    )
    bucket_servers["s3"].refuse(403)
    try:
        flags = ["--gin_file=runs/quickstart.gin", f"--gin.MODEL_DIR='{run}'", "--gin.TRAIN_STEPS=200"]
        said = _refusal(["train", *flags, f"--gin.config.RunConfig.warm_start='{warm}'"], capsys)
    finally:
        bucket_servers["s3"].refuse(None)
    assert warm in said
    assert "there are no credentials for it, or they give no right to it" in said
    assert all(name.startswith("run.lock/") for name in files_for(run).below(run))


def _refusal(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error of a command that ends with exit code 2."""
    assert main(command) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said

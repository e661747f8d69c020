"""A MODEL_DIR knows its model, and no other run writes into it."""

import dataclasses
import fcntl
import json
import os
import subprocess
import sys

import pytest

from mrt5_jax.config import CheckpointConfig, DataConfig, GateConfig, ModelConfig, RunConfig, TrainingConfig
from mrt5_jax.errors import UserError
from mrt5_jax.runs.lock import LOCK, lock_watch, run_lock
from mrt5_jax.runs.model_dir import MODEL_CONFIG, read_model_config, write_atomically, write_model_config
from mrt5_jax.runs.run_files import claim, read_run

MODEL = ModelConfig(
    emb_dim=4,
    num_heads=1,
    head_dim=4,
    mlp_dim=8,
    num_encoder_layers=2,
    num_decoder_layers=1,
    gate=GateConfig(layer=1, threshold=-15.0),
)


@pytest.mark.parametrize("config", [MODEL, dataclasses.replace(MODEL, gate=None)])
def test_config_comes_back(tmp_path, config):
    write_model_config(tmp_path / "new", config)
    assert read_model_config(tmp_path / "new") == config


def test_another_config_is_refused_with_its_differences_and_nothing_is_overwritten(tmp_path):
    write_model_config(tmp_path, MODEL)
    before = (tmp_path / MODEL_CONFIG).read_bytes()
    assert MODEL.gate is not None
    other = dataclasses.replace(MODEL, emb_dim=8, gate=dataclasses.replace(MODEL.gate, layer=2))
    with pytest.raises(UserError, match=r"emb_dim 4 -> 8; gate\.layer 1 -> 2") as error:
        write_model_config(tmp_path, other)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"gate GateConfig\(.*\) -> None"):
        write_model_config(tmp_path, dataclasses.replace(MODEL, gate=None))
    assert (tmp_path / MODEL_CONFIG).read_bytes() == before


def test_a_run_goes_on_where_it_is_evaluated_and_saved_at_other_times(tmp_path):
    """So does one that a recipe of before has begun; of what it computes nothing may change."""
    training = TrainingConfig(num_steps=20, eval_every=5)
    run = RunConfig(str(tmp_path), MODEL, DataConfig("task", ("task",), 8, 8, 4, 4), training)
    claim(run, "")
    rhythm = dataclasses.replace(training, eval_every=6, eval_batches=1)
    now = dataclasses.replace(run, training=rhythm, checkpoints=CheckpointConfig(every=6, keep_period=6))
    claim(now, "")
    saved = read_run(tmp_path)
    assert saved is not None
    assert (saved.training, saved.checkpoints) == (now.training, now.checkpoints)
    other = dataclasses.replace(now, training=dataclasses.replace(rhythm, hard_probability=0.1))
    with pytest.raises(UserError, match=r"\(training\.hard_probability 0\.0 -> 0\.1\)"):
        claim(other, "")


def test_a_model_from_the_time_of_the_kernels_loads(tmp_path):
    """Its attention_rows = 'fused' named them."""
    saved = {**dataclasses.asdict(MODEL), "attention_rows": "fused"}
    (tmp_path / MODEL_CONFIG).write_text(json.dumps(saved))
    assert read_model_config(tmp_path) == MODEL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"emb_dimm": 3}, "unknown field.* emb_dimm"),
        ({"emb_dim": "4"}, "emb_dim is '4', not of type int"),
        ({"softmax1": 1}, "softmax1 is 1, not of type bool"),
        ({"dtype": "float8"}, "dtype is 'float8', not one of 'float32', 'bfloat16', 'float64'"),
        ({"gate": {"kind": "other"}}, "config.GateConfig.kind = 'other': should be"),
        ({"gate": {"layers": 1}}, "gate: unknown field.* layers"),
        ({"gate": 3}, "gate: expected the fields of GateConfig"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, change, message):
    (tmp_path / MODEL_CONFIG).write_text(json.dumps(dataclasses.asdict(MODEL) | change))
    with pytest.raises(UserError, match=message):
        read_model_config(tmp_path)


def test_fields_added_later_take_their_defaults_and_missing_sizes_are_named(tmp_path):
    values = dataclasses.asdict(MODEL)
    del values["softmax1"]
    (tmp_path / MODEL_CONFIG).write_text(json.dumps(values))
    assert read_model_config(tmp_path) == MODEL
    del values["emb_dim"]
    (tmp_path / MODEL_CONFIG).write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"missing field.* emb_dim"):
        read_model_config(tmp_path)


def test_no_model_and_no_json_are_one_line(tmp_path):
    with pytest.raises(UserError, match="is not a MODEL_DIR"):
        read_model_config(tmp_path)
    (tmp_path / MODEL_CONFIG).write_text("{")
    with pytest.raises(UserError, match="is damaged, no JSON"):
        read_model_config(tmp_path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path):
    def second() -> None:
        with run_lock(tmp_path / "new"):
            pass

    with run_lock(tmp_path / "new"):
        with pytest.raises(UserError, match=rf"in use by another run \(process {os.getpid()} on ") as error:
            second()
        assert "\n" not in str(error.value)
    with run_lock(tmp_path / "new"):
        assert (tmp_path / "new" / LOCK).read_text().count("process") == 1


def test_a_killed_run_leaves_the_model_dir_free(tmp_path):
    code = (
        "import fcntl, os, sys, signal; file = open(sys.argv[1], 'a+'); fcntl.flock(file, fcntl.LOCK_EX); "
        "file.write('process 1'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / LOCK)], check=False)
    with run_lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()


def test_a_look_at_a_lock_says_whether_it_is_held(tmp_path):
    """Not where there is no lock, and not where a killed run has left its note."""
    is_held = lock_watch(tmp_path / "new")
    assert not is_held()
    with run_lock(tmp_path / "new"):
        assert is_held()
        assert is_held()
    assert not is_held()
    (tmp_path / "new" / LOCK).write_text("process 1 on a machine that is gone")
    assert not is_held()
    assert (tmp_path / "new" / LOCK).read_text().startswith("process 1")


def test_who_only_looks_keeps_no_run_from_its_lock(tmp_path, monkeypatch):
    with (tmp_path / LOCK).open("w+") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        monkeypatch.setattr("mrt5_jax.runs.lock.time.sleep", lambda seconds: look.close())
        with run_lock(tmp_path):
            assert look.closed

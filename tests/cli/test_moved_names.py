"""Old names of settings work in gin files, flags and saved files, with one line that says the new ones."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax import config
from mrt5_jax.cli import gin_setup
from mrt5_jax.errors import UserError
from mrt5_jax.moved_names import MOVED, say_once
from mrt5_jax.runs.model_dir import read_model_config
from mrt5_jax.runs.run_files import claim, read_run, slots_of

QUICKSTART = ["runs/quickstart.gin"]
VALUES = {
    "remat": ("'full'", "full"),
    "scan_unroll": ("2", 2),
    "attention_rows": ("'one_by_one'", "one_by_one"),
    "rounding": ("4", 4),
    "max_rungs": ("2", 2),
    "rungs": ("(8, 16)", (8, 16)),
    "dispatch": ("'host'", "host"),
    "inference_dispatch": ("'in_graph'", "in_graph"),
    "chunks": ("4", 4),
    "microbatches": ("2", 2),
    "log_every": ("7", 7),
    "mesh": ("@config.MeshConfig()", config.MeshConfig()),
}


@pytest.fixture(autouse=True)
def _everything_is_said_again() -> None:
    say_once.cache_clear()


@pytest.mark.parametrize(("owner", "field"), MOVED)
def test_an_old_name_is_read_in_files_and_flags(owner: str, field: str, tmp_path: Path) -> None:
    new = MOVED[owner, field]
    text, value = VALUES[new]
    binding = f"config.{owner}.{field}"
    (tmp_path / "mine.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom mrt5_jax import config\ninclude 'runs/quickstart.gin'\n"
        f"config.{owner}:\n  {field} = {text}\n"
    )
    for found, place in (
        (gin_setup.resolve([str(tmp_path / "mine.gin")]), "mine.gin: "),
        (gin_setup.resolve(QUICKSTART, bindings=[f"{binding}={text}"]), f"--gin.{binding}={text}: "),
    ):
        assert getattr(found.run.execution, new) == value
        (line,) = [note for note in found.notes if "is now" in note]
        assert place in line
        assert f"{binding} is now config.ExecutionConfig.{new}; old names are read until 0.2.0" in line
        assert gin_setup.resolve(base_text=found.config_text).run == found.run


def test_a_file_from_before_the_move_needs_no_part_of_todays(tmp_path: Path) -> None:
    """One that binds all parts of a run itself, and so does not know of its execution."""
    base = (Path(__file__).parents[2] / "gin_configs/runs/base.gin").read_text()
    old = re.sub(r"  execution = .*\n|config\.ExecutionConfig:\n(?:  .*\n)+", "", base)
    assert "Execution" not in old
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/base.gin").write_text(old.replace("  loss =", "  mesh = @config.MeshConfig()\n  loss ="))
    (tmp_path / "mine.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom mrt5_jax import config\n"
        "include 'models/mrt5_tiny.gin'\ninclude 'runs/base.gin'\nMODEL_DIR = 'm'\nINPUT_LENGTH = 64\n"
        "TARGET_LENGTH = 8\nBATCH_SIZE = 4\nTRAIN_STEPS = 3\nTRAIN_TASK = 'task'\n"
        "config.CompactionConfig.dispatch = 'host'\nconfig.MeshConfig.fsdp = 2\n"
    )
    run = gin_setup.resolve([str(tmp_path / "mine.gin")], [str(tmp_path)]).run
    assert (run.execution.dispatch, run.execution.mesh.fsdp) == ("host", 2)


def test_a_later_name_wins_whichever_it_is() -> None:
    old, new = "config.TrainingConfig.log_every=5", "config.ExecutionConfig.log_every=6"
    assert gin_setup.resolve(QUICKSTART, bindings=[old]).run.execution.log_every == 5
    with pytest.raises(UserError, match=r"log_every.* are one setting: keep the new name"):
        gin_setup.resolve(QUICKSTART, bindings=[old, new])
    saved = gin_setup.resolve(QUICKSTART, bindings=[old]).config_text
    assert gin_setup.resolve(base_text=saved, bindings=[old.replace("5", "9")]).run.execution.log_every == 9


@pytest.mark.parametrize(
    ("bindings", "training", "evaluation"),
    [
        (["CompactionConfig.dispatch='capacity'"], 0.5, None),
        (["CompactionConfig.dispatch='capacity'", "CompactionConfig.capacity=0.25"], 0.25, None),
        (["CompactionConfig.dispatch='host'", "CompactionConfig.capacity=0.25"], None, None),
        (["CompactionConfig.inference_dispatch='capacity'", "CompactionConfig.capacity=0.25"], None, 0.25),
        (["CompactionConfig.capacity=0.25"], 0.25, None),
    ],
)
def test_the_dispatch_capacity_becomes_a_capacity(
    bindings: list[str], training: float | None, evaluation: float | None
) -> None:
    """One beside another dispatch had no effect; one alone is today's setting."""
    run = gin_setup.resolve(QUICKSTART, bindings=[f"config.{binding}" for binding in bindings]).run
    assert (run.compaction.capacity, run.evaluation.capacity) == (training, evaluation)
    assert run.execution.dispatch == ("host" if "'host'" in bindings[0] else "in_graph")


def old_json(run: config.RunConfig, **compaction: Any) -> dict[str, Any]:
    """The run as version 0.1.0 wrote it."""
    values = json.loads(json.dumps(dataclasses.asdict(run)))
    execution = values.pop("execution")
    for (owner, field), new in MOVED.items():
        section = {"ModelConfig": "model", "CompactionConfig": "compaction", "TrainingConfig": "training"}.get(owner)
        (values[section] if section else values)[field] = execution[new]
    del values["evaluation"]["capacity"]
    values["compaction"] |= {"capacity": 0.5} | compaction
    return values


@pytest.fixture
def run(tmp_path: Path) -> config.RunConfig:
    bindings = [f"MODEL_DIR={str(tmp_path / 'model')!r}", "config.ExecutionConfig.dispatch='host'"]
    return gin_setup.resolve(QUICKSTART, bindings=bindings).run


def test_a_saved_run_of_old_is_read_and_written_anew(run: config.RunConfig, capsys: Any) -> None:
    folder = Path(run.model_dir)
    folder.mkdir()
    old = old_json(run)
    (folder / "run_config.json").write_text(json.dumps(old))
    (folder / "model_config.json").write_text(json.dumps(old["model"]))
    saved = read_run(folder)
    assert saved is not None
    assert (saved.execution, saved.compaction, saved.evaluation) == (run.execution, run.compaction, run.evaluation)
    assert read_model_config(folder) == run.model
    assert capsys.readouterr().err.count("\n") == 2
    claim(run, "")
    assert slots_of(run) == {}
    say_once.cache_clear()
    assert read_run(folder) is not None
    assert read_model_config(folder) == run.model
    assert capsys.readouterr().err == ""


def test_a_saved_run_with_both_names_of_a_setting_is_refused(run: config.RunConfig) -> None:
    folder = Path(run.model_dir)
    folder.mkdir()
    values = old_json(run) | {"execution": {"dispatch": "host"}}
    (folder / "run_config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"run_config.json: execution.dispatch is there under its old name too"):
        read_run(folder)


def test_a_saved_capacity_of_old_keeps_its_slots(run: config.RunConfig) -> None:
    """Also where today's rounding or platform would give others."""
    folder = Path(run.model_dir)
    folder.mkdir()
    values = old_json(run, dispatch="capacity", rounding=5, capacity=0.25)
    (folder / "run_config.json").write_text(json.dumps(values))
    saved = read_run(folder)
    assert saved is not None
    assert (saved.compaction.capacity, saved.execution.dispatch) == (0.25, "in_graph")
    resumed = dataclasses.replace(run, compaction=dataclasses.replace(run.compaction, capacity=0.25))
    assert slots_of(resumed, "tpu") == {32: 10}
    claim(resumed, "")
    assert slots_of(resumed, "tpu") == {32: 10}, "the rounding that led to them is not saved any more"


GOLDEN = ("vowels", "packed_soft", "saturated_host", "hard")


@pytest.mark.parametrize("name", GOLDEN)
def test_the_saved_runs_of_version_0_1_load_and_may_be_resumed(name: str, shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(shared / "golden/model_dirs" / name, folder, ignore=shutil.ignore_patterns("checkpoints"))
    resolved = gin_setup.resolve([str(folder / "config.gin")], bindings=[f"MODEL_DIR={str(folder)!r}"])
    resolved.check()
    assert sum("is now" in note for note in resolved.notes) == 1
    before = json.loads((folder / "run_config.json").read_text())
    claim(resolved.run, resolved.config_text)
    after = json.loads((folder / "run_config.json").read_text())
    assert after["execution"]["dispatch"] == before["compaction"]["dispatch"]
    assert after["execution"]["chunks"] == before["compaction"]["suffix_chunks"]
    assert after["compaction"]["capacity"] is None

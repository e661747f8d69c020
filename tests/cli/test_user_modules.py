"""Modules with tasks of a user's, found in the working directory; what is wrong with one is a line with its place."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrt5_jax.cli import gin_setup
from mrt5_jax.cli.main import main
from mrt5_jax.evaluation.records import read_records
from mrt5_jax.selection.selectors import SELECTORS

from .small_run import make_model_dir

SPEC = """
from mrt5_jax.data.registry import add_task
from mrt5_jax.data.sources import IndexedSource, one_by_one
from mrt5_jax.data.task_specs import TaskSpec

def example(split, index):
    return {"inputs": f"{split} {index}", "targets": str(index), "language": "de"}

sizes = {"train": 9, "validation": 5, "test": 3}
add_task(TaskSpec("test.own.module", IndexedSource(one_by_one(example), sizes), languages=("de", "sw")))
"""

RUN = """
from __gin__ import dynamic_registration
from mrt5_jax import config
include 'models/byt5_tiny.gin'
include 'runs/base.gin'
TRAIN_TASK = 'test.own.module'
INPUT_LENGTH = 24
TARGET_LENGTH = 24
DROPOUT_RATE = 0.0
"""


SELECTOR = """
from mrt5_jax.selection.spacelike import SPACELIKE
from mrt5_jax.selection.selectors import SELECTORS

SELECTORS["own_selector"] = SPACELIKE
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, where a module may lie."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("own_module", None)
    SELECTORS.pop("own_selector", None)


def test_a_task_of_a_module_is_evaluated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of its languages has no example, which is said."""
    (here / "own_module.py").write_text(SPEC)
    model_dir = make_model_dir(here / "model")
    argv = ["eval", f"--model_dir={model_dir}", "--module=own_module", "--task=test.own.module", "--deletion", "hard"]
    assert main(argv) == 0
    records = read_records(model_dir / "eval" / "test.own.module-test-step0" / "records.jsonl")
    assert {record.task for record in records} == {"test.own.module"}
    assert sorted(record.index for record in records) == [0, 1, 2]
    assert "mrt5: task test.own.module: its test split has no example of sw" in capsys.readouterr().err


def test_a_model_with_a_selector_of_a_module_is_used(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the module there is one line, which says what is missing."""
    (here / "own_module.py").write_text(SELECTOR)
    model_dir = make_model_dir(here / "model", "config.GateConfig.kind = 'spacelike'")
    saved = model_dir / "model_config.json"
    saved.write_text(saved.read_text().replace("spacelike", "own_selector"))
    inspect = ["inspect", f"--model_dir={model_dir}", "--text=#Hello"]
    assert main(inspect) == 2
    assert "or one of yours, whose module is imported first (--module)" in capsys.readouterr().err
    assert main([*inspect, "--module=own_module"]) == 0
    assert capsys.readouterr().out.startswith("#Hello")


def test_a_task_of_a_module_is_shown_without_a_configuration(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "own_module.py").write_text(SPEC)
    assert main(["data", "show", "test.own.module", "--module=own_module", "--num_examples=1"]) == 0
    assert "inputs (8 ids): train " in capsys.readouterr().out


def test_the_saved_configuration_imports_the_module(here: Path) -> None:
    """So a run that was trained with it is evaluated without the flag."""
    (here / "own_module.py").write_text(SPEC)
    (here / "run.gin").write_text(RUN)
    bindings = ["MODEL_DIR='run'", "TRAIN_STEPS=2", "BATCH_SIZE=4"]
    found = gin_setup.resolve(["run.gin"], bindings=bindings, modules=["own_module"])
    assert "import own_module\n" in found.config_text
    del sys.modules["own_module"]
    assert gin_setup.resolve(base_text=found.config_text).run == found.run
    assert "own_module" in sys.modules


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("own_module", None, "--module=own_module: there is no such module, neither in {here} nor on PYTHONPATH"),
        ("own_module.part", "", "--module=own_module.part: there is no such module, neither in {here}"),
        ("own_module.py", "", "--module=own_module.py: give the name by which Python imports it"),
        ("own_module", "import nowhere_at_all", "it imports nowhere_at_all, which is not installed here ({here}/own_m"),
        ("own_module", "x = 1\n1 / 0", "it raised ZeroDivisionError (division by zero) at {here}/own_module.py:2"),
        ("own_module", "raise KeyError", "it raised KeyError (nothing said) at {here}/own_module.py:1"),
        ("own_module", "def :", "it raised SyntaxError (invalid syntax"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(
    name: str, text: str | None, message: str, here: Path, refused
) -> None:
    if text is not None:
        (here / "own_module.py").write_text(text)
    said = refused("train", "--gin_file=runs/quickstart.gin", f"--gin.MODEL_DIR='{here / 'model'}'", f"--module={name}")
    assert message.format(here=here) in said


def test_what_a_gin_file_imports_may_raise_anything(here: Path, refused) -> None:
    (here / "own_module.py").write_text("raise KeyError('colour')")
    (here / "run.gin").write_text(
        "from __gin__ import dynamic_registration\nimport own_module\ninclude 'runs/quickstart.gin'\n"
    )
    said = refused("train", "--gin_file=run.gin", f"--gin.MODEL_DIR='{here / 'model'}'")
    assert "run.gin:2: raised KeyError ('colour')" in said

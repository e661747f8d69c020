"""What the tests of the command line share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mrt5_jax.cli.main import main
from mrt5_jax.runs.checkpoints import save_model

from ..inference.models import random_params
from .infer_lines import CONFIG, SIZES, TEXTS, write_lines

Refuse = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Runs a command that has to fail as a user's mistake, and returns the one line that it says.

    MODEL_DIR is `tmp_path/model` and holds something already, which has to be there afterwards, alone.
    """
    model_dir = tmp_path / "model"
    model_dir.mkdir()
    (model_dir / "config.gin").write_text("# somebody's work\n")

    def run(*argv: str) -> str:
        assert main(argv) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("mrt5: ")
        assert captured.err.count("\n") == 1, captured.err
        assert [path.name for path in model_dir.rglob("*")] == ["config.gin"]
        assert (model_dir / "config.gin").read_text() == "# somebody's work\n"
        return captured.err.removeprefix("mrt5: ").rstrip("\n")

    return run


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random MrT5, as convert would leave it."""
    path = tmp_path_factory.mktemp("model")
    save_model(path, random_params(CONFIG), CONFIG)
    return path


@pytest.fixture
def command(model_dir: Path, tmp_path: Path) -> list[str]:
    """`mrt5 infer` on ten lines; soft deletion has one rung, so little is compiled."""
    lines = [{"inputs": text, "targets": text[:3], "id": number} for number, text in enumerate(TEXTS)]
    requests = write_lines(tmp_path / "in.jsonl", lines)
    files = [f"--model_dir={model_dir}", f"--input={requests}", f"--output={tmp_path / 'out.jsonl'}"]
    return ["infer", *files, *SIZES, "--deletion=soft"]

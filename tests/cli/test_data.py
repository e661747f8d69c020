"""`mrt5 data` on text files: examples to look at, counts, unpacking, the character tasks, and mistakes in one line."""

import gzip
from pathlib import Path

import pytest

from mrt5_jax.cli import data
from mrt5_jax.cli.main import COMMANDS, Command, main
from mrt5_jax.data.span_corruption import Corruption

RUN = """
from __gin__ import dynamic_registration
from mrt5_jax import config
from mrt5_jax.tasks import span_corruption
include 'models/mrt5_tiny.gin'
include 'runs/text.gin'
MODEL_DIR = 'unused'
TEXT_FILES = '{files}'
INPUT_LENGTH = 128
TARGET_LENGTH = 32
BATCH_SIZE = 4
TRAIN_STEPS = 1
"""


@pytest.fixture(autouse=True)
def _command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MRT5_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setitem(COMMANDS, "data", COMMANDS.get("data", Command(data.__doc__ or "", "")))


@pytest.fixture
def gin_file(tmp_path: Path) -> str:
    text = tmp_path / "en.txt"
    text.write_bytes(b"".join(f"line {number} of [brackets]\n".encode() for number in range(200)) + b"\xff broken\n")
    (tmp_path / "run.gin").write_text(RUN.format(files=text))
    return f"--gin_file={tmp_path}/run.gin"


def test_show_prints_examples_with_sentinels_marked(gin_file: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["data", "show", gin_file, "--num_examples=2"]) == 0
    out = capsys.readouterr().out
    assert out.count("inputs (128 ids): ") == out.count("targets (") == 2
    assert out.count("<extra_id_0>") == 4
    assert "of [brackets]</s>" in out
    assert "en" in out.splitlines()[0]


def test_count_prints_lengths_and_speed(gin_file: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["data", "count", gin_file, "--num_examples=7"]) == 0
    out = capsys.readouterr().out
    assert "7 examples" in out
    assert "128.0" in out


def test_list_finds_tasks_and_mixtures(capsys: pytest.CaptureFixture) -> None:
    assert main(["data", "list", "xquad"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("xquad.ar" in line and "task" in line for line in lines)
    assert any(line.split()[1:4:2] == ["xquad", "mixture"] for line in lines if "xquad " in line)


def test_warm_unpacks_and_counts_what_a_run_will_read(
    gin_file: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "fr.txt.gz").write_bytes(gzip.compress(b"une ligne\n" * 500))
    files = f"--gin.TEXT_FILES='{tmp_path}/fr.txt.gz'"
    assert main(["data", "warm", gin_file, files, "--gin.config.DataConfig.eval_tasks=('diagnostics.copy',)"]) == 0
    lines = [line.split()[1::2] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    train = sum(int(row[2].replace(",", "")) for row in lines if row[0] == "span_corruption.fr")
    assert train == -(-500 * len("une ligne\n") // Corruption().lengths_for_inputs(128).raw)
    assert {row[1] for row in lines if row[0] == "diagnostics.copy"} == {"train", "validation", "test"}
    assert list((tmp_path / "cache").rglob("text"))


def test_unpack_fills_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "en.txt.gz").write_bytes(gzip.compress(b"one\ntwo"))
    assert main(["data", "unpack", f"{tmp_path}/*.gz"]) == 0
    assert capsys.readouterr().out.startswith("1 files, 8 ids")
    assert list((tmp_path / "cache").rglob("text"))


def test_make_writes_the_splits_of_a_character_task(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "words").write_text("\n".join(f"{a}{b}{c}" for a in "bcdfg" for b in "aeiou" for c in "lmnrst"))
    assert main(["data", "make", "word_search", f"--source={tmp_path}/words", f"--out={tmp_path}/out"]) == 0
    assert "train.tsv" in capsys.readouterr().out
    rows = (tmp_path / "out" / "test.tsv").read_text().splitlines()
    assert all(len(row.split("\t")) == 2 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "xqad.en"], "no task or mixture is called 'xqad.en': did you mean xquad.en"),
        (["show"], "which task? Name one"),
        (["warm", "squad"], "squad/v1.1/3.0.0 is not prepared in"),
        (["count", "xquad.en", "--num_examples=0"], "--num_examples=0: should be at least 1"),
        (["count", "tydiqa.fi"], "task 'tydiqa.fi' has no train split, only validation"),
        (["show", "squad"], "squad/v1.1/3.0.0 is not prepared in"),
        (["list", "nonsense"], "no task or mixture has 'nonsense' in its name"),
        (["unpack", "nowhere/*.gz"], "no file matches 'nowhere/*.gz'"),
        (["make", "spelling", "--source=nowhere.txt", "--out=x"], "--source=nowhere.txt: No such file"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert main(["data", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1

"""Data that cannot be used are refused by `mrt5 train` in one line with the place, before MODEL_DIR is touched."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Refuse


def json_lines(*values: dict[str, str]) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


LONG_LINES = json_lines(*({"text": f"some text, number {number}"} for number in range(5000)))
TSV = "--gin.TASK_NAME='t' --gin.TRAIN_FILES='{path}' --gin.VALIDATION_FILES='{path}'"


@pytest.fixture
def refused_run(refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs `mrt5 train` on a file with some content; {path} in a flag is the file's."""
    monkeypatch.setenv("MRT5_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))

    def run(gin_file: str, name: str, content: bytes, *flags: str) -> str:
        (tmp_path / name).write_bytes(content)
        flags = tuple(flag.format(path=tmp_path / name) for flag in flags)
        return refused("train", f"--gin_file=runs/{gin_file}.gin", f"--gin.MODEL_DIR='{tmp_path}/model'", *flags)

    return run


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("en.jsonl.gz", gzip.compress(LONG_LINES)[:-200], ", after line "),
        ("en.zip", b"PK\x03\x04" + bytes(99), "a zip archive: unpack it"),
        (
            "en.txt",
            b"few words\nof text\n",
            "en.txt: too little text to hold a part out for validation ",
        ),
        (
            "en.jsonl",
            json_lines({"text": "a"}, {"body": "b"}),
            ", line 2: no text in field 'text'; the fields are body",
        ),
        ("en.txt", b"", " are empty"),
        ("en.txt", b"\n\n", " have only empty lines"),
    ],
)
def test_text_files(refused_run: Callable[..., str], name: str, content: bytes, message: str) -> None:
    said = refused_run("pretrain_text", name, content, "--gin.TEXT_FILES='{path}'")
    assert name in said
    assert message in said


@pytest.mark.parametrize(
    ("content", "message"), [(b"a\tb\nc\n", ", line 2: 1 column, not input<TAB>target"), (b"", " are empty")]
)
def test_tables(refused_run: Callable[..., str], content: bytes, message: str) -> None:
    said = refused_run("finetune_tsv", "rows.tsv", content, *TSV.split())
    assert "rows.tsv" in said
    assert message in said


FILES = "--gin.TEXT_FILES='{path}'"
MIXTURE = ("files='{path}'", "languages=()")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gin.TRAIN_TASK='xnlii'"], "no task or mixture is called 'xnlii': did you mean xnli"),
        ([FILES, "--gin.config.DataConfig.eval_tasks=('xnli.em',)"], "'xnli.em': did you mean xnli.e"),
        ([FILES, "--gin.config.DataConfig.eval_tasks=('tydiqa.train',)"], "no validation split, only train"),
        (["--gin.TRAIN_TASK='squad'"], ": tfds build squad/v1.1:3.0.0"),
        ([FILES, "--gin.INPUT_LENGTH=2048"], "takes 18 sentinels, but only 11 can be told from text: use an input_"),
        (
            [
                "--gin.TRAIN_TASK=@span_corruption.text_mixture()",
                *(f"--gin.span_corruption.text_mixture.{binding}" for binding in MIXTURE),
            ],
            "has no tasks: name at least one",
        ),
        ([FILES, "--gin.LENGTH_BUCKETS=(64, 96)"], "(64, 96): should be positive and end with input_length 128"),
        (
            [FILES, "--gin.LENGTH_BUCKETS=(64, 128)", "--gin.config.DataConfig.rows='packed'"],
            "packed rows have one length",
        ),
    ],
)
def test_tasks(refused_run: Callable[..., str], flags: list[str], message: str) -> None:
    text = b"".join(f"line {number}\n".encode() for number in range(1000))
    said = refused_run("pretrain_text", "en.txt", text, *flags)
    assert message in said

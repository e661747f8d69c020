"""Files as people have them: the command line reads them as they are meant, or says in one line what is wrong."""

import gzip
import io
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mrt5_jax.cli import gin_setup
from mrt5_jax.cli.main import main
from mrt5_jax.data.batches import train_batches
from mrt5_jax.data.character_data import split_of
from mrt5_jax.data.corpora import open_corpus
from mrt5_jax.data.span_corruption import Corruption
from mrt5_jax.data.task_names import key_of
from mrt5_jax.runs.run_files import RUN_CONFIG, claim, under_saved_names

from .conftest import Refuse

TINY = (
    "--gin_file=runs/pretrain_text.gin",
    *(f"--gin.config.ModelConfig.{name}=16" for name in ("emb_dim", "mlp_dim", "head_dim")),
    *(f"--gin.config.ModelConfig.{name}=2" for name in ("num_heads", "num_encoder_layers", "num_decoder_layers")),
    "--gin.config.GateConfig.layer=1",
    "--gin.config.ExecutionConfig.scan_unroll=1",
    "--gin.config.ExecutionConfig.max_rungs=1",
    "--gin.config.TrainingConfig.eval_batches=1",
    "--gin.config.TrainingConfig.hard_probability=0.0",
    "--gin.config.EvaluationConfig.deletions=('soft',)",
    "--gin.config.OptimizerConfig.warmup_steps=0",
    "--gin.INPUT_LENGTH=32",
    "--gin.BATCH_SIZE=2",
    "--gin.TRAIN_STEPS=1",
)
SENTENCES = [f"line {number} of some text that is long enough" for number in range(60)]
RUN = "include 'runs/pretrain_text.gin'\nMODEL_DIR = 'unused'\nTEXT_FILES = '{}'\nINPUT_LENGTH = 32\n"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `mrt5 data count` says of the training data of files."""

    def run(files: str, *flags: str) -> str:
        capsys.readouterr()
        (tmp_path / "run.gin").write_text(RUN.format(files))
        assert main(["data", "count", f"--gin_file={tmp_path}/run.gin", "--num_examples=3", *flags]) == 0
        return capsys.readouterr().out

    return run


def train(folder: Path, *flags: str) -> int:
    files = f"--gin.TEXT_FILES='{folder}/corpus/*'"
    return main(["train", *TINY, f"--gin.MODEL_DIR='{folder.parent}/run'", files, *flags])


def begin_run(folder: Path) -> None:
    """What `train` does before it compiles anything."""
    flags = [*TINY[1:], f"--gin.MODEL_DIR='{folder.parent}/run'", f"--gin.TEXT_FILES='{folder}/corpus/*'"]
    configured = gin_setup.resolve(["runs/pretrain_text.gin"], bindings=[flag.removeprefix("--gin.") for flag in flags])
    claim(configured.run, configured.config_text, train_batches(configured.run.data, seed=0).files)


def write_corpus(folder: Path) -> Path:
    (folder / "corpus").mkdir(parents=True)
    for language, word in {"de": "Wörter", "en": "words"}.items():
        text = "\n".join(f"{sentence} {word}" for sentence in SENTENCES)
        (folder / "corpus" / f"{language}.txt").write_text(text, encoding="utf-8")
    return folder


def test_a_run_goes_on_with_the_same_content_and_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_corpus(tmp_path / "first")
    begin_run(first)
    english = first / "corpus" / "en.txt"
    before, times = english.read_text(), english.stat()
    english.write_text(before.replace("words", "sword"))
    os.utime(english, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert train(first) == 2
    assert f"mrt5: {english}: its content is not what the run was begun with" in capsys.readouterr().err
    english.write_text(before)
    (first / "corpus" / "fr.txt").write_text(before.replace("line", "mots"))
    assert train(first) == 2
    assert "fr.txt: not among the files that the run was begun with" in capsys.readouterr().err
    (first / "corpus" / "fr.txt").unlink()
    english.rename(tmp_path / "en.txt")
    assert train(first) == 2
    assert f"{english}: among the files that the run was begun with, and not" in capsys.readouterr().err
    (tmp_path / "en.txt").rename(english)
    first.rename(tmp_path / "moved")
    begin_run(tmp_path / "moved")


@pytest.mark.slow
def test_a_run_says_what_it_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(write_corpus(tmp_path / "corpus")) == 0
    said = capsys.readouterr().err
    assert "train data: 2 languages, 2 files, 120 documents" in said
    assert "de: de.txt of plain text, 60 documents" in said
    assert "validation data: the last part of each language, held out" in said
    (tmp_path / "corpus").rename(tmp_path / "moved")
    assert train(tmp_path / "moved") == 0


def test_a_run_that_knew_its_files_by_path_and_size_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MODEL_DIRs of earlier versions have such names in their configuration and in their checkpoints."""
    corpus = write_corpus(tmp_path / "corpus")
    bindings = [f"MODEL_DIR='{tmp_path}/run'", f"TEXT_FILES='{corpus}/corpus/*'"]
    configured = gin_setup.resolve([TINY[0].partition("=")[2]], bindings=[*(flag[6:] for flag in TINY[1:]), *bindings])
    lengths = Corruption().lengths_for_inputs(32)
    splits = open_corpus(f"{corpus}/corpus/*", None, chunk_length=lengths.raw)
    regions = {
        split: [
            (region.language, ((str(file.path.resolve()), file.path.stat().st_size),), region.begin, region.end)
            for region in regions
            for file in region.stream.files
        ]
        for split, regions in splits.items()
    }
    former = f"span_corruption.files_{key_of((regions, Corruption(), lengths))}"
    (tmp_path / "run").mkdir()
    saved = {"data": {"train_task": former, "eval_tasks": [former]}}
    (tmp_path / "run" / RUN_CONFIG).write_text(json.dumps(saved))
    named = under_saved_names(configured.run)
    assert (named.data.train_task, named.data.eval_tasks) == (former, (former,))
    assert configured.run.data.train_task.startswith("span_corruption.de_en:")
    (tmp_path / "run" / RUN_CONFIG).write_text("{}")
    assert under_saved_names(configured.run) == configured.run


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gin.MODEL_DIR='az://bucket/run'"], "az://bucket/run: nothing here serves az://"),
        (["--gin.TEXT_FILES='hdfs://b/*.txt'"], "hdfs://b/*.txt: nothing here serves hdfs://"),
        (["--gin.TEXT_FILES='file:///data/en.txt'"], "without a scheme: /data/en.txt"),
        (["--gin.config.RunConfig.warm_start='hdfs://h/run'"], "hdfs://h/run: nothing here serves hdfs://"),
        (["--gin_file=https://h/run.gin"], "https://h/run.gin: nothing here serves https://"),
        (["--gin.TEXT_FILES='{folder}'"], "a folder: name the files in it"),
        (["--gin.TEXT_FILES=('{folder}/en.txt', '{folder}/pipe')"], "pipe: a pipe or a device, which can be read only"),
        (["--gin.VALIDATION_FILES='{folder}/e*.txt'"], "en.txt: in the train and in the validation files"),
        (["--gin.VALIDATION_FILES='{folder}/copy.txt'"], "copy.txt (which equals "),
    ],
)
def test_paths_that_cannot_be_are_refused_before_anything_runs(
    flags: list[str], message: str, refused: Refuse, tmp_path: Path
) -> None:
    (tmp_path / "en.txt").write_text("\n".join(SENTENCES))
    (tmp_path / "copy.txt").write_text("\n".join(SENTENCES))
    os.mkfifo(tmp_path / "pipe")
    text = f"--gin.TEXT_FILES='{tmp_path}/en.txt'"
    flags = [flag.format(folder=tmp_path) for flag in flags]
    assert message in refused("train", *TINY, f"--gin.MODEL_DIR='{tmp_path}/model'", text, *flags)
    assert not Path("gs:").exists()


def test_model_dir_may_lie_at_home_and_must_be_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    write_corpus(tmp_path / "first")
    for model_dir in ("~/file", "~/file/run"):
        assert train(tmp_path / "first", f"--gin.MODEL_DIR='{model_dir}'") == 2
        said = capsys.readouterr().err
        assert f"mrt5: MODEL_DIR '{tmp_path}/file" in said
        assert "cannot be written" in said
    assert not (tmp_path / "~").exists()


def test_shards_are_one_language(tmp_path: Path, count: Callable[..., str]) -> None:
    for number in range(2):
        lines = "".join(json.dumps({"text": f"{number} {sentence}"}) + "\n" for sentence in SENTENCES)
        (tmp_path / f"train-0000{number}-of-00002.json.gz").write_bytes(gzip.compress(lines.encode()))
    said = count(f"{tmp_path}/*.json.gz")
    assert "train data: 1 language, 2 files, 120 documents" in said
    assert "train: 2 files of JSON lines in gzip, 120 documents" in said


def test_a_toy_corpus_is_named_by_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "en.txt").write_text("a few words\n")
    (tmp_path / "run.gin").write_text(RUN.format(f"{tmp_path}/en.txt"))
    assert main(["data", "count", f"--gin_file={tmp_path}/run.gin", "--split=validation"]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/en.txt: too little text to hold a part out for validation (1 document, 12 bytes)" in said


def test_over_long_rows_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["short\tx", "a much longer input than fits\ty", "short\ta much longer target too", "12345678\t1234567"]
    (tmp_path / "rows.tsv").write_text("\n".join(rows))
    (tmp_path / "other.tsv").write_text("a\tb\n")
    names = {"NAME": "rows", "TRAIN": "rows", "VALIDATION": "other"}
    flags = [f"--gin.{key}_FILES='{tmp_path}/{name}.tsv'" for key, name in names.items() if key != "NAME"]
    lengths = ("--gin.INPUT_LENGTH=9", "--gin.TARGET_LENGTH=8", "--gin.LENGTH_BUCKETS=()")
    command = ["data", "count", "--gin_file=runs/finetune_tsv.gin", "--gin.MODEL_DIR='x'", "--gin.TASK_NAME='rows'"]
    assert main([*command, *flags, *lengths]) == 0
    said = capsys.readouterr().out
    assert "train data: 1 file, 4 documents" in said
    cut = {line.split()[1]: line.split()[-2] for line in said.splitlines() if "│" in line and "puts" in line}
    cut |= {line.split()[1]: line.split()[-2] for line in said.splitlines() if "│ targets" in line}
    assert cut == {"inputs": "1", "targets": "1"}


def test_results_are_printed_whatever_the_terminal_can_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "en.txt").write_text("Füße, 日本語, हिन्दी\n" * 60, encoding="utf-8")
    (tmp_path / "run.gin").write_text(RUN.format(f"{tmp_path}/en.txt"))
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii", write_through=True))
    assert main(["data", "show", f"--gin_file={tmp_path}/run.gin", "--num_examples=20"]) == 0
    assert b"F\\xfc" in out.getvalue()


def test_gin_files_of_other_systems_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "en.txt").write_text("\n".join(SENTENCES))
    text = RUN.format(f"{tmp_path}/en.txt")
    for content in (b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), text.replace("\n", "\r").encode()):
        (tmp_path / "run.gin").write_bytes(content)
        assert main(["data", "count", f"--gin_file={tmp_path}/run.gin", "--num_examples=1"]) == 0
    pipe = through_a_pipe(tmp_path / "pipe", text.encode())
    assert main(["data", "count", f"--gin_file={tmp_path}/pipe", "--num_examples=1"]) == 0
    pipe.join()
    for content, message in {
        text.encode("utf-16"): "run.gin: is UTF-16 text: write it as UTF-8",
        text.encode() + b"# \xff\n": "run.gin, line 5: not UTF-8",
        gzip.compress(bytes(range(256)) * 9): "run.gin: holds binary data, not text",
    }.items():
        (tmp_path / "run.gin").write_bytes(content)
        capsys.readouterr()
        assert main(["data", "count", f"--gin_file={tmp_path}/run.gin"]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def through_a_pipe(path: Path, content: bytes) -> threading.Thread:
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_bytes, args=(content,))
    thread.start()
    return thread


def test_what_is_no_word_list_is_said_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "words.txt", tmp_path / "out"
    command = ["data", "make", "word_search", f"--source={source}", f"--out={out}"]
    for content, message in (
        (b"", "words.txt: too little to make a train split of"),
        (b"caf\xe9\nna\xefve\n" * 9, "(18 lines, 18 lines that are not UTF-8"),
        (b'{"text": "a word"}\n', "words.txt: holds JSON lines, not a word a line: write them as plain text"),
    ):
        source.write_bytes(content)
        assert main(command) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
        assert not out.exists()
    source.write_bytes("\n".join(WORDS).encode() + b"\ncaf\xe9\n")
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"of {len(WORDS) + 1} words" in said
    assert "left out: 1 lines that are not UTF-8" in said


def test_a_short_word_list_gives_the_rows_that_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Even where none of them falls to one of the splits."""
    words = [word for word in WORDS if split_of(word) != "test"][:30]
    (tmp_path / "words.txt").write_text("\n".join(words), encoding="utf-8")
    assert main(["data", "make", "word_search", f"--source={tmp_path}/words.txt", f"--out={tmp_path}/out"]) == 0
    assert "test.tsv: not written" in capsys.readouterr().out
    rows = [row for path in (tmp_path / "out").iterdir() for row in path.read_text("utf-8").splitlines()]
    assert sorted(row.split("\t")[1] for row in rows) == sorted(words)


def test_misspellings_are_made_of_whatever_is_trained_on(tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_text("\n".join(SENTENCES))
    (tmp_path / "en.jsonl").write_text("".join(json.dumps({"text": sentence}) + "\n" for sentence in SENTENCES))
    for name in ("en.txt", "en.jsonl"):
        assert main(["data", "make", "spelling", f"--source={tmp_path / name}", f"--out={tmp_path / name}.out"]) == 0
    for split in ("train", "validation", "test"):
        text, lines = (tmp_path / f"{name}.out" / f"{split}.tsv" for name in ("en.txt", "en.jsonl"))
        assert text.read_bytes() == lines.read_bytes()


WORDS = [f"слов{a}{b}" for a in "абвгдежзик" for b in "лмнопрст"]


@pytest.mark.parametrize("kind", ["marked", "compressed", "piped"])
def test_a_word_list_loses_no_word(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "".join(f"{word}\r\n" for word in [*WORDS, "да", "12345", "чрезвычайнодлинноеслово"])
    content, source = b"\xef\xbb\xbf" + text.encode(), tmp_path / "words.txt"
    pipe = through_a_pipe(source, content) if kind == "piped" else None
    if pipe is None:
        source.write_bytes(gzip.compress(content) if kind == "compressed" else content)
    assert main(["data", "make", "word_search", f"--source={source}", f"--out={tmp_path}/out"]) == 0
    if pipe is not None:
        pipe.join()
    rows = [row for path in (tmp_path / "out").glob("*.tsv") for row in path.read_text("utf-8").splitlines()]
    assert sorted(row.split("\t")[1] for row in rows) == sorted(WORDS)
    said = capsys.readouterr().out
    for line in ("1 words of fewer than 3", "1 words with other characters than letters", "1 words of more than 15"):
        assert f"left out: {line}" in said
    assert f"of {len(WORDS) + 3} words; the longest input takes INPUT_LENGTH=1" in said
    assert "TARGET_LENGTH=13" in said

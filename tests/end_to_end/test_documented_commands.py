"""Every `mrt5` command that the documents show works as it stands, on small models and few steps."""

import contextlib
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from mrt5_jax.cli.main import main

from ..cli.small_run import make_model_dir

DOCUMENTS = (
    "README.md",
    *(f"docs/{name}.md" for name in ("INFERENCE", "PARITY", "TRAINING", "DATA", "hub", "tasks")),
    *(f"docs/{name}.md" for name in ("index", "train_on_text", "deletions")),
)
OF_OTHER_MODELS = tuple(
    f"docs/{name}.md" for name in ("EVALUATION", "REPORT", "finetune", "hugging_face", "t5x", "results/evaluation")
)
"""Documents whose commands take models that are not made here: only their flags are looked at."""

SMALLER = {
    "train": [
        "--gin.INPUT_LENGTH=64",
        "--gin.TARGET_LENGTH=32",
        "--gin.BATCH_SIZE=2",
        "--gin.TRAIN_STEPS=2",
        "--gin.config.OptimizerConfig.warmup_steps=0",
        "--gin.config.ModelConfig.emb_dim=8",
        "--gin.config.ModelConfig.mlp_dim=8",
        "--gin.config.ModelConfig.head_dim=4",
        "--gin.config.ExecutionConfig.scan_unroll=1",
        "--gin.config.ExecutionConfig.max_rungs=1",
        "--gin.config.TrainingConfig.eval_batches=1",
    ],
    "eval": ["--num_examples=2"],
}
"""Flags added to a command so that it takes seconds; the command is otherwise run as documented."""


def documented(repository: Path, documents: Sequence[str] = DOCUMENTS) -> list[list[str]]:
    """The words after `mrt5` of every command in the documents, in their order."""
    found = []
    for name in documents:
        text = (repository / name).read_text(encoding="utf-8")
        for line in text.replace("\\\n", " ").splitlines():  # a command may go on in the next line
            if match := re.match(r"\s*(?:\.venv/bin/)?mrt5 (.*)", line):
                found.append(shlex.split(match[1], comments=True))
    return found


@pytest.fixture
def workplace(repository: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the documents take for granted: text, words, a trained model, weights to convert."""
    monkeypatch.chdir(tmp_path)
    text = "Bytes are read one by one; most of them say little that the others do not.\n"
    for language in ("en", "de"):
        corpus = tmp_path / "corpus" / f"{language}.txt"
        corpus.parent.mkdir(exist_ok=True)
        corpus.write_text(text * 60, encoding="utf-8")
    make_model_dir(tmp_path / "runs/vowels")
    (tmp_path / "in.jsonl").write_text('{"inputs": "#Hello", "targets": "#Hll"}\n')
    without_gate = "config.ModelConfig.gate=None", "config.RunConfig.controller=None"
    byt5 = make_model_dir(tmp_path / "plain", *without_gate, "config.ModelConfig.num_encoder_layers=4")
    assert main(["convert", "hf-export", str(byt5), "byt5-small"]) == 0
    shutil.copytree(shared / "golden/t5x_legacy/checkpoint_1003", "checkpoint_1000000")
    shutil.copytree("corpus", "unseen")
    words = [f"{a}{b}{c}\n" for a in ("gar", "mon", "fel") for b in "aeiou" for c in ("den", "sty", "lick")]
    Path("words").mkdir()
    Path("words/en.txt").write_text("".join(words), encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_documented_commands_run(repository: Path, workplace: Path) -> None:
    commands = documented(repository)
    assert {words[0] for words in commands} >= {"train", "eval", "inspect", "infer", "convert"}
    for words in commands:
        if words[0] == "infer":
            (workplace / "out.jsonl").unlink(missing_ok=True)
        assert main([*words, *SMALLER.get(words[0], [])]) == 0, words
    assert (workplace / "stay.html").is_file()


def test_documented_flags_exist(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that is renamed is renamed in the documents too: the quick half of the test above."""
    for words in documented(repository, (*DOCUMENTS, *OF_OTHER_MODELS)):
        known = _help(words, capsys)
        flags = {word.split("=")[0] for word in words if word.startswith("--") and not word.startswith("--gin.")}
        assert all(flag in known for flag in flags), (words, flags)


def _help(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    subcommand = words[:2] if words[0] == "convert" else words[:1]
    with contextlib.suppress(SystemExit):
        main([*subcommand, "--help"])
    return capsys.readouterr().out

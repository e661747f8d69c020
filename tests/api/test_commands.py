"""What Python gives is what the commands give, bit for bit, on 200 texts in eleven scripts."""

from pathlib import Path

import pytest

from mrt5_jax.api.model import Model
from mrt5_jax.api.results import TextDeletions
from mrt5_jax.cli import inspect
from mrt5_jax.cli.main import main

from .models import infer, texts

TEXTS = texts(200)
TARGETS = texts(200, most_bytes=7)


def test_generate_is_infer(model: Model, model_dir: Path, tmp_path: Path) -> None:
    lines = infer(model_dir, [{"inputs": text} for text in TEXTS], tmp_path)
    found = model.generate(TEXTS)
    assert [(one.text, one.ids, one.log_probability) for one in found] == [
        (line["prediction"], line["prediction_ids"], line["score"]) for line in lines
    ]
    assert [(one.length, one.kept, one.dropped) for one in found] == [
        (line["num_input_tokens"], line["num_kept_tokens"], line["num_dropped_tokens"]) for line in lines
    ]
    assert 0.2 < sum(one.kept for one in found) / sum(one.length for one in found) < 0.9, "something is deleted"


def test_score_is_infer(model: Model, model_dir: Path, tmp_path: Path) -> None:
    requests = [{"inputs": text, "targets": target} for text, target in zip(TEXTS, TARGETS, strict=True)]
    lines = infer(model_dir, requests, tmp_path, "--mode=score")
    found = model.score(list(zip(TEXTS, TARGETS, strict=True)))
    assert [list(one) for one in found] == [
        [
            line[name]
            for name in ("score", "num_target_tokens", "num_input_tokens", "num_kept_tokens", "num_dropped_tokens")
        ]
        for line in lines
    ]


def test_deletions_are_inspect(model: Model, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every character with its fate and its gate values, of all texts in one file and of some by themselves."""
    together = "\n".join(TEXTS).encode()
    (tmp_path / "texts").write_bytes(together)
    shown: list[TextDeletions] = []
    monkeypatch.setattr(inspect, "_print", lambda console, found, cut: shown.append(found))
    own = [text for text in TEXTS if text][::60]  # the command refuses an empty text
    for given in (f"--file={tmp_path / 'texts'}", *(f"--text={text}" for text in own)):
        assert main(["inspect", f"--model_dir={model_dir}", given]) == 0
    for found, expected in zip(shown, [*model.deletions([together]), *model.deletions(own)], strict=True):
        assert found.windows == expected.windows
    assert len(shown[0].windows) > 50
    assert bytes(token - 3 for token in shown[0].ids if token > 2) == together


def test_what_is_kept_is_what_generating_keeps(model: Model) -> None:
    kept = [sum(found.keep) for found in model.deletions(TEXTS[:40])]
    assert kept == [found.kept for found in model.generate(TEXTS[:40])]

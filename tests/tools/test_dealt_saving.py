"""What is left of exact lengths' saving on many devices, against the issue's own simulation written out."""

from pathlib import Path

import numpy as np
import pytest

from mrt5_jax.data.byte_classes import BYTE_CLASSES
from mrt5_jax.data.expectation import UNITS, Expectation, expected, feature_names
from mrt5_jax.errors import UserError
from mrt5_jax.tools.dealt_saving import (
    KeptRows,
    Sample,
    features_of_kept,
    held_out_sample,
    lengths_run,
    read_kept_rows,
    sample_of_run,
    share_saved,
)

RUNGS = [number / 16 for number in range(1, 17)]


def simulated(kept: np.ndarray, devices: int, rows: int, chunks: int, dealt_by: np.ndarray | None) -> float:
    random, shares = np.random.default_rng(1), []
    for _ in range(200):
        drawn = random.integers(0, len(kept), devices * rows)
        if dealt_by is not None:
            drawn = drawn[np.argsort(dealt_by[drawn])].reshape(rows, devices).T
        sorted_rows = np.sort(kept[drawn].reshape(devices, rows), axis=1).reshape(devices, chunks, rows // chunks)
        padded = np.ceil(sorted_rows.max(axis=(0, 2)) * 16 - 1e-9) / 16
        shares.append((1 - padded.mean()) / (1 - sorted_rows.mean()))
    return float(np.mean(shares))


@pytest.mark.parametrize(("devices", "rows", "chunks"), [(1, 64, 8), (8, 16, 8), (64, 4, 4)])
def test_shares_are_those_of_a_simulation_written_out(devices: int, rows: int, chunks: int) -> None:
    kept = np.random.default_rng(0).beta(3, 2, 500)
    expected = kept + np.random.default_rng(2).normal(0, 0.1, 500)
    for dealt in (False, True):
        found = share_saved(Sample(kept, expected), devices, rows, chunks, RUNGS, dealt=dealt)
        wanted = simulated(kept, devices, rows, chunks, expected if dealt else None)
        assert found == pytest.approx(wanted, abs=0.02)


def expectations(rows: KeptRows, steps: int) -> np.ndarray:
    """What is expected of rows after some steps of eight of them each, by the predictor of training."""
    names, features = features_of_kept(rows)
    known, random = Expectation(names), np.random.default_rng(steps)
    for _ in range(steps):
        seen = random.integers(0, len(features), 8)
        kept = np.round(UNITS * rows.shares[seen])
        values = np.column_stack([features[seen].astype(np.float64), kept, np.ones(len(seen))])
        known.add(values.T @ values)
    return expected(features, known.fit())


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("language", ["en", "th"])
def test_knowing_nothing_dealt_rows_take_no_more_slots(language: str, steps: int, repository: Path) -> None:
    """At most a hundredth more, over 500 batches: rows of one language, in the first steps. By rows that a trained
    model keeps of real text."""
    rows = read_kept_rows(repository / "benchmarks" / "kept_classes.tsv")
    own = [number for number, name in enumerate(rows.languages) if name == language]
    assert rows.class_counts is not None
    rows = KeptRows([language] * len(own), rows.num_inputs[own], rows.num_kept[own], rows.class_counts[own])
    sample = Sample(rows.shares, expectations(rows, steps))
    for size in ((8, 16, 4), (64, 4, 4)):
        dealt, as_they_come = (
            np.mean([lengths.ran.mean() for lengths in lengths_run(sample, *size, RUNGS, dealt=dealt, batches=500)])
            for dealt in (True, False)
        )
        print(f"{language}, {steps} steps, {size}: {dealt:.4f} of the length dealt, {as_they_come:.4f} as they come")
        assert dealt < 1.01 * as_they_come


def test_of_a_language_s_mean_as_much_is_left_as_the_predictor_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    languages = rng.integers(0, 3, 600)
    kept = np.clip(np.round(64 * np.array([0.2, 0.5, 0.9])[languages] + rng.normal(0, 4, 600)), 1, 64).astype(int)
    lines = [f"l{language}\t64\t{count}" for language, count in zip(languages, kept, strict=True)]
    (tmp_path / "kept.tsv").write_text("\n".join(["# rows", "script\tinput\tkept", *lines]))
    sample = held_out_sample(read_kept_rows(tmp_path / "kept.tsv"))
    assert len(sample.kept) == 300
    assert np.corrcoef(sample.kept, sample.expected)[0, 1] > 0.95
    assert share_saved(sample, 8, 16, 8, RUNGS, dealt=True) > share_saved(sample, 8, 16, 8, RUNGS, dealt=False) + 0.1


def test_byte_classes_tell_what_languages_do_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(64, rng.dirichlet(np.ones(len(BYTE_CLASSES))), 400)
    kept = np.maximum(1, counts[:, ::2].sum(axis=1))
    lines = [f"en\t64\t{count}\t" + "\t".join(map(str, own)) for count, own in zip(kept, counts, strict=True)]
    (tmp_path / "kept.tsv").write_text("\n".join(lines))
    sample = held_out_sample(read_kept_rows(tmp_path / "kept.tsv"))
    assert np.corrcoef(sample.kept, sample.expected)[0, 1] > 0.8


def test_a_run_s_rows_are_like_those_that_it_has_seen() -> None:
    known, rng = Expectation(feature_names(())), np.random.default_rng(0)
    for _ in range(30):
        letters = rng.integers(0, 65, 100)
        kept = np.clip(letters // 2 + rng.integers(-8, 9, 100) + 8, 0, 64)
        values = np.zeros((100, len(known.features) + 2))
        values[:, 0], values[:, 1], values[:, -2], values[:, -1] = letters, 64 - letters, kept, 1
        known.add(values.T @ values)
    sample = sample_of_run(known.state())
    assert sample.kept.mean() == pytest.approx(24 / 64, abs=0.02)
    assert np.corrcoef(sample.kept, sample.expected)[0, 1] ** 2 == pytest.approx(known.explained(), abs=0.05)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("en\t64\n", "line 1: not language, inputs and kept"),
        ("en\t64\t10\nen\t64\t65\n", "line 2"),
        ("en\t64\t10\nen\t64\t1\t2\n", "line 2"),
        ("en\t64\tmany\n", "line 1"),
        ("script\tinput\tkept\nen\t64\t10\n", "at least two rows"),
    ],
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "kept.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_kept_rows(tmp_path / "kept.tsv")
    with pytest.raises(UserError, match="cannot be read"):
        read_kept_rows(tmp_path / "missing.tsv")

"""Checksums see every bit and its place, by an independent count; older checkpoints are checked by their own rule."""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import CheckpointConfig
from mrt5_jax.errors import UserError
from mrt5_jax.runs import integrity
from mrt5_jax.runs.checkpoints import Checkpoints
from mrt5_jax.runs.integrity import describe_arrays, not_finite
from mrt5_jax.runs.restoring import restore_params
from mrt5_jax.training.state import TrainState

RNG = np.random.default_rng(0)
SQUARE = RNG.normal(size=(6, 6)).astype(np.float32)


def checksum(array: Any, rule: int = 2) -> int:
    return describe_arrays({"params": {"one": jnp.asarray(array)}}, rule)["params/one"]["checksum"]


def mixed(word: int) -> int:
    """MurmurHash3's finalizer in Python's integers."""
    word = (word ^ word >> 16) * 0x85EBCA6B % 2**32
    word = (word ^ word >> 13) * 0xC2B2AE35 % 2**32
    return word ^ word >> 16


def expected(array: np.ndarray) -> int:
    size = min(array.dtype.itemsize, 4)
    words = np.ascontiguousarray(array).reshape(-1).view({1: np.uint8, 2: np.uint16, 4: np.uint32}[size])
    return sum(mixed(int(word) ^ mixed((at + 0x9E3779B9) % 2**32)) for at, word in enumerate(words)) % 2**32


@pytest.mark.parametrize(
    "array",
    [
        SQUARE,
        RNG.integers(-9, 9, (2, 3, 4)).astype(np.int32),
        np.array(RNG.normal(size=7), jnp.bfloat16),
        np.array([True, False, True]),
        np.float32(3.5),
        np.zeros((0, 3), np.float32),
    ],
    ids=["float32", "int32", "bfloat16", "bool", "scalar", "nothing"],
)
def test_the_rule_is_the_one_that_is_written_down(array: Any) -> None:
    assert checksum(array) == expected(np.asarray(array))


@pytest.mark.parametrize(
    "array",
    [
        SQUARE,
        SQUARE.T,
        RNG.integers(-9, 9, (2, 3, 4)),
        np.array(RNG.normal(size=7), jnp.bfloat16),
        np.array([True, False, True]),
        np.array(3.5),
        np.zeros((0, 3), np.float32),
    ],
    ids=["float32", "turned", "int64", "bfloat16", "bool", "scalar", "nothing"],
)
def test_arrays_on_the_host_have_the_same_checksums_block_by_block(array: np.ndarray, monkeypatch) -> None:
    monkeypatch.setattr(integrity, "_BLOCK", 5)
    described = describe_arrays({"params": {"one": array, "other": jnp.asarray(SQUARE)}})
    assert described["params/one"]["checksum"] == expected(array)
    assert described["params/other"]["checksum"] == expected(SQUARE)
    assert list(described) == ["params/one", "params/other"]


def test_eight_bytes_are_seen_whole() -> None:
    """The older rule read their lower half, without the sign."""
    wide = RNG.normal(size=(3, 4))
    with jax.enable_x64(True):
        assert checksum(wide) == expected(wide)
        assert checksum(wide) != checksum(-wide)
        assert checksum(wide, rule=1) == checksum(-wide, rule=1)


NAN, OTHER_NAN = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
FLIPPED = SQUARE.view(np.uint32).copy()
FLIPPED[2, 3] ^= 1
CHANGES = {
    "rows reversed": (SQUARE, SQUARE[::-1]),
    "columns rolled": (SQUARE, np.roll(SQUARE, 1, axis=1)),
    "transposed": (SQUARE, SQUARE.T),
    "two numbers exchanged": (np.float32([1, 2, 3]), np.float32([1, 3, 2])),
    "two halves exchanged": (np.arange(8, dtype=np.int32), np.roll(np.arange(8, dtype=np.int32), 4)),
    "a bit moved to another number": (np.int32([1, 2]), np.int32([2, 1])),
    "a bit flipped": (SQUARE, FLIPPED.view(np.float32)),
    "the sign of zero": (np.float32([0.0, 1]), np.float32([-0.0, 1])),
    "what a NaN says": (np.float32([NAN, 1]), np.float32([OTHER_NAN, 1])),
    "truth elsewhere": (np.array([True, False]), np.array([False, True])),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(change: str) -> None:
    before, after = CHANGES[change]
    assert checksum(before) != checksum(after)


def test_the_older_rule_does_not_see_the_order() -> None:
    """Which is what the newer one is for."""
    assert checksum(SQUARE, rule=1) == checksum(SQUARE[::-1], rule=1)


def state_of(**params: np.ndarray) -> TrainState:
    return TrainState(jnp.int32(1), {name: jnp.asarray(array) for name, array in params.items()}, (), ())


def save(model_dir: Path, state: TrainState) -> Path:
    with Checkpoints(model_dir, CheckpointConfig(), seed=0) as checkpoints:
        checkpoints.save(state, {})
    return model_dir / "checkpoints" / "1"


@pytest.mark.parametrize("change", ["rows reversed", "transposed", "arrays exchanged"])
def test_a_checkpoint_whose_numbers_are_in_another_order_is_damaged(tmp_path: Path, change: str) -> None:
    """Files that hold the very numbers that were saved, under the description of the right order."""
    other = np.roll(SQUARE, 3)
    wrong = {
        "rows reversed": {"one": SQUARE[::-1], "other": other},
        "transposed": {"one": SQUARE.T, "other": other},
        "arrays exchanged": {"one": other, "other": SQUARE},
    }[change]
    right = save(tmp_path / "right", state_of(one=SQUARE, other=other))
    changed = save(tmp_path / "wrong", state_of(**wrong))
    assert restore_params(tmp_path / "wrong").step == 1
    shutil.rmtree(changed / "run")
    shutil.copytree(right / "run", changed / "run")
    with pytest.raises(UserError, match="no checkpoint that is whole"):
        restore_params(tmp_path / "wrong")


def test_checkpoints_of_older_versions_are_read_by_their_rule(shared: Path, tmp_path: Path) -> None:
    """They have no number of a rule. A flipped bit is still found."""
    for model_dir in sorted((shared / "golden" / "model_dirs").iterdir()):
        if (model_dir / "checkpoints").is_dir():
            assert restore_params(model_dir).params
    copy = shutil.copytree(shared / "golden" / "model_dirs" / "hard", tmp_path / "hard")
    largest = max((copy / "checkpoints" / "10" / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(UserError, match="no checkpoint that is whole"):
        restore_params(copy)


def test_a_rule_of_a_later_version_is_refused(tmp_path: Path) -> None:
    run = save(tmp_path, state_of(one=SQUARE)) / "run" / "metadata"
    text = run.read_text()
    assert '"checksum_rule": 2' in text
    run.write_text(text.replace('"checksum_rule": 2', '"checksum_rule": 3'))
    with pytest.raises(UserError, match="checksums by rule 3, which this version does not know"):
        restore_params(tmp_path)


def test_what_is_not_finite_is_named() -> None:
    items = {"params": {"fine": jnp.ones(3), "whole": jnp.ones(3, jnp.int32)}}
    assert not_finite(items) == ""
    items["params"] |= {"bad": jnp.float32([1, jnp.inf]), "worse": jnp.full(2, jnp.nan, jnp.bfloat16)}
    assert not_finite(items) == "params/bad is not finite (nor are 1 more)"


def test_what_is_not_finite_on_the_host_is_named_too(monkeypatch) -> None:
    monkeypatch.setattr(integrity, "_BLOCK", 2)
    items = {"params": {"fine": np.ones((2, 3), np.float32), "whole": np.ones(3, np.int32), "on_device": jnp.ones(3)}}
    assert not_finite(items) == ""
    items["params"] |= {"bad": np.array([1, 1, 1, 1, np.nan], jnp.bfloat16), "worse": jnp.full(2, jnp.inf)}
    assert not_finite(items) == "params/bad is not finite (nor are 1 more)"

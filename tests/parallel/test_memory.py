"""How many batches a window has: what was asked for, or what fits; more than the memory is refused in one line."""

import dataclasses

import jax
import pytest

from mrt5_jax.config import ExecutionConfig, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.parallel import memory

MODEL = ModelConfig(64, 4, 16, 64, 2, 1)
BATCH_SIZE, LENGTH = 32, 128
OF_A_BATCH = BATCH_SIZE * LENGTH * 64 * 4
"""Bytes of its rows at the gate."""


@pytest.mark.parametrize(
    ("asked", "batches_in_memory", "expected"),
    [
        (None, 1000, 32),
        (None, 128, 32),
        (None, 127, 31),
        (None, 3, 1),
        (None, None, 32),
        (5, 5, 5),
        (5, None, 5),
        (1, 0, 1),
    ],
)
def test_the_window_is_what_was_asked_for_or_what_a_quarter_of_the_memory_holds(
    asked: int | None, batches_in_memory: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None: nobody knows how much there is. A batch by itself, which ran before, is never refused."""
    size = None if batches_in_memory is None else batches_in_memory * OF_A_BATCH
    monkeypatch.setattr(memory, "device_memory", lambda: size)
    assert memory.batches_in_window(MODEL, ExecutionConfig(window=asked), BATCH_SIZE, LENGTH) == expected


def test_a_device_holds_its_own_rows_in_the_activations_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "device_memory", lambda: 6 * OF_A_BATCH)
    asked = ExecutionConfig(window=12)
    half = dataclasses.replace(MODEL, dtype="bfloat16")
    for model, num_shards in ((half, 1), (MODEL, 2)):
        assert memory.batches_in_window(model, asked, BATCH_SIZE, LENGTH, num_shards) == 12
    with pytest.raises(UserError, match=r"window = 12: .* 32 x 128 .* give at most 6$") as refused:
        memory.batches_in_window(MODEL, asked, BATCH_SIZE, LENGTH)
    assert "\n" not in str(refused.value)


def test_devices_of_a_cpu_share_what_the_process_may_have(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's memory, unless less is allowed; a limit that is none, or no file, says nothing."""
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUP_LIMIT", limit)
    whole = memory.device_memory()
    assert whole is not None
    assert whole > 2**28
    limit.write_text("max\n")
    assert memory.device_memory() == whole
    limit.write_text("4096\n")
    assert memory.device_memory() == 4096 // jax.local_device_count()

"""What is clocked between two reports of a run: speed, waiting, compiling, share of what the devices could do."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import jax
import numpy as np
from jax.sharding import Mesh

from mrt5_jax.config import RunConfig
from mrt5_jax.data.vocabulary import BYTE_OFFSET
from mrt5_jax.model.multiply_adds import training_multiply_adds
from mrt5_jax.parallel.peaks import peak_multiply_adds
from mrt5_jax.training.writers import Scalar, Scalars

_COMPILED = "/jax/core/compile/backend_compile_duration"


class Clock:
    """Counts what happens from report to report; a context manager, since it listens to JAX's compilations.

    Numbers are of all devices and processes together. Bytes are counted in this process's rows and multiplied by the
    number of processes that read other ones.
    """

    def __init__(self, run: RunConfig, mesh: Mesh, shares: int) -> None:
        """Begins now; `shares` is in how many parts the processes read a batch."""
        self._run, self._shares = run, shares
        peak = peak_multiply_adds(mesh.devices.flat[0])
        self._peak = None if peak is None else mesh.size * peak
        self._begin()

    def __enter__(self) -> "Clock":
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        return self

    def __exit__(self, *error: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_duration)

    def pause(self, seconds: float) -> None:
        """Leaves out time that was not training."""
        self._since += seconds

    def waited(self, seconds: float) -> None:
        """Notes how long it took to make a batch."""
        self._data_wait += seconds

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Notes how long the block takes, in which steps wait for numbers to be written or for a save."""
        start = time.perf_counter()
        yield
        self._storage_wait += time.perf_counter() - start

    def step(self, metrics: Scalars, num_bytes: int, input_length: int) -> None:
        """Notes that a step was dispatched.

        Args:
            metrics: of the step; `rung` says how long its rows were after the gate (without it, full).
            num_bytes: `count_bytes` of this process's rows.
            input_length: of the batch.
        """
        self._lengths.append(input_length)
        self._rungs.append(metrics.get("rung", input_length))
        self._bytes += self._shares * num_bytes

    def lap(self) -> dict[str, float]:
        """Returns the timing of the steps since the last lap, when they have been computed."""
        data = self._run.data
        rungs = [float(rung) for rung in jax.device_get(self._rungs)]
        seconds = time.perf_counter() - self._since
        worth = sum(
            training_multiply_adds(self._run.model, dataclasses.replace(data, input_length=length), round(rung))
            for length, rung in zip(self._lengths, rungs, strict=True)
        )
        tokens = data.batch_size * (sum(self._lengths) + len(rungs) * data.target_length)
        timing = {
            "seconds_per_step": seconds / len(rungs),
            "tokens_per_second": tokens / seconds,
            "bytes_per_second": self._bytes / seconds,
            "data_seconds_per_step": self._data_wait / len(rungs),
            "storage_seconds_per_step": self._storage_wait / len(rungs),
            "compilations": self._compilations,
            "compile_seconds": self._compile_seconds,
        }
        if self._peak is not None:
            timing["matmul_share"] = worth / seconds / self._peak
        self._begin()
        return timing

    def _begin(self) -> None:
        self._since = time.perf_counter()
        self._rungs: list[Scalar] = []
        self._lengths: list[int] = []
        self._bytes, self._data_wait, self._storage_wait = 0, 0.0, 0.0
        self._compilations, self._compile_seconds = 0, 0.0

    def _on_duration(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _COMPILED:
            self._compilations += 1
            self._compile_seconds += duration_secs


def count_bytes(batch: Mapping[str, np.ndarray]) -> int:
    """Counts the ids of inputs and targets that stand for bytes."""
    ids = (batch[name] for name in ("encoder_input_tokens", "decoder_target_tokens"))
    return sum(int(np.count_nonzero(array >= BYTE_OFFSET)) for array in ids)

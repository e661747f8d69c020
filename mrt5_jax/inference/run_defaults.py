"""What inference takes from the run that trained a model, where its user says nothing else."""

from typing import Literal

from mrt5_jax.config import Deletion, Dispatch, ExecutionConfig, GateConfig, RunConfig
from mrt5_jax.inference.requests import Limits

INFERENCE_DELETIONS: tuple[Deletion, ...] = ("hard", "soft", "none")
"""Those that answer requests; random deletion is a baseline for evaluation alone."""

DEFAULT_INPUT_LENGTH = 1024
"""ByT5's input length, for models that were imported and so come without a run."""
DEFAULT_TARGET_LENGTH = 256


def limits_of(
    run: RunConfig | None,
    vocab_size: int,
    input_length: int | None = None,
    target_length: int | None = None,
    long_inputs: Literal["refuse", "truncate"] = "refuse",
) -> Limits:
    """Returns what a model takes: the given lengths, else those that it was trained with, else the defaults."""
    trained_input = DEFAULT_INPUT_LENGTH if run is None else run.data.input_length
    trained_target = DEFAULT_TARGET_LENGTH if run is None else run.data.target_length
    return Limits(vocab_size, input_length or trained_input, target_length or trained_target, long_inputs)


def execution_of(
    run: RunConfig | None, dispatch: Dispatch | None = None, chunks: int = 1, window: int | None = None
) -> ExecutionConfig:
    """Returns how inference runs: as the run says, with what is given in its place.

    The run's rungs are of its own input length, where inputs here are padded to several; and its chunks cost nothing
    in training, but a decoding loop each here.
    """
    trained = ExecutionConfig() if run is None else run.execution
    return ExecutionConfig(
        inference_dispatch=dispatch or trained.inference_dispatch,
        scan_unroll=trained.scan_unroll,
        attention_rows=trained.attention_rows,
        chunks=chunks,
        window=window or trained.window,
    )


def capacity_of(run: RunConfig | None) -> float | None:
    """Returns the share of its length that a row may keep, as the run says; None: all that the gate keeps."""
    return None if run is None else run.evaluation.capacity


def default_deletion(gate: GateConfig | None) -> Deletion:
    """Returns what a model is made for: hard deletion; of a model without a gate none."""
    return "none" if gate is None else "hard"

"""Packed rows give every example the losses and gradients of a row of its own, under every deletion."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.staged import Part
from mrt5_jax.config import CompactionConfig, Deletion, LossConfig, ModelConfig, TrainingDeletion
from mrt5_jax.data.arrangements import Packed, model_batch
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import ForwardSetting, Outputs, forward
from mrt5_jax.objectives.losses import cross_entropy
from mrt5_jax.training.gradients import Setting, loss_and_gradients, objective_of

from .small import VOCAB, by_path, in_double, make_config, make_params

INPUT_LENGTH, TARGET_LENGTH, ROWS = 20, 12, 3
LENGTHS = ((7, 3), (9, 4), (1, 2), (12, 1), (5, 6), (3, 3), (14, 9))
"""Of inputs and targets. They are packed as 7 + 9 + 1, 12 + 5 + 3 and 14 inputs."""
ALPHA = 0.3
Batch = dict[str, np.ndarray]


class Examples(NamedTuple):
    inputs: np.ndarray
    targets: np.ndarray

    def batches(self, *, start: int, rows: int) -> Iterator[dict[str, np.ndarray]]:
        """An example stream that goes on with copies of the longest example, none of which fits."""
        while True:
            at = np.minimum(np.arange(start, start + rows), len(LENGTHS) - 1)
            yield {"inputs": self.inputs[at], "targets": self.targets[at]}
            start += rows


@pytest.fixture(scope="module")
def examples() -> Examples:
    rng = np.random.default_rng(0)
    inputs, targets = (
        np.stack([np.where(np.arange(size) < lengths[side], rng.integers(1, VOCAB, size), 0) for lengths in LENGTHS])
        for side, size in enumerate((INPUT_LENGTH, TARGET_LENGTH))
    )
    return Examples(inputs.astype(np.int32), targets.astype(np.int32))


@pytest.fixture(scope="module")
def alone(examples: Examples) -> Batch:
    """An example a row."""
    return model_batch(*examples)


@pytest.fixture(scope="module")
def packed(examples: Examples) -> Batch:
    """The same examples in fewer rows."""
    arrangement = Packed(examples, ROWS, (INPUT_LENGTH, TARGET_LENGTH), slice(None))
    batch = next(arrangement.read(0)).batch
    assert batch["encoder_segment_ids"].max(axis=1).tolist() == [3, 3, 1]
    return batch


def config_of(kind: str, *, softmax1: bool = False) -> ModelConfig:
    config = in_double(make_config(softmax1=softmax1))
    assert config.gate is not None
    return dataclasses.replace(config, gate=dataclasses.replace(config.gate, kind=kind))


def losses_of_examples(logits: Any, batch: Batch) -> list[float]:
    """Summed over the targets of each example, in their order."""
    tokens = cross_entropy(*map(jnp.asarray, (logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"])))
    segments = batch.get("decoder_segment_ids", batch["decoder_loss_weights"])
    nll = np.asarray(tokens.nll)
    return [
        float(nll[row][segments[row] == segment].sum())
        for row in range(len(segments))
        for segment in range(1, segments[row].max() + 1)
    ]


def run_forward(config: ModelConfig, params: Any, batch: Batch, deletion: Deletion) -> Outputs:
    setting = ForwardSetting(MrT5(config), deletion, Ladder((14, INPUT_LENGTH)))
    return jax.device_get(jax.jit(lambda params, batch: forward(setting, params, batch))(params, batch))


@pytest.mark.parametrize(
    ("kind", "deletion"),
    [
        pytest.param("learned", "none", marks=pytest.mark.slow),
        ("learned", "soft"),
        ("learned", "hard"),
        pytest.param("fixed", "hard", marks=pytest.mark.slow),
    ],
)
def test_losses_of_examples_are_those_of_rows_of_their_own(
    alone: Batch, packed: Batch, kind: str, deletion: Deletion
) -> None:
    """Segments see neither each other nor whether they were packed, before and after compaction."""
    config = config_of(kind, softmax1=deletion == "soft")
    with jax.enable_x64(True):
        params = make_params(config)
        one, other = (run_forward(config, params, batch, deletion) for batch in (alone, packed))
        np.testing.assert_allclose(
            losses_of_examples(other.logits, packed), losses_of_examples(one.logits, alone), rtol=1e-9
        )
    assert kept_of_examples(other, packed) == kept_of_examples(one, alone)
    if deletion == "hard":
        assert (one.rungs < INPUT_LENGTH).all(), "something is deleted"


def kept_of_examples(outputs: Outputs, batch: Batch) -> list[list[bool]]:
    segments = batch.get("encoder_segment_ids", (batch["encoder_input_tokens"] > 0).astype(int))
    return [
        outputs.at_gate.keep[row][segments[row] == segment].tolist()
        for row in range(len(segments))
        for segment in range(1, segments[row].max() + 1)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("deletion", ["none", "soft", "hard", "saturated"])
def test_the_loss_and_its_gradient_are_those_of_rows_of_their_own(
    alone: Batch, packed: Batch, deletion: TrainingDeletion
) -> None:
    """With alpha; the score regulariser, a mean over the pairs of a row, is left out."""
    config = config_of("learned")

    @jax.jit
    def run(params: Any, batch: Batch) -> Part:
        setting = Setting(
            MrT5(config),
            LossConfig(z_loss=0.01),
            deletion,
            CompactionConfig(saturation_threshold=-8.0),
            Ladder((14, INPUT_LENGTH)),
        )
        objective = objective_of(config.gate, setting.loss, jnp.asarray(ALPHA), batch)
        return loss_and_gradients(setting, params, batch, objective)

    with jax.enable_x64(True):
        params = make_params(config)
        one, other = (jax.device_get(run(params, batch)) for batch in (alone, packed))
    assert other.total.loss == pytest.approx(one.total.loss, rel=1e-9)
    expected = by_path(one.total.gradients)
    for path, gradient in by_path(other.total.gradients).items():
        np.testing.assert_allclose(gradient, expected[path], rtol=1e-7, atol=1e-9, err_msg=path)


def test_a_segment_of_which_everything_would_be_deleted_keeps_its_best_position(alone: Batch, packed: Batch) -> None:
    """As its row would; the rescue is counted in its row."""
    config = config_of("learned")
    with jax.enable_x64(True):
        params = make_params(config)
        params["encoder"]["gate"]["bias"] -= 1e3
        one, other = (run_forward(config, params, batch, "hard") for batch in (alone, packed))
    kept = kept_of_examples(other, packed)
    assert [sum(keep) for keep in kept] == [1] * len(LENGTHS)
    assert kept == kept_of_examples(one, alone)
    assert other.at_gate.selection is not None
    assert other.at_gate.selection.statistics["rescued"].all()


@pytest.mark.parametrize("deletion", ["soft", "hard"])
def test_packed_rows_without_segment_ids_would_not_do(alone: Batch, packed: Batch, deletion: Deletion) -> None:
    """What the other tests compare does depend on the segment ids."""
    config = config_of("learned")
    unmarked = {key: value for key, value in packed.items() if "segment" not in key}
    with jax.enable_x64(True):
        params = make_params(config)
        one, other = (run_forward(config, params, batch, deletion) for batch in (alone, unmarked))
        found = losses_of_examples(other.logits, packed)
        others = np.abs(np.subtract(found, losses_of_examples(one.logits, alone)))[:-1]  # the last one is alone
        assert others.min() > 1e-6

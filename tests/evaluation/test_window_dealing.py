"""Windows whose rows are dealt to devices: every record is the one that it was, and the devices have alike rows."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest

from mrt5_jax.config import Deletion
from mrt5_jax.data.arrangements import INDEX, ExampleInfo, model_batch
from mrt5_jax.data.batches import EvalBatch
from mrt5_jax.data.expectation import Expectation, feature_names
from mrt5_jax.evaluation.evaluate import collect_records
from mrt5_jax.evaluation.programs import RowResults
from mrt5_jax.evaluation.window_dealing import WindowDealing
from mrt5_jax.objectives.losses import RowLosses

ROWS, PLACES, TARGET = 8, 4, 3
LETTER, SPACE = 100, 35


def batch_of(number: int, length: int) -> EvalBatch:
    """Rows of letters and spaces; the last batch has padding."""
    rng = np.random.default_rng(number)
    inputs = rng.choice([LETTER, SPACE], (ROWS, length)).astype(np.int32)
    inputs[np.arange(length) >= rng.integers(1, length + 1, ROWS)[:, None]] = 0
    examples = ROWS if number < 3 else 5
    inputs[examples:] = 0
    infos = tuple(ExampleInfo("t", "", ROWS * number + row) for row in range(examples))
    return EvalBatch(model_batch(inputs, inputs[:, :TARGET]), infos)


class Pretended:
    """Keeps the letters of a row, and notes what lies on which device."""

    window = 4

    def __init__(self) -> None:
        self.kept: list[list[np.ndarray]] = []

    def __call__(self, params: Any, batches: Sequence[Any], deletion: Deletion) -> list[RowResults]:
        letters = [(np.asarray(batch["encoder_input_tokens"]) == LETTER).sum(axis=1) for batch in batches]
        self.kept.append(letters)
        return [results(batch, own) for batch, own in zip(batches, letters, strict=True)]


def results(batch: Any, kept: np.ndarray) -> RowResults:
    inputs = np.asarray(batch["encoder_input_tokens"])
    index = np.asarray(batch[INDEX]).astype(np.float32)
    weights = np.asarray(batch["decoder_loss_weights"]).sum(axis=1).astype(np.float32)
    own: Any = RowLosses(
        **{name: {"nll": index, "num_tokens": weights}.get(name, weights.astype(bool)) for name in RowLosses._fields}
    )
    return RowResults(
        losses=own,
        predictions=np.asarray(batch["decoder_target_tokens"]),  # pyright: ignore[reportArgumentType]
        num_input_tokens=(inputs > 0).sum(axis=1),
        num_kept_tokens=kept,  # pyright: ignore[reportArgumentType]
        num_dropped_tokens=np.zeros_like(kept),  # pyright: ignore[reportArgumentType]
        rescued=np.zeros(len(kept), bool),  # pyright: ignore[reportArgumentType]
        rung=kept,  # pyright: ignore[reportArgumentType]
        kept=inputs == LETTER,  # pyright: ignore[reportArgumentType]
    )


@pytest.mark.parametrize("lengths", [(16, 16, 16, 16), (16, 8, 16, 8)])
def test_records_are_those_of_rows_as_they_come(lengths: tuple[int, ...]) -> None:
    batches = [batch_of(number, length) for number, length in enumerate(lengths)]
    as_they_come, dealt = Pretended(), Pretended()
    wanted = collect_records(as_they_come, {}, batches, ("hard",))
    found = collect_records(dealt, {}, batches, ("hard",), put=dict, dealing=WindowDealing(PLACES, (), 16))
    assert found == wanted
    assert [record.index for record in found] == [*range(29)]
    assert not all(map(np.array_equal, dealt.kept[0], as_they_come.kept[0]))


def test_it_learns_from_the_windows_before() -> None:
    """The second window is dealt by letters, of which lengths do not say much."""
    dealing, pretended = WindowDealing(PLACES, (), 16), Pretended()
    collect_records(
        pretended, {}, [batch_of(number % 4, 16) for number in range(8)], ("hard",), put=dict, dealing=dealing
    )

    def spread(window: list[np.ndarray]) -> float:
        """Differences between the devices' k-th rows by what is kept."""
        by_device = np.concatenate([batch.reshape(PLACES, -1) for batch in window], axis=1)
        return float(np.mean(np.ptp(np.sort(by_device, axis=1), axis=0)))

    first, second = map(spread, pretended.kept)
    letters = np.sort(np.concatenate(pretended.kept[0]))
    best = spread([letters.reshape(-1, PLACES).T.reshape(-1)])
    assert second - best < 0.3 * (first - best)


def test_it_begins_with_what_training_has_learned() -> None:
    known = Expectation(feature_names(()))
    features = np.zeros((2, len(known.features) + 2))
    features[0, 0], features[0, -2:] = 64, (64, 1)  # letters are kept, spaces are not
    features[1, 1], features[1, -2:] = 64, (0, 1)
    known.add(1000 * features.T @ features)
    batches = [batch_of(number, 16).arrays for number in range(3)]
    dealt = WindowDealing(PLACES, (), 16, known.state()).deal(batches).batches
    letters = np.concatenate(
        [(batch["encoder_input_tokens"] == LETTER).sum(axis=1).reshape(PLACES, -1) for batch in dealt], axis=1
    )
    assert (letters.max(axis=0)[:-1] <= letters.min(axis=0)[1:]).all()
    assert jax.tree.leaves(dealt)[0].shape[0] == ROWS

"""Packed and bucketed batches hold every example once, can be resumed anywhere, and agree between hosts."""

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pytest

from mrt5_jax.config import DataConfig
from mrt5_jax.data.arrangements import WINDOW, Arrangement, Batch, Buckets, Packed, input_lengths
from mrt5_jax.errors import UserError

INPUT_LENGTH, TARGET_LENGTH, ROWS = 16, 8, 3
BUCKETS = (4, 8, 16)


class FakeStream:
    """Example i is a row of ids 3 + i, its length a random function of i."""

    def batches(self, *, start: int, rows: int) -> Iterator[dict[str, np.ndarray]]:
        while True:
            inputs = np.zeros((rows, INPUT_LENGTH), np.int32)
            targets = np.zeros((rows, TARGET_LENGTH), np.int32)
            for row in range(rows):
                number = start + row
                generator = np.random.default_rng(number)
                inputs[row, : generator.integers(1, INPUT_LENGTH + 1)] = number + 3
                targets[row, : generator.integers(1, TARGET_LENGTH + 1)] = number + 3
            yield {"inputs": inputs, "targets": targets}
            start += rows


def examples(count: int) -> list[tuple[list[int], list[int]]]:
    rows = next(FakeStream().batches(start=0, rows=count))
    return [(i[i > 0].tolist(), t[t > 0].tolist()) for i, t in zip(rows["inputs"], rows["targets"], strict=True)]


def packed(own: slice = slice(None)) -> Packed:
    return Packed(FakeStream(), ROWS, (INPUT_LENGTH, TARGET_LENGTH), own)


def buckets(own: slice = slice(None)) -> Buckets:
    return Buckets(FakeStream(), ROWS, BUCKETS, own, seed=0)


def take(arrangement: Arrangement, count: int, position: int = 0) -> list[tuple[Batch, int]]:
    reader = arrangement.read(position)
    return [tuple(next(reader)) for _ in range(count)]


def segments(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """The examples of a packed batch, in order."""
    found = []
    for row in range(len(batch["encoder_input_tokens"])):
        for segment in range(1, batch["encoder_segment_ids"][row].max() + 1):
            inputs = batch["encoder_input_tokens"][row][batch["encoder_segment_ids"][row] == segment]
            targets = batch["decoder_target_tokens"][row][batch["decoder_segment_ids"][row] == segment]
            found.append((inputs.tolist(), targets.tolist()))
    return found


def test_packing_keeps_every_example_and_its_order() -> None:
    batches = take(packed(), 20)
    found = [example for batch, _ in batches for example in segments(batch)]
    assert len(found) == batches[-1][1]
    assert found == examples(len(found))
    assert len(found) > 20 * ROWS


def test_a_row_holds_no_more_examples_than_it_may() -> None:
    """None is lost or put elsewhere for it."""
    bounded = Packed(FakeStream(), ROWS, (INPUT_LENGTH, TARGET_LENGTH), slice(None), most_examples=1)
    batches = take(bounded, 5)
    found = [example for batch, _ in batches for example in segments(batch)]
    assert found == examples(5 * ROWS)
    assert max(batch["encoder_segment_ids"].max() for batch, _ in take(packed(), 5)) > 1


def test_packed_positions_and_decoder_inputs_begin_anew_in_every_segment() -> None:
    ((batch, _),) = take(packed(), 1)
    for side, tokens in (("encoder", "encoder_input_tokens"), ("decoder", "decoder_target_tokens")):
        ids, positions = batch[f"{side}_segment_ids"], batch[f"{side}_positions"]
        np.testing.assert_array_equal(ids > 0, batch[tokens] > 0)
        starts = (ids > 0) & (np.diff(ids, axis=1, prepend=0) != 0)
        np.testing.assert_array_equal(positions[starts], 0)
        inside = (ids > 0) & ~starts
        np.testing.assert_array_equal(positions[inside], np.roll(positions, 1, axis=1)[inside] + 1)
    first = batch["decoder_positions"] == 0
    np.testing.assert_array_equal(batch["decoder_input_tokens"][first], 0)
    shifted = np.roll(batch["decoder_target_tokens"], 1, axis=1)
    np.testing.assert_array_equal(batch["decoder_input_tokens"][~first], shifted[~first])
    np.testing.assert_array_equal(batch["decoder_loss_weights"], batch["decoder_segment_ids"] > 0)


def test_a_row_is_closed_only_when_the_next_example_does_not_fit() -> None:
    batches = [batch for batch, _ in take(packed(), 10)]
    rows = [
        [batch[key][row] for key in ("encoder_input_tokens", "decoder_target_tokens")]
        for batch in batches
        for row in range(ROWS)
    ]
    following = examples(1000)
    for inputs, targets in rows[:-1]:
        next_inputs, next_targets = following[int(inputs.max()) - 3 + 1]
        free = (inputs == 0).sum(), (targets == 0).sum()
        assert len(next_inputs) > free[0] or len(next_targets) > free[1]


def test_buckets_hold_every_example_of_a_window_once_in_the_smallest_length() -> None:
    batches = [batch for batch, _ in take(buckets(), WINDOW)]
    numbers = np.sort(np.concatenate([batch["encoder_input_tokens"][:, 0] for batch in batches]) - 3)
    np.testing.assert_array_equal(numbers, np.arange(WINDOW * ROWS))
    lengths = [batch["encoder_input_tokens"].shape[1] for batch in batches]
    assert set(lengths) == set(BUCKETS)
    for batch, length in zip(batches, lengths, strict=True):
        longest = (batch["encoder_input_tokens"] > 0).sum(axis=1).max()
        assert length == min(own for own in BUCKETS if own >= longest)
    assert lengths != sorted(lengths)  # an epoch does not go from short to long


@pytest.mark.parametrize("make", [packed, buckets])
def test_reading_on_from_any_position_gives_the_same_batches(make: Callable[[], Arrangement]) -> None:
    whole = take(make(), 2 * WINDOW + 3)
    for stop in (1, WINDOW - 1, WINDOW, WINDOW + 2):
        resumed = take(make(), 3, position=whole[stop - 1][1])
        for (batch, position), (expected, expected_position) in zip(resumed, whole[stop : stop + 3], strict=True):
            assert position == expected_position
            for key, value in expected.items():
                np.testing.assert_array_equal(batch[key], value)


@pytest.mark.parametrize("make", [packed, buckets])
def test_hosts_share_out_the_rows_of_batches_of_one_shape(make: Callable[..., Arrangement]) -> None:
    whole = take(make(), 5)
    shares = [take(make(slice(host, None, ROWS)), 5) for host in range(ROWS)]
    for number, (batch, position) in enumerate(whole):
        for key, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([share[number][0][key] for share in shares]), value)
        assert {share[number][1] for share in shares} == {position}


def test_input_lengths_are_those_of_the_buckets_or_the_one_of_all_batches() -> None:
    assert input_lengths(DataConfig("t", ("t",), 128, 16, 4, 4)) == (128,)
    assert input_lengths(DataConfig("t", ("t",), 128, 16, 4, 4, length_buckets=(128, 16, 64))) == (16, 64, 128)


@pytest.mark.parametrize(
    ("rows", "length_buckets", "message"),
    [
        ("one_a_row", (8, 64), r"length_buckets \(8, 64\): should be positive and end with input_length 128"),
        ("one_a_row", (0, 128), r"length_buckets \(0, 128\): should be positive"),
        ("packed", (64, 128), "packed rows have one length: set length_buckets to"),
    ],
)
def test_buckets_that_do_not_fit_the_run_are_refused(
    rows: Literal["one_a_row", "packed"], length_buckets: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        input_lengths(DataConfig("t", ("t",), 128, 16, 4, 4, rows=rows, length_buckets=length_buckets))

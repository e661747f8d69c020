"""Requests are taken as documented, refused by file and line, and padded into few static shapes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt5_jax.errors import UserError
from mrt5_jax.inference.requests import Limits, Request, cut_into_batches, pad_requests, parse, static_lengths, survey

LIMITS = Limits(vocab_size=384, input_length=8, target_length=6, long_inputs="refuse")


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_text_becomes_bytes_with_an_end_of_sequence() -> None:
    request = parse(line(inputs="aé", targets="b", id=7), "f:1", "score", LIMITS)
    assert request.input_ids.tolist() == [100, 0xC3 + 3, 0xA9 + 3, 1]
    assert request.target_ids.tolist() == [101, 1]
    assert request.fields == {"inputs": "aé", "targets": "b", "id": 7}


def test_ids_are_taken_as_they_are_and_predicting_needs_no_targets() -> None:
    request = parse(line(input_ids=[3, 383, 1]), "f:1", "predict", LIMITS)
    assert (request.input_ids.tolist(), request.target_ids.tolist()) == ([3, 383, 1], [])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"inputs": "a"', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'["inputs"]', "not a JSON object"),
        (line(targets="b"), "neither of the fields inputs and input_ids"),
        (line(inputs="a"), "neither of the fields targets and target_ids"),
        (line(inputs="a", input_ids=[1], targets="b"), "both of the fields inputs and input_ids"),
        (line(inputs=3, targets="b"), "inputs is not a string"),
        (line(inputs="a\ud800", targets="b"), "inputs is not text"),
        (line(input_ids=[], targets="b"), "input_ids is not a list of at least one integer"),
        (line(input_ids=[3, True], targets="b"), "input_ids is not a list"),
        (line(input_ids=[3, 384], targets="b"), "the id 384, outside the vocabulary"),
        (line(input_ids=[10**30], targets="b"), "outside the vocabulary"),
        (line(inputs="a", target_ids=[-1]), "target_ids has the id -1, outside the vocabulary"),
        (line(inputs="a", target_ids=[3, 0]), "the pad id 0"),
        (line(inputs="a" * 8, targets="b"), "the input has 9 ids, more than 8"),
        (line(inputs="a", targets="b" * 6), "the target has 7 ids, more than 6"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_number(tmp_path: Path, bad: bytes, reason: str) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(line(inputs="a", targets="b") + b"\n" + bad + b"\n")
    with pytest.raises(UserError) as error:
        survey(path, "score", LIMITS)
    assert str(error.value).startswith(f"{path}:2: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.jsonl: No such file"):
        survey(tmp_path / "nothing.jsonl", "score", LIMITS)


def test_truncation_keeps_the_end_of_sequence() -> None:
    limits = LIMITS._replace(long_inputs="truncate")
    assert parse(line(inputs="abcdefghi"), "f:1", "predict", limits).input_ids.tolist() == [*range(100, 107), 1]
    assert parse(line(input_ids=list(range(5, 15))), "f:1", "predict", limits).input_ids.tolist() == [*range(5, 13)]


@settings(max_examples=20)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=20), st.integers(1, 7))
def test_batches_hold_every_request_once_in_the_smallest_static_length(lengths: list[int], batch_size: int) -> None:
    static = static_lengths(300)
    rng = np.random.default_rng(0)
    requests = [
        Request({}, rng.integers(1, 384, size, dtype=np.int32), np.full(301 - size, 5, np.int32)) for size in lengths
    ]
    seen = []
    for indices in cut_into_batches(requests, batch_size):
        batch = pad_requests([requests[index] for index in indices], batch_size, static, static)
        tokens, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
        shifted, weights = batch["decoder_input_tokens"], batch["decoder_loss_weights"]
        longest = max(lengths[index] for index in indices)
        assert tokens.shape == (batch_size, min(size for size in static if size >= longest))
        for row, index in enumerate(indices):
            assert tokens[row, tokens[row] > 0].tolist() == requests[index].input_ids.tolist()
            assert targets[row, weights[row] > 0].tolist() == requests[index].target_ids.tolist()
            assert [0, *targets[row, :-1]] == shifted[row].tolist()
        assert not tokens[len(indices) :].any()
        assert not weights[len(indices) :].any()
        seen += indices
    assert sorted(seen) == list(range(len(lengths)))


def test_static_lengths_are_the_limit_and_its_halves() -> None:
    assert static_lengths(1024) == (64, 128, 256, 512, 1024)
    assert static_lengths(300) == (75, 150, 300)
    assert static_lengths(50) == (50,)

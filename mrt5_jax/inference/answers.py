"""Requests in, answers out, a window of batches at a time."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mrt5_jax.data.mixing import Shard
from mrt5_jax.data.vocabulary import decode
from mrt5_jax.inference.decoding import Greedy, Search
from mrt5_jax.inference.engine import Engine, Predictions
from mrt5_jax.inference.requests import (
    InferMode,
    Limits,
    Request,
    cut_into_batches,
    pad_requests,
    read_requests,
    static_lengths,
)
from mrt5_jax.inference.sampling import row_keys
from mrt5_jax.inference.scoring import Scores
from mrt5_jax.inference.shards import WHOLE, number_of

NOT_FINITE = "the model's numbers are not finite for this line"
"""The `error` of a line that has no answer."""

_Fields = Iterator[dict[str, Any]]
"""What is added to each request of a batch, in order."""


class _Window(NamedTuple):
    """Requests that are answered together."""

    requests: Sequence[Request]
    start: int
    """The place of the first one among those that the job answers."""
    size: int
    """Batches that programs are compiled for."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What to do with requests."""

    engine: Engine
    mode: InferMode
    limits: Limits
    batch_size: int
    """Requests at once, on all devices together; a multiple of `Engine.num_shards`."""
    search: Search = dataclasses.field(default_factory=Greedy)
    seed: int = 0
    """Of sampling; a request's sample follows from it and from the request's number in the file."""
    shard: Shard = WHOLE
    """The requests that are answered, by their numbers in the file."""

    def answers(self, path: str | Path, num_done: int, name: str = "") -> Iterator[list[dict[str, Any]]]:
        """Yields the answers to the shard's requests of a file but the first `num_done`, in order, a window at a time.

        `name` is the file's, where `path` is a copy of it. An answer is the request's line with what was asked for
        added.
        """
        return self.answers_to(read_requests(path, self.mode, self.limits, name), num_done)

    def answers_to(self, requests: Iterable[Request], num_done: int = 0) -> Iterator[list[dict[str, Any]]]:
        """Yields the answers to the shard's requests but the first `num_done`, in order, a window at a time.

        The requests of a window are sorted by length and cut into batches, whose rows the engine regroups. Windows
        begin at the same requests whatever was done before: a run that goes on computes what it would have computed.
        """
        for window in self._windows(requests, num_done):
            if window.start + len(window.requests) > num_done:
                yield self._answer(window)[max(num_done - window.start, 0) :]

    def encodings(self, requests: Iterable[Request]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the encoder's output for each request, in order, a window at a time.

        It is hidden states [kept embed] and the original positions [kept] of what is kept.
        """
        for window in self._windows(requests, 0):
            batches = list(cut_into_batches(window.requests, self.batch_size))
            arrays = self._padded(window.requests, batches)
            found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
            tokens = [batch["encoder_input_tokens"] for batch in arrays]
            for own, encoded in zip(batches, self.engine.encode_window(tokens, window.size), strict=True):
                hidden, positions, mask = (np.asarray(array) for array in encoded)
                for row, index in enumerate(own):
                    found[index] = hidden[row, mask[row]], positions[row, mask[row]]
            yield from (found[index] for index in range(len(window.requests)))

    def _windows(self, requests: Iterable[Request], num_done: int) -> Iterator["_Window"]:
        size = self.engine.window(self.batch_size, self.limits.input_length)
        whole = size * self.batch_size
        start = num_done // whole * whole
        todo = islice(requests, number_of(start, self.shard), None, self.shard.count)
        while found := list(islice(todo, whole)):
            if start == 0:  # requests that end in their first window take no more room than they need
                size = -(-len(found) // self.batch_size)
            yield _Window(found, start, size)
            start += len(found)

    def _answer(self, window: "_Window") -> list[dict[str, Any]]:
        requests, start, size = window
        answers = [
            {name: value for name, value in request.fields.items() if (name, value) != ("error", NOT_FINITE)}
            for request in requests
        ]
        batches = list(cut_into_batches(requests, self.batch_size))
        arrays = self._padded(requests, batches)
        if self.mode == "score":
            results = self._score(arrays, size)
        else:
            numbers = [[number_of(start + index, self.shard) for index in own] for own in batches]
            results = self._predict(arrays, numbers, size)
        for own, fields_of_rows in zip(batches, results, strict=True):
            for index, fields in zip(own, fields_of_rows, strict=False):  # the rows after them are padding
                answers[index] |= fields
        return answers

    def _padded(self, requests: Sequence[Request], batches: Sequence[Sequence[int]]) -> list[dict[str, np.ndarray]]:
        lengths = self.input_lengths, static_lengths(self.limits.target_length)
        return [pad_requests([requests[index] for index in own], self.batch_size, *lengths) for own in batches]

    @property
    def input_lengths(self) -> Sequence[int]:
        """What inputs are padded to: one length alone where a model's pooling reads its pads, so that no row's answer
        depends on the rows beside it."""
        gate, limit = self.engine.config.gate, self.limits.input_length
        return (limit,) if gate is not None and gate.drop_tail else static_lengths(limit)

    def _score(self, batches: Sequence[dict[str, np.ndarray]], size: int) -> Iterator[_Fields]:
        for found in self.engine.score_window(batches, size):
            yield scores_of_rows(result_arrays(found))

    def _predict(
        self, batches: Sequence[dict[str, np.ndarray]], numbers: Sequence[Sequence[int]], size: int
    ) -> Iterator[_Fields]:
        keys = [
            row_keys(self.seed, jnp.asarray(np.pad(own, (0, self.batch_size - len(own))), jnp.int32)) for own in numbers
        ]
        tokens = [batch["encoder_input_tokens"] for batch in batches]
        for found in self.engine.generate_window(tokens, self.limits.target_length, self.search, keys, size):
            yield predictions_of_rows(**result_arrays(found))


def result_arrays(found: Scores | Predictions) -> dict[str, np.ndarray]:
    """Returns the results of a batch on the host, by the names of their fields; those that there are."""
    return {name: np.asarray(values) for name, values in found._asdict().items() if values is not None}


def scores_of_rows(scores: dict[str, np.ndarray]) -> _Fields:
    """Yields what an answer says of each row of `Scores`, by the names of its fields; see `_finite_or_error`."""
    for row, score in enumerate(scores["score"]):
        yield _finite_or_error(score, {name: values[row].item() for name, values in scores.items()})


def predictions_of_rows(tokens: np.ndarray, num_tokens: np.ndarray, **others: np.ndarray) -> _Fields:
    """Yields what an answer says of each row of `Predictions`, given by the names of its fields."""
    for row, count in enumerate(num_tokens):
        ids = tokens[row, :count].tolist()
        fields = {"prediction": decode(ids).decode(errors="ignore"), "prediction_ids": ids}
        fields |= {name: values[row].item() for name, values in others.items()}
        yield _finite_or_error(others["score"][row] if count else np.float32(np.nan), fields)


def _finite_or_error(score: np.floating, fields: dict[str, Any]) -> dict[str, Any]:
    """What is added to a request: the fields or, where the model's numbers are not finite, nulls and the reason."""
    return fields if np.isfinite(score) else {**dict.fromkeys(fields), "error": NOT_FINITE}

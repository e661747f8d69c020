"""Requests in, answers out, batch by batch."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mrt5_jax.data.vocabulary import decode
from mrt5_jax.inference.decoding import Greedy, Search
from mrt5_jax.inference.engine import Engine
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

NOT_FINITE = "the model's numbers are not finite for this line"
"""The `error` of a line that has no answer."""

_Fields = Iterator[dict[str, Any]]
"""What is added to each request of a batch, in order."""

BATCHES_IN_WINDOW = 4
"""Batches whose requests are sorted by length together."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What to do with requests."""

    engine: Engine
    mode: InferMode
    limits: Limits
    batch_size: int
    search: Search = dataclasses.field(default_factory=Greedy)
    seed: int = 0
    """Of sampling; a request's sample follows from it and from the request's number in the file."""

    def answers(self, path: str | Path, num_done: int, name: str = "") -> Iterator[list[dict[str, Any]]]:
        """Yields the answers to the file's requests from number `num_done` on, in order, a window at a time.

        `name` is the file's, where `path` is a copy of it.

        An answer is the request's line with what was asked for added. Windows begin at the same requests whatever was
        done before, and batches are cut within windows: a run that goes on computes what it would have computed.
        """
        window = BATCHES_IN_WINDOW * self.batch_size
        start = num_done // window * window
        todo = islice(read_requests(path, self.mode, self.limits, name), start, None)
        while requests := list(islice(todo, window)):
            if start + len(requests) > num_done:
                yield self._answer(requests, start)[max(num_done - start, 0) :]
            start += len(requests)

    def _answer(self, requests: Sequence[Request], start: int) -> list[dict[str, Any]]:
        answers = [
            {name: value for name, value in request.fields.items() if (name, value) != ("error", NOT_FINITE)}
            for request in requests
        ]
        for indices, answer in self._started(requests, start):
            for index, fields in zip(indices, answer(), strict=True):
                answers[index] |= fields
        return answers

    def _started(self, requests: Sequence[Request], start: int) -> Iterator[tuple[list[int], Callable[[], _Fields]]]:
        """Yields the places of each batch's requests, and what gives its answers.

        That comes when the batch after it has been sent to the device as well.
        """
        ahead: tuple[list[int], Callable[[], _Fields]] | None = None
        for indices in cut_into_batches(requests, self.batch_size):
            rows = [requests[index] for index in indices]
            arrays = pad_requests(rows, self.batch_size, self._input_lengths, static_lengths(self.limits.target_length))
            if self.mode == "score":
                following = indices, self._score(arrays, len(indices))
            else:
                following = indices, self._predict(arrays, [start + index for index in indices])
            if ahead is not None:
                yield ahead
            ahead = following
        if ahead is not None:
            yield ahead

    @property
    def _input_lengths(self) -> Sequence[int]:
        """What inputs are padded to: one length alone where a model's pooling reads its pads, so that no row's answer
        depends on the rows beside it."""
        gate, limit = self.engine.config.gate, self.limits.input_length
        return (limit,) if gate is not None and gate.drop_tail else static_lengths(limit)

    def _score(self, arrays: dict[str, np.ndarray], num_rows: int) -> Callable[[], _Fields]:
        scored = self.engine.start_scoring(arrays)

        def answers() -> _Fields:
            scores = {name: np.asarray(values) for name, values in scored()._asdict().items()}
            for row in range(num_rows):
                found_here = {name: values[row].item() for name, values in scores.items()}
                yield _finite_or_error(scores["score"][row], found_here)

        return answers

    def _predict(self, arrays: dict[str, np.ndarray], numbers: Sequence[int]) -> Callable[[], _Fields]:
        of_rows = np.zeros(self.batch_size, np.int32)
        of_rows[: len(numbers)] = numbers
        tokens, keys = arrays["encoder_input_tokens"], row_keys(self.seed, jnp.asarray(of_rows))
        generated = self.engine.start_generating(tokens, self.limits.target_length, self.search, keys)

        def answers() -> _Fields:
            found = generated()
            tokens, counts = np.asarray(found.tokens), np.asarray(found.num_tokens)
            scores = np.where(counts > 0, np.asarray(found.score), np.nan)
            for row in range(len(numbers)):
                ids = tokens[row, : counts[row]].tolist()
                yield _finite_or_error(
                    scores[row], {"prediction": decode(ids).decode(errors="ignore"), "prediction_ids": ids}
                )

        return answers


def _finite_or_error(score: np.floating, fields: dict[str, Any]) -> dict[str, Any]:
    """What is added to a request: the fields or, where the model's numbers are not finite, nulls and the reason."""
    return fields if np.isfinite(score) else {**dict.fromkeys(fields), "error": NOT_FINITE}

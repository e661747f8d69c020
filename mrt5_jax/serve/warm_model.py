"""A model with every program compiled ahead: one for each endpoint and shape of batch."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from jaxtyping import Bool, Float

from mrt5_jax.api.loading import with_threshold
from mrt5_jax.api.model import Model
from mrt5_jax.data.vocabulary import EOS_ID, PAD_ID
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.inspection import make_inspector, pieces
from mrt5_jax.inference.answers import NOT_FINITE, predictions_of_rows, result_arrays, scores_of_rows
from mrt5_jax.inference.requests import Request, pad_requests
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.parameters import Params
from mrt5_jax.runs.files import as_path
from mrt5_jax.selection.deletions import DELETIONS
from mrt5_jax.selection.selectors import deletion_threshold, selector_rule

Endpoint = Literal["generate", "score", "deletions", "embeddings"]
ENDPOINTS: tuple[Endpoint, ...] = get_args(Endpoint)

_COUNTS = {"length": "num_input_tokens", "kept": "num_kept_tokens", "dropped": "num_dropped_tokens"}
_GENERATED = {"text": "prediction", "ids": "prediction_ids", "log_probability": "score", **_COUNTS}
_SCORED = {"log_probability": "score", "num_target_tokens": "num_target_tokens", **_COUNTS}
"""Field of an answer, as the front door calls it -> its name in a line of `mrt5 infer`."""

_FAR = 1e6
"""A shift of a gate's logits beyond which everything stays, or nothing: finite in any precision."""

_EXAMPLE = Request({}, np.array([EOS_ID], np.int32), np.array([EOS_ID], np.int32))


class BatchShape(NamedTuple):
    """What a program is compiled for."""

    endpoint: Endpoint
    rows: int
    length: int
    """Of the inputs, in ids."""


class Work(NamedTuple):
    """A row of a batch: a text, a pair, or a window of a text of which deletions are asked."""

    endpoint: Endpoint
    request: Request
    threshold: float | None = None
    """tau, in place of the model's."""

    @property
    def group(self) -> tuple[Endpoint, float | None]:
        """What the rows of a batch have in common: they share parameters, in which the threshold is."""
        return self.endpoint, None if self.endpoint == "deletions" else self.threshold


class NotFiniteError(Exception):
    """The model's numbers are not finite for a text; the message says so."""


class WarmModel:
    """Answers batches of static shapes. `compile` all `shapes` first: nothing compiles afterwards.

    Args:
        model: to answer with.
        most_rows: of a batch.

    Attributes:
        name: of the model, without its folder.
        width: of its hidden states.
        limits, cutting_limits: what inputs are refused by, or cut to.
        lengths: static lengths of inputs, rising.
        sizes: numbers of rows of a batch, rising.
        seconds: how long a batch of each shape takes that is compiled.
        no_deletions: why the model has no gate values to show; None where it has.

    Raises:
        UserError: `most_rows` is no number of rows.
    """

    def __init__(self, model: Model, most_rows: int) -> None:
        self.name = as_path(model.name).name
        self.model = dataclasses.replace(model, name="this model")  # messages go to whoever asks, who knows no paths
        self.width = model.config.emb_dim
        job = self.model.job("predict", batch_size=most_rows)
        self.limits = job.limits
        self.cutting_limits = job.limits._replace(long_inputs="truncate")
        self.lengths: Sequence[int] = job.input_lengths
        self.sizes = batch_sizes(most_rows)
        self.no_deletions = _reason(lambda: self.model.deletions(["a"]))
        self.seconds: dict[BatchShape, float] = {}
        self._programs: dict[BatchShape, Callable[..., Any]] = {}
        self._inspector = make_inspector(MrT5(model.config, model.execution))

    @property
    def shapes(self) -> list[BatchShape]:
        """All shapes of batches that requests can need."""
        endpoints: list[Endpoint] = [name for name in ENDPOINTS if name != "deletions" or self.no_deletions is None]
        return [BatchShape(*shape) for shape in itertools.product(endpoints, self.sizes, self.lengths)]

    def compile(self, shape: BatchShape) -> None:
        """Compiles what a shape needs whatever its rows keep, and runs it twice to see how long it takes."""
        batch = self._padded([_EXAMPLE], shape)
        tokens, engine = batch["encoder_input_tokens"], self.model.engine
        if shape.endpoint == "generate":
            self._programs[shape] = engine.compiled_generator(tokens, self.limits.target_length)
        elif shape.endpoint == "score":
            self._programs[shape] = engine.compiled_scorer(batch)
        elif shape.endpoint == "embeddings":
            self._programs[shape] = engine.compiled_encoder(tokens)
        else:
            self._programs[shape] = self._inspector
        for _ in range(2):
            start = time.perf_counter()
            self.answer(shape, [Work(shape.endpoint, _EXAMPLE)])
            self.seconds[shape] = min(self.seconds.get(shape, math.inf), time.perf_counter() - start)

    def static_length(self, work: Work) -> int:
        """Returns the shortest static length that holds the input."""
        return next(length for length in self.lengths if length >= len(work.request.input_ids))

    def check_threshold(self, endpoint: Endpoint, threshold: float) -> None:
        """Refuses a threshold that the model cannot be asked for.

        Raises:
            UserError: the model compares no gate values, none lie there, or it would have to be compiled anew.
        """
        config = with_threshold(self.model.config, threshold, self.model.name)
        assert config.gate is not None
        if endpoint == "deletions":
            return
        if DELETIONS[self.model.deletion].keep != "selected":
            raise UserError(
                f"threshold={threshold}: acts under hard deletion alone, not {self.model.deletion}: leave it out"
            )
        if selector_rule(config.gate).logit is None:
            raise UserError(
                f"threshold={threshold}: the gate values of {config.gate.kind!r} have no logits: leave it out"
            )

    def answer(self, shape: BatchShape, works: Sequence[Work]) -> list[Any]:
        """Computes the answers to the works of one group, at most as many as the shape has rows.

        Returns:
            of generate and score a dict, of deletions the `Piece`s of the window, of embeddings hidden states
            [kept embed] and positions [kept]; or a `NotFiniteError` in the place of any of them.
        """
        batch = self._padded([work.request for work in works], shape)
        program, tokens = self._programs[shape], batch["encoder_input_tokens"]
        if shape.endpoint == "deletions":
            selection = jax.device_get(program(self.model.params, tokens))
            rows = zip(works, tokens, selection.keep, selection.signals.key_bias, strict=False)
            return [_pieces(*row) for row in rows]
        params = self._params(works[0].threshold)
        if shape.endpoint == "embeddings":
            hidden, positions, mask = (np.asarray(array) for array in program(params, tokens))
            return [_encoding(hidden[row, mask[row]], positions[row, mask[row]]) for row in range(len(works))]
        if shape.endpoint == "score":
            return _renamed(scores_of_rows(result_arrays(program(params, batch))), _SCORED, len(works))
        return _renamed(predictions_of_rows(**result_arrays(program(params, tokens))), _GENERATED, len(works))

    def _padded(self, requests: Sequence[Request], shape: BatchShape) -> dict[str, np.ndarray]:
        return pad_requests(requests, shape.rows, (shape.length,), (self.limits.target_length,))

    def _params(self, threshold: float | None) -> Params:
        """The parameters with which the model keeps what it would keep at another threshold.

        A position stays where z + c > Z(tau), Z(tau) being the logit whose gate value is tau. The compiled programs
        hold the model's own threshold; so the bias c moves instead, by Z(own tau) - Z(tau). Under hard deletion nothing
        else reads gate values but their order, which stays.
        """
        gate, params = self.model.config.gate, self.model.params
        if threshold is None or gate is None:
            return params
        logit = selector_rule(gate).logit
        assert logit is not None, "check_threshold has refused it"
        bias = np.asarray(params["encoder"]["gate"]["bias"])
        shift = np.clip(logit(gate, deletion_threshold(gate)) - logit(gate, threshold), -_FAR, _FAR)
        there = jax.device_put((bias + shift).astype(bias.dtype))  # jnp.asarray would compile a copy of it
        moved = {**params["encoder"]["gate"], "bias": there}
        return {**params, "encoder": {**params["encoder"], "gate": moved}}


def batch_sizes(most: int) -> tuple[int, ...]:
    """Returns the numbers of rows that batches are compiled for: `most`, a quarter of it, and so on down to one."""
    sizes = [most]
    while sizes[0] > 1:
        sizes.insert(0, -(-sizes[0] // 4))
    return tuple(sizes)


def keep_above(
    values: Float[np.ndarray, " length"], real: Bool[np.ndarray, " length"], threshold: float
) -> Bool[np.ndarray, " length"]:
    """Returns what hard deletion keeps of a row at a threshold: never nothing, as `compaction.plan.never_empty`."""
    keep = (values > threshold) & real
    if not keep.any():
        keep[np.argmax(np.where(real, values, -np.inf))] = True
    return keep


def _pieces(work: Work, ids: np.ndarray, keep: np.ndarray, values: np.ndarray) -> Any:
    real = ids != PAD_ID
    if not np.isfinite(values[real]).all():
        return _not_finite()
    return pieces(ids, keep if work.threshold is None else keep_above(values, real, work.threshold), values)


def _encoding(hidden: np.ndarray, positions: np.ndarray) -> Any:
    return (hidden, positions) if np.isfinite(hidden).all() else _not_finite()


def _renamed(rows: Iterator[Mapping[str, Any]], names: Mapping[str, str], count: int) -> list[Any]:
    return [
        _not_finite() if "error" in row else {name: row[given] for name, given in names.items()}
        for row in itertools.islice(rows, count)
    ]


def _not_finite() -> NotFiniteError:
    return NotFiniteError(NOT_FINITE.replace("this line", "this text"))


def _reason(check: Callable[[], Any]) -> str | None:
    """What a check refuses; None where it passes."""
    try:
        check()
    except UserError as error:
        return str(error)
    return None

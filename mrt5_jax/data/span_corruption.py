"""Span corruption (Raffel et al. 2020, section 3.1.4, with ByT5's lengths).

A chunk of raw ids is split at random into as many kept as corrupted spans, a kept one first. In the inputs each
corrupted span is replaced by a sentinel; the targets are the sentinels, each followed by what it replaced.
"""

from typing import NamedTuple

import tensorflow as tf

from mrt5_jax.data import vocabulary
from mrt5_jax.data.sources import SEED_FEATURE, Example, map_examples
from mrt5_jax.errors import UserError


class Lengths(NamedTuple):
    """Of a corrupted chunk, in ids; inputs and targets with their EOS."""

    raw: int
    noise: int
    spans: int
    inputs: int
    targets: int


class Corruption(NamedTuple):
    """How much is corrupted, in spans of which mean length, and how the spans are named."""

    noise_density: float = 0.15
    mean_span_length: float = 20.0
    sentinels: vocabulary.Sentinels = "bytes"

    def lengths(self, raw: int) -> Lengths:
        """Of a chunk of `raw` ids, at least 2."""
        noise = min(max(round(raw * self.noise_density), 1), raw - 1)
        spans = min(max(round(noise / self.mean_span_length), 1), noise, raw - noise)
        return Lengths(raw, noise, spans, inputs=raw - noise + spans + 1, targets=noise + spans + 1)

    def lengths_for_inputs(self, input_length: int) -> Lengths:
        """Of the longest chunk whose inputs fit into `input_length`; 1024 gives 1193 raw ids and 189 targets.

        Raises:
            UserError: the input is too short to corrupt, or so long that the sentinels run out.
        """
        self._check_parameters()
        least = self._least_input_length()
        if input_length < least:
            raise UserError(
                f"input_length {input_length} is too short for span corruption: with noise_density "
                f"{self.noise_density:g} it takes at least {least}"
            )
        found = self._longest_chunk(input_length)
        limit = vocabulary.MAX_SENTINELS[self.sentinels]
        if found.spans > limit:
            remedy = ", or sentinels='extra_ids'" if self.sentinels == "bytes" else ""
            raise UserError(
                f"input_length {input_length} takes {found.spans} sentinels, but only {limit} can be told from text: "
                f"use an input_length of at most {self._longest_inputs(limit)}{remedy}"
            )
        return found

    def _check_parameters(self) -> None:
        if not 0 < self.noise_density < 1:
            raise UserError(f"noise_density {self.noise_density:g} is not between 0 and 1")
        if self.mean_span_length < 1:
            raise UserError(f"mean_span_length {self.mean_span_length:g} is less than 1")

    def _least_input_length(self) -> int:
        """Of the shortest chunk that has both a corrupted and a kept id without bending the density."""
        raw = 2
        while not 1 <= round(raw * self.noise_density) < raw:
            raw += 1
        return self.lengths(raw).inputs

    def _longest_chunk(self, input_length: int) -> Lengths:
        raw = 2
        step = max(input_length, 2)
        while step:  # by halving steps, since the length of the inputs never falls as raw ids are added
            while self.lengths(raw + step).inputs <= input_length:
                raw += step
            step //= 2
        return self.lengths(raw)

    def _longest_inputs(self, max_spans: int) -> int:
        raw = 2
        while self.lengths(raw + 1).spans <= max_spans:
            raw += 1
        return self.lengths(raw).inputs


def corrupt(dataset: tf.data.Dataset, corruption: Corruption, num_sentinels: int) -> tf.data.Dataset:
    """Turns `ids` (int32 [raw], raw >= 2) into `inputs`, `targets` (without EOS) and `replaced_bytes`.

    Bytes whose ids serve as sentinels become <unk>; `replaced_bytes` (int32) counts them. UTF-8 has none.

    Args:
        num_sentinels: how many ids are set apart, the same for all examples, so that shorter chunks read alike.
    """
    reserved = vocabulary.sentinel_ids(num_sentinels, corruption.sentinels)

    def corrupt_one(example: Example) -> Example:
        ids = example["ids"]
        clash = (ids >= min(reserved)) & (ids <= max(reserved))
        ids = tf.where(clash, vocabulary.UNK_ID, ids)
        spans = _draw_spans(tf.size(ids), corruption, example[SEED_FEATURE])
        sentinels = tf.constant(list(reserved), tf.int32)
        rest = {key: value for key, value in example.items() if key != "ids"}
        return {
            **rest,
            "inputs": _replace(ids, spans.corrupted, spans.starts, sentinels),
            "targets": _replace(ids, tf.logical_not(spans.corrupted), spans.starts, sentinels),
            "replaced_bytes": tf.reduce_sum(tf.cast(clash, tf.int32)),
        }

    return map_examples(dataset, corrupt_one)


class _Spans(NamedTuple):
    corrupted: tf.Tensor
    """bool [raw]"""
    starts: tf.Tensor
    """bool [raw]: the first id of every span, kept or corrupted."""


def _draw_spans(raw: tf.Tensor, corruption: Corruption, seed: tf.Tensor) -> _Spans:
    noise, spans = _noise_and_spans(raw, corruption)
    seeds = tf.random.split(seed, 2)
    corrupted = _random_composition(noise, spans, seeds[0])
    kept = _random_composition(raw - noise, spans, seeds[1])
    ends = tf.cumsum(tf.reshape(tf.stack([kept, corrupted], axis=1), [-1]))
    starts = tf.scatter_nd(ends[:-1, None], tf.ones_like(ends[:-1]), tf.reshape(raw, [1]))
    return _Spans(corrupted=tf.cumsum(starts) % 2 == 1, starts=tf.concat([[True], starts[1:] > 0], axis=0))


def _noise_and_spans(raw: tf.Tensor, corruption: Corruption) -> tuple[tf.Tensor, tf.Tensor]:
    """`Corruption.lengths` for a length known only when the example is read."""
    density, mean = corruption.noise_density, corruption.mean_span_length
    noise = tf.clip_by_value(tf.cast(tf.round(tf.cast(raw, tf.float64) * density), tf.int32), 1, raw - 1)
    spans = tf.maximum(tf.cast(tf.round(tf.cast(noise, tf.float64) / mean), tf.int32), 1)
    return noise, tf.minimum(spans, tf.minimum(noise, raw - noise))


def _random_composition(total: tf.Tensor, parts: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """int32 [parts] of positive lengths that sum to `total`, all such splits equally likely."""
    places = tf.random.stateless_uniform(tf.reshape(total - 1, [1]), seed)
    cuts = tf.sort(tf.math.top_k(places, parts - 1, sorted=False).indices) + 1
    edges = tf.concat([[0], cuts, tf.reshape(total, [1])], axis=0)
    return edges[1:] - edges[:-1]


def _replace(ids: tf.Tensor, hidden: tf.Tensor, starts: tf.Tensor, sentinels: tf.Tensor) -> tf.Tensor:
    """`ids` with every hidden span replaced by the next sentinel."""
    span_starts = hidden & starts
    number = tf.cumsum(tf.cast(span_starts, tf.int32)) - 1
    marked = tf.where(span_starts, tf.gather(sentinels, tf.maximum(number, 0)), ids)
    return tf.boolean_mask(marked, tf.logical_not(hidden) | span_starts)

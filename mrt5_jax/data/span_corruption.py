"""Span corruption (Raffel et al. 2020, section 3.1.4, with ByT5's lengths).

A chunk of raw ids is split at random into as many kept as corrupted spans, a kept one first. In the inputs each
corrupted span is replaced by a sentinel; the targets are the sentinels, each followed by what it replaced.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from mrt5_jax.data import vocabulary
from mrt5_jax.data.sources import SEED_FEATURE, Example
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
        """Computes the lengths for a chunk of `raw` ids, at least 2."""
        noise = min(max(round(raw * self.noise_density), 1), raw - 1)
        spans = min(max(round(noise / self.mean_span_length), 1), noise, raw - noise)
        return Lengths(raw, noise, spans, inputs=raw - noise + spans + 1, targets=noise + spans + 1)

    def lengths_for_inputs(self, input_length: int) -> Lengths:
        """Computes the lengths for the longest chunk whose inputs fit into `input_length`.

        An `input_length` of 1024 gives 1193 raw ids and 189 targets.

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


class Corrupted(NamedTuple):
    """Without EOS."""

    inputs: Int[np.ndarray, " length"]
    targets: Int[np.ndarray, " target"]


def corrupt(example: Example, corruption: Corruption, num_sentinels: int) -> Example:
    """Turns `ids` (int32 [raw], raw >= 2) into `inputs`, `targets` (without EOS) and `replaced_bytes`.

    Bytes whose ids serve as sentinels become <unk>; `replaced_bytes` counts them. UTF-8 has none.

    Args:
        num_sentinels: how many ids are set apart, the same for all examples, so that shorter chunks read alike.
    """
    sentinels = _sentinels(num_sentinels, corruption.sentinels)
    ids = example["ids"]
    lowest, highest = sorted((sentinels[0], sentinels[-1]))
    clash = (ids >= lowest) & (ids <= highest)
    replaced = int(np.count_nonzero(clash))
    if replaced:
        ids = np.where(clash, np.int32(vocabulary.UNK_ID), ids)
    inputs, targets = corrupt_chunk(ids, example[SEED_FEATURE], corruption, sentinels)
    rest = {key: value for key, value in example.items() if key != "ids"}
    return {**rest, "inputs": inputs, "targets": targets, "replaced_bytes": replaced}


@functools.cache
def _sentinels(count: int, kind: vocabulary.Sentinels) -> Int[np.ndarray, " spans"]:
    return np.array(vocabulary.sentinel_ids(count, kind), np.int32)


def corrupt_chunk(
    ids: Int[np.ndarray, " raw"],
    seed: Int[np.ndarray, "2"],
    corruption: Corruption,
    sentinels: Int[np.ndarray, " spans"],
) -> Corrupted:
    """Corrupts a chunk of at least two ids, its spans drawn by `seed` alone."""
    lengths = corruption.lengths(len(ids))
    generator = np.random.Generator(np.random.Philox(key=seed.astype(np.uint64)))
    corrupted = _random_composition(lengths.noise, lengths.spans, generator)
    kept = _random_composition(lengths.raw - lengths.noise, lengths.spans, generator)
    runs = np.empty(2 * lengths.spans, np.int64)
    runs[0::2], runs[1::2] = kept, corrupted
    ends = runs.cumsum()
    corrupted_starts, kept_starts = ends[0::2], ends[1::2] - corrupted - kept
    is_kept = np.repeat(np.arange(2 * lengths.spans) % 2 == 0, runs)
    return Corrupted(
        _replace(ids, is_kept, corrupted_starts, sentinels[: lengths.spans]),
        _replace(ids, ~is_kept, kept_starts, sentinels[: lengths.spans]),
    )


def _random_composition(total: int, parts: int, generator: np.random.Generator) -> np.ndarray:
    """`parts` positive lengths that sum to `total`, all such splits equally likely."""
    ends = np.empty(parts + 1, np.int64)
    ends[0], ends[-1] = 0, total
    ends[1:-1] = np.sort(generator.choice(total - 1, parts - 1, replace=False, shuffle=False)) + 1
    return ends[1:] - ends[:-1]  # np.diff would take several times as long for so few


def _replace(ids: np.ndarray, shown: np.ndarray, hidden_starts: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
    """`ids` with every hidden span replaced by the next sentinel."""
    marked, stay = ids.copy(), shown.copy()
    marked[hidden_starts], stay[hidden_starts] = sentinels, True
    return marked[stay]

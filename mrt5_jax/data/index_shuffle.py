"""An order of its own for every epoch: a block cipher permutes the indices, so an order takes no memory.

The numbers are those of TensorFlow's `tf.random.experimental.index_shuffle`, in which runs of earlier versions were
ordered: Simon (Beaulieu et al. 2013) with four rounds over blocks of at least 16 bits, and indices beyond the last one
enciphered again until they fall within.
"""

import functools
import math

import numpy as np
from jaxtyping import Int, UInt64

_CIPHER = 498247692
"""First word of every key; a key of zeros would change nothing."""

_ROUND_CONSTANT, _ROUND_BIT = 0xFFFFFFFC, 1
_LEAST_BLOCK = 16  # bits


def shuffled_indices(
    indices: Int[np.ndarray, " block"], epochs: Int[np.ndarray, " block"], *, seed: int, size: int
) -> Int[np.ndarray, " block"]:
    """Returns where the permutation of 0..size - 1 of (seed, epoch) takes each index; int64 [block].

    Args:
        indices: from 0 to size - 1.
        epochs: of each index.
    """
    if size == 1:
        return np.zeros(len(indices), np.int64)
    bits = math.ceil(math.log2(size - 1))
    word = max(bits + bits % 2, _LEAST_BLOCK) // 2
    if 2 * word > _LEAST_BLOCK:  # a few encipherments reach every index
        return _until_within(indices.astype(np.uint64), _round_keys(seed, epochs.astype(np.uint64), word), word, size)
    found = np.empty(len(indices), np.int64)
    for epoch in np.unique(epochs):
        own = epochs == epoch
        found[own] = _small_permutation(seed % 256, int(epoch) % 256, size)[indices[own]]
    return found


def _until_within(
    values: UInt64[np.ndarray, " block"], keys: list[UInt64[np.ndarray, " block"]], word: int, size: int
) -> Int[np.ndarray, " block"]:
    found = _encipher(values, keys, word)
    while (beyond := np.flatnonzero(found >= size)).size:
        found[beyond] = _encipher(found[beyond], [key[beyond] for key in keys], word)
    return found.astype(np.int64)


@functools.lru_cache(maxsize=64)
def _small_permutation(seed: int, epoch: int, size: int) -> Int[np.ndarray, " size"]:
    """A whole permutation of at most 65,537 indices: enciphering again may be called for tens of thousands of times.

    Instead all 65,536 values of the block are enciphered once, and the way from each one is doubled until those from
    indices end within the indices.
    """
    values = np.arange(1 << _LEAST_BLOCK, dtype=np.uint64)
    keys = _round_keys(seed, np.full(len(values), epoch, np.uint64), _LEAST_BLOCK // 2)
    step = _encipher(values, keys, _LEAST_BLOCK // 2).astype(np.int64)
    end = np.where(np.arange(len(step)) < size, np.arange(len(step)), step)
    first = step[np.arange(size) % len(step)]
    while (end[first] >= size).any():
        end = end[end]
    return end[first]


def _round_keys(seed: int, epochs: UInt64[np.ndarray, " block"], word: int) -> list[UInt64[np.ndarray, " block"]]:
    mask = np.uint64((1 << word) - 1)
    first, second = (np.full(len(epochs), part & 0xFFFFFFFF, np.uint64) & mask for part in (_CIPHER, seed))
    third = epochs & np.uint64(0xFFFFFFFF) & mask
    constant = np.uint64((_ROUND_CONSTANT ^ _ROUND_BIT) & int(mask))
    fourth = constant ^ first ^ _rotate_left(third, word - 3, word) ^ _rotate_left(third, word - 4, word)
    return [first, second, third, fourth]


def _encipher(
    values: UInt64[np.ndarray, " block"], keys: list[UInt64[np.ndarray, " block"]], word: int
) -> UInt64[np.ndarray, " block"]:
    mask = np.uint64((1 << word) - 1)
    left, right = (values >> np.uint64(word)) & mask, values & mask
    for first, second in (keys[:2], keys[2:]):
        left = left ^ _mix(right, word) ^ first
        right = right ^ _mix(left, word) ^ second
    return (left << np.uint64(word)) | right


def _mix(value: UInt64[np.ndarray, " block"], word: int) -> UInt64[np.ndarray, " block"]:
    """Simon's round function."""
    return (_rotate_left(value, 1, word) & _rotate_left(value, 8, word)) ^ _rotate_left(value, 2, word)


def _rotate_left(value: UInt64[np.ndarray, " block"], places: int, word: int) -> UInt64[np.ndarray, " block"]:
    mask = np.uint64((1 << word) - 1)
    return ((value << np.uint64(places)) | (value >> np.uint64(word - places))) & mask

"""Random numbers from a seed alone, many seeds at a time: the numbers of `tf.random`'s stateless functions, in NumPy.

Philox 4x32 with ten rounds (Salmon et al. 2011), keyed and cut into numbers as TensorFlow does on a CPU: so the strings
of diagnostic tasks are those that runs of earlier versions drew. Integers and uniform numbers are equal bit for bit;
a normal number may differ in its last bit, as it does between C libraries.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt32

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint32(0x9E3779B9), np.uint32(0xBB67AE85))
_SEED_KEY = (0x3EC8F720, 0x02461E29)
_ROUNDS = 10


class _Generator(NamedTuple):
    """Of each seed: where the stream of random words begins."""

    key: UInt32[np.ndarray, "seeds 2"]
    counter: UInt32[np.ndarray, "seeds 4"]


def split_seeds(seeds: Int64[np.ndarray, "seeds 2"], count: int) -> Int64[np.ndarray, "count seeds 2"]:
    """Returns `count` independent seeds of each seed, as `tf.random.split`."""
    words = _words(seeds, 4 * count).astype(np.uint64)
    numbers = (words[:, 0::2] | words[:, 1::2] << np.uint64(32)).view(np.int64)
    return np.moveaxis(numbers.reshape(len(seeds), count, 2), 1, 0)


def uniform_integers(
    seeds: Int64[np.ndarray, "seeds 2"], count: int, low: int, high: int
) -> Int32[np.ndarray, "seeds count"]:
    """Draws integers from low to high - 1 of each seed, as `tf.random.stateless_uniform` of int32."""
    return (_words(seeds, count) % np.uint32(high - low)).astype(np.int32) + np.int32(low)


def uniform_floats(seeds: Int64[np.ndarray, "seeds 2"], count: int) -> Float32[np.ndarray, "seeds count"]:
    """Draws numbers from 0 up to 1 of each seed, as `tf.random.stateless_uniform` of float32."""
    return _to_floats(_words(seeds, count))


def normal_floats(seeds: Int64[np.ndarray, "seeds 2"]) -> Float32[np.ndarray, " seeds"]:
    """Draws a standard normal number of each seed, as `tf.random.stateless_normal` of float32 (Box and Muller 1958)."""
    first, second = _to_floats(_words(seeds, 2)).T
    # Logarithm and sine as a good C library rounds them: in float64, and once.
    logarithm = np.log(np.maximum(first, np.float32(1e-7)).astype(np.float64)).astype(np.float32)
    angle = (2.0 * np.pi * second.astype(np.float64)).astype(np.float32)
    return np.sin(angle.astype(np.float64)).astype(np.float32) * np.sqrt(np.float32(-2.0) * logarithm)


def _to_floats(words: UInt32[np.ndarray, "seeds count"]) -> Float32[np.ndarray, "seeds count"]:
    return ((words & np.uint32(0x7FFFFF)) | np.uint32(127 << 23)).view(np.float32) - np.float32(1.0)


def _words(seeds: Int64[np.ndarray, "seeds 2"], count: int) -> UInt32[np.ndarray, "seeds count"]:
    """The first `count` random words of each seed."""
    generator = _generators(seeds)
    blocks = -(-count // 4)
    counters = np.repeat(generator.counter[:, None], blocks, axis=1)
    counters[:, :, 0] = np.arange(blocks, dtype=np.uint32)
    return _philox(counters, generator.key[:, None]).reshape(len(seeds), 4 * blocks)[:, :count]


def _generators(seeds: Int64[np.ndarray, "seeds 2"]) -> _Generator:
    """TensorFlow enciphers a seed once: half of what comes out is the key, half the upper part of the counter."""
    counter = np.ascontiguousarray(seeds, np.int64).view(np.uint32).reshape(len(seeds), 4)
    mixed = _philox(counter, np.array(_SEED_KEY, np.uint32)[None])
    counters = np.concatenate([np.zeros_like(mixed[:, :2]), mixed[:, 2:]], axis=1)
    return _Generator(mixed[:, :2], counters)


def _philox(
    counters: UInt32[np.ndarray, "*block 4"], keys: UInt32[np.ndarray, "*key 2"]
) -> UInt32[np.ndarray, "*block 4"]:
    c0, c1, c2, c3 = np.moveaxis(counters, -1, 0)
    k0, k1 = np.moveaxis(keys, -1, 0)
    for _ in range(_ROUNDS):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        upper = [(product >> np.uint64(32)).astype(np.uint32) for product in (second, first)]
        c0, c2 = upper[0] ^ c1 ^ k0, upper[1] ^ c3 ^ k1
        c1, c3 = second.astype(np.uint32), first.astype(np.uint32)
        k0, k1 = k0 + _KEY_STEPS[0], k1 + _KEY_STEPS[1]
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1)

"""Whether arrays read back are those that were written: names, shapes, types and checksums.

Orbax casts to whatever type is asked for, and restores a file with a flipped bit, both without a word.

A checkpoint names the rule of its checksums; without a name it is rule 1, of versions before rules had numbers.

What lies on devices is read there, all of it by one program. NumPy arrays, which are weights on their way from another
format, are read in blocks where they lie: a device's copy of them would take the memory of a second model.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt32

from mrt5_jax.errors import UserError
from mrt5_jax.model.parameters import path_name
from mrt5_jax.runs.files import FilePath

_ONCE_NARROW = ("rest/controller/", "rest/monitor/")
_BLOCK = 1 << 20
"""Numbers of a NumPy array that are read at once."""


def check_same_arrays(saved: dict[str, Any], wanted: dict[str, Any], place: FilePath) -> None:
    """Compares names, shapes and types, before anything is read.

    Args:
        saved: `describe_arrays` of what was saved; more items than are wanted are no difference.
        wanted: item -> tree of arrays or ShapeDtypeStructs.
        place: of the checkpoint, for the message.

    Raises:
        UserError: naming an array that differs, and how many do.
    """
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
    there = {name for name in saved if name.split("/")[0] in wanted}
    problems = [f"{name} is missing" for name in leaves.keys() - there]
    problems += [f"{name} has no place in this run" for name in there - leaves.keys()]
    for name in leaves.keys() & there:
        leaf, shape, dtype = leaves[name], saved[name]["shape"], saved[name]["dtype"]
        if list(leaf.shape) != shape:
            problems.append(f"{name} has shape {shape}, not {list(leaf.shape)}")
        elif str(leaf.dtype) != dtype:
            problems.append(f"{name} is {dtype}, not {leaf.dtype}")
        elif jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
            problems.append(f"{name} is {dtype}, which needs JAX_ENABLE_X64=1")
    if problems:
        more = f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else ""
        raise UserError(f"{place} is of another model or optimizer: {min(problems)}{more}")


def as_saved(wanted: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """Returns `wanted` with the controller's and the monitor's numbers in float32 where they were saved so.

    Runs in float64 had them in float32 once; their checkpoints are read as they are, to be widened then.
    """

    def narrowed(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = path_name(path)
        before = saved.get(name, {}).get("dtype")
        if name.startswith(_ONCE_NARROW) and (str(leaf.dtype), before) == ("float64", "float32"):
            return jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=leaf.sharding)
        return leaf

    return jax.tree_util.tree_map_with_path(narrowed, wanted)


CHECKSUM_RULE = 2
"""Of what is saved now."""


def describe_arrays(items: dict[str, Any], rule: int = CHECKSUM_RULE) -> dict[str, Any]:
    """Describes every array by name ("params/encoder/gate/kernel"): shape, type and checksum.

    Args:
        items: item -> tree of arrays.
        rule: of the checksums. 1: sums of the numbers' bits, which do not see their order, nor the upper half of eight
            bytes. 2: sums of words of up to 32 bits, each mixed with its place in the array.
    """
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(items)}
    on_host = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, np.ndarray) and rule == CHECKSUM_RULE}
    on_device = {name: leaf for name, leaf in leaves.items() if name not in on_host}
    checksums = {name: _checksum_on_host(leaf) for name, leaf in on_host.items()}
    if on_device:
        found = np.asarray(_checksums(list(on_device.values()), rule))
        checksums |= {name: int(checksum) for name, checksum in zip(on_device, found, strict=True)}
    return {
        name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "checksum": checksums[name]}
        for name, leaf in leaves.items()
    }


def _checksum_on_host(array: np.ndarray) -> int:
    """Computes rule 2 of a NumPy array."""
    words = np.ascontiguousarray(array).reshape(-1).view(f"u{min(array.dtype.itemsize, 4)}")
    total = 0
    for number, block in enumerate(_blocks(words)):
        places = np.arange(number * _BLOCK, number * _BLOCK + block.size, dtype=np.uint64).astype(np.uint32)
        mixed = _mix(block.astype(np.uint32) ^ _mix(places + np.uint32(0x9E3779B9)))
        total += int(np.sum(mixed, dtype=np.uint64))
    return total % 2**32


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the numbers of an array in order, so many at a time; nothing is copied that is contiguous."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))


@partial(jax.jit, static_argnames="rule")
def _checksums(arrays: list[Array], rule: int) -> UInt32[Array, " arrays"]:
    """Sums modulo 2^32 by one of the rules: exact, and the same however an array is sharded."""
    word_of = {1: _word, 2: _word_in_its_place}[rule]
    return jnp.stack([jnp.sum(word_of(array), dtype=jnp.uint32) for array in arrays])


def _word(array: Array) -> Array:
    """The numbers' bits as unsigned integers; eight bytes as two words, along a last axis."""
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint8)
    return jax.lax.bitcast_convert_type(
        array, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[array.dtype.itemsize]
    )


def _word_in_its_place(array: Array) -> UInt32[Array, "..."]:
    """Every word, mixed with its number in the array (row by row, modulo 2^32) so that all bits of both change it."""
    words = _word(array).astype(jnp.uint32)
    number, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        along = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        number, stride = number + along * jnp.uint32(stride % 2**32), stride * words.shape[axis]
    # MurmurHash3's finalizer, between the number and the word and after the word.
    return _mix(words ^ _mix(number + jnp.uint32(0x9E3779B9)))


def _mix(words: Any) -> Any:
    """Mixes the bits of each word; `words` are UInt32[Array, "..."] or UInt32[np.ndarray, "..."]."""
    words = (words ^ (words >> 16)) * np.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * np.uint32(0xC2B2AE35)
    return words ^ (words >> 16)


def not_finite(items: dict[str, Any]) -> str:
    """Names the first array that holds NaN or an infinity, and says how many do; empty where none does."""
    leaves = {
        path_name(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(items)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    on_host = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, np.ndarray)}
    on_device = {name: leaf for name, leaf in leaves.items() if name not in on_host}
    finite = {name: all(np.isfinite(block).all() for block in _blocks(leaf)) for name, leaf in on_host.items()}
    if on_device:
        finite |= dict(zip(on_device, np.asarray(_all_finite(list(on_device.values()))), strict=True))
    bad = [name for name in leaves if not finite[name]]
    more = f" (nor are {len(bad) - 1} more)" if len(bad) > 1 else ""
    return f"{bad[0]} is not finite{more}" if bad else ""


@jax.jit
def _all_finite(arrays: list[Array]) -> Bool[Array, " arrays"]:
    return jnp.stack([jnp.all(jnp.isfinite(array)) for array in arrays])

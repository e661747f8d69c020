"""Whether arrays read back are those that were written: names, shapes, types and checksums.

Orbax casts to whatever type is asked for, and restores a file with a flipped bit, both without a word.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from mrt5_jax.errors import UserError


def check_same_arrays(saved: dict[str, Any], wanted: dict[str, Any], place: Path) -> None:
    """Compares names, shapes and types, before anything is read.

    Args:
        saved: `describe_arrays` of what was saved; more items than are wanted are no difference.
        wanted: item -> tree of arrays or ShapeDtypeStructs.
        place: of the checkpoint, for the message.

    Raises:
        UserError: naming an array that differs, and how many do.
    """
    leaves = {array_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
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


def describe_arrays(items: dict[str, Any]) -> dict[str, Any]:
    """Shape, type and checksum of every array, by name ("params/encoder/gate/kernel")."""
    leaves = jax.tree_util.tree_leaves_with_path(items)
    checksums = np.asarray(_checksums([leaf for _, leaf in leaves]))
    return {
        array_name(path): {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "checksum": int(checksum)}
        for (path, leaf), checksum in zip(leaves, checksums, strict=True)
    }


@jax.jit
def _checksums(arrays: list[Array]) -> UInt32[Array, " arrays"]:
    """Sums of the arrays' bits as unsigned integers, modulo 2^32: exact, and the same however an array is sharded."""

    def checksum(array: Array) -> UInt32[Array, ""]:
        if array.dtype == jnp.bool_:
            return jnp.sum(array, dtype=jnp.uint32)
        word = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[array.dtype.itemsize]
        return jnp.sum(jax.lax.bitcast_convert_type(array, word), dtype=jnp.uint32)

    return jnp.stack([checksum(array) for array in arrays])


def array_name(path: tuple) -> str:
    """A leaf's place in its tree, as "params/encoder/gate/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")

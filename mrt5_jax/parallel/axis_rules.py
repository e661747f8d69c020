"""Which mesh axis each logical axis of an array is spread over: rules as in T5X, which a run may replace one by one."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from mrt5_jax.config import MeshConfig
from mrt5_jax.errors import UserError

DATA = "data"
MESH_AXES = (DATA, "fsdp", "tensor")
BATCH_AXES = (DATA, "fsdp")
"""The mesh axes over which rows of a batch are spread."""


class RowShards(NamedTuple):
    """How many parts the rows of a batch are spread over, along each of BATCH_AXES."""

    data: int = 1
    fsdp: int = 1

    @property
    def count(self) -> int:
        """All of them."""
        return self.data * self.fsdp


ONE_SHARD = RowShards()

AxisRules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

LOGICAL_AXIS_RULES: AxisRules = (
    ("batch", BATCH_AXES),
    ("vocab", "tensor"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("joined_kv", "tensor"),
    ("embed", "fsdp"),
    ("layers", None),
    ("length", None),
    ("slots", None),
    ("target", None),
    ("head_dim", None),
    ("relpos_buckets", None),
    ("gate", None),
    ("window", None),
)
"""Logical axis -> mesh axes. In an array, the first rule gets a mesh axis that several could use: activations
[batch length embed] are spread over fsdp by rows, parameters [embed mlp] by embed."""


def axis_rules(config: MeshConfig) -> AxisRules:
    """Returns `config.rules` and, of LOGICAL_AXIS_RULES, those that they do not replace.

    Raises:
        UserError: a rule names an axis that is not there or one axis twice, or spreads the batch, which `put_batch`
            does, otherwise.
    """
    known = [name for name, _ in LOGICAL_AXIS_RULES if name != "batch"]
    ours = []
    for name, written in config.rules:
        axes = tuple(written.split("+")) if written else ()
        if name not in known or not set(axes) <= set(MESH_AXES) or len(set(axes)) < len(axes):
            raise UserError(
                f"config.MeshConfig.rules: ({name!r}, {written!r}) should be one of {', '.join(known)}, and different "
                f"mesh axes joined by + out of {', '.join(MESH_AXES)}, or '' for none"
            )
        ours.append((name, axes[0] if len(axes) == 1 else axes or None))
    replaced = {name for name, _ in ours}
    return (*ours, *(rule for rule in LOGICAL_AXIS_RULES if rule[0] not in replaced))


@contextlib.contextmanager
def within_data_axis() -> Iterator[None]:
    """Lays activations out as rows at one place along the data axis, over which a caller maps."""
    with nn.logical_axis_rules((("batch", "fsdp"), *nn.get_logical_axis_rules())):
        yield


def constrain_leading_axes(array: Array, *axes: str | tuple[str, ...]) -> Array:
    """Shards the leading dimensions over these mesh axes; leaves the others to the compiler."""
    free = [PartitionSpec.UNCONSTRAINED] * (array.ndim - len(axes))
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*axes, *free))

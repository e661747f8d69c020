"""Where parameters lie on the mesh, by the logical names of their axes."""

import logging
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.spmd import logical_to_mesh_axes
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.parameters import Params, path_name
from mrt5_jax.parallel.axis_rules import LOGICAL_AXIS_RULES
from mrt5_jax.parallel.mesh import replicated

_log = logging.getLogger(__name__)


def param_shardings(boxed_params: Any, mesh: Mesh) -> Any:
    """Returns shardings of parameters by the logical names they are boxed in, in the unboxed tree's structure.

    By the rules of `on_mesh`, where one is open.

    A dimension that its mesh axes do not divide is replicated, with a logged warning. Parameters without names are
    replicated.

    Args:
        boxed_params: arrays or ShapeDtypeStructs, boxed by `flax.linen.with_logical_partitioning`.
        mesh: the mesh.

    Raises:
        ValueError: a logical name that has no rule.
    """
    rules = nn.get_logical_axis_rules() or LOGICAL_AXIS_RULES
    known = {name for name, _ in rules}

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        if not isinstance(leaf, nn.Partitioned):
            return replicated(mesh)
        if unknown := {name for name in leaf.names if name is not None} - known:
            raise ValueError(f"{jax.tree_util.keystr(path)}: no rule for the logical axes {sorted(unknown)}")
        wanted = tuple(logical_to_mesh_axes(leaf.names, rules) or ())
        sizes = leaf.value.shape
        spec = [axes if _divides(axes, size, mesh) else None for axes, size in zip(wanted, sizes, strict=True)]
        if tuple(spec) != wanted:
            _log.warning(
                "%s %s: mesh %s does not divide it as %s; replicated along that axis",
                path_name(path), sizes, dict(mesh.shape), wanted,
            )  # fmt: skip
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(
        sharding, boxed_params, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned)
    )


def unbox(tree: Any) -> Any:
    """Takes the logical names off, and does nothing else.

    Flax's own also constrains each array by its names under `jax.set_mesh`. Here that is the business of the shardings,
    which know what the mesh does not divide, and that Adafactor's factors have fewer axes than their parameters.
    """

    def unbox(leaf: Any) -> Any:
        return leaf.unbox(apply_constraint=False) if isinstance(leaf, nn.Partitioned) else leaf

    return jax.tree.map(unbox, tree, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))


def _divides(axes: str | tuple[str, ...] | None, size: int, mesh: Mesh) -> bool:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return size % math.prod(mesh.shape[name] for name in names) == 0


def spread_params(model: MrT5, params: Params, mesh: Mesh) -> Params:
    """Brings a model's parameters to where `param_shardings` wants them on a mesh."""
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    boxed = jax.eval_shape(model.init, jax.random.key(0), ids, ids)["params"]
    return jax.device_put(params, param_shardings(boxed, mesh))

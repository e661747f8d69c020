"""Beginning with the parameters of another model: an imported ByT5, or any MODEL_DIR.

Encoder layers are matched by their number, wherever the gate cuts the stack: a ByT5 (one stack) fits an MrT5 (prefix,
gate, suffix), and two MrT5 with different gate layers fit each other. What the other model lacks, such as the gate,
stays newly initialised.
"""

import dataclasses
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array

from mrt5_jax.errors import UserError
from mrt5_jax.model.parameters import PREFIX, SUFFIX, Params
from mrt5_jax.runs.files import AnyPath
from mrt5_jax.runs.integrity import not_finite
from mrt5_jax.runs.restoring import restore_params

Flat = dict[str, Array]
"""Parameters by name, as "encoder/gate/kernel"."""

_PREFIX, _SUFFIX = f"encoder/{PREFIX}/", f"encoder/{SUFFIX}/"


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Parameters to begin with, and where each came from (names such as "encoder/gate/kernel")."""

    params: Params
    restored: tuple[str, ...]
    initialized: tuple[str, ...]
    """Parameters of this model that the other lacks."""
    left_over: tuple[str, ...]
    """Parameters of the other model that this one lacks."""

    def table(self) -> str:
        """Says where every parameter comes from, one a line."""
        rows = [(name, "restored") for name in self.restored]
        rows += [(name, "newly initialised") for name in self.initialized]
        rows += [(name, "left over") for name in self.left_over]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {origin}" for name, origin in sorted(rows))


def warm_start(params: Params, model_dir: AnyPath, step: int | None = None) -> WarmStart:
    """Replaces what another model also has.

    Args:
        params: newly initialised parameters; the result has their shapes, types and shardings.
        model_dir: of the other model.
        step: of its checkpoint; None: the newest.

    Raises:
        UserError: no checkpoint, another number of encoder layers, or a parameter of another shape or type.
    """
    ours = _flat(params)
    restored_params = restore_params(model_dir, step, _shardings(ours)).params
    if problem := not_finite({"params": restored_params}):
        raise UserError(f"{model_dir}: {problem}: weights that are not finite cannot be trained")
    theirs = _flat(restored_params)
    depths = _encoder_layers(theirs), _encoder_layers(ours)
    if depths[0] != depths[1]:
        raise UserError(f"{model_dir} has {depths[0]} encoder layers and this model {depths[1]}")
    found = _recut_encoder(theirs, ours)
    for name in sorted(ours.keys() & found.keys()):
        there, here = _written(found[name]), _written(ours[name])
        if there != here:
            raise UserError(
                f"{model_dir}: {name} is {there} there and {here} here: a warm start neither casts nor cuts"
            )
    restored = {name: jax.device_put(found[name], ours[name].sharding) for name in ours.keys() & found.keys()}
    return WarmStart(
        unflatten_dict(ours | restored, sep="/"),
        tuple(sorted(restored)),
        tuple(sorted(ours.keys() - found.keys())),
        tuple(sorted(found.keys() - ours.keys())),
    )


def _shardings(ours: Flat) -> Callable[[str], Sharding]:
    """Where the other's parameters are read to: to where ours of that name lie, on every device where there is none."""
    places = {name: leaf.sharding for name, leaf in ours.items()}
    # The layer axis is never sharded, so the encoder's two stacks lie alike.
    places |= {_SUFFIX + name.removeprefix(_PREFIX): places[name] for name in ours if name.startswith(_PREFIX)}
    first = next(iter(places.values()))
    everywhere = NamedSharding(first.mesh, PartitionSpec()) if isinstance(first, NamedSharding) else first
    return lambda name: places.get(name, everywhere)


def _encoder_layers(flat: Flat) -> int:
    """Layers of prefix and suffix together."""
    depths = {
        stack: leaf.shape[0] for stack in (_PREFIX, _SUFFIX) for name, leaf in flat.items() if name.startswith(stack)
    }
    return sum(depths.values())


def _recut_encoder(theirs: Flat, ours: Flat) -> Flat:
    """`theirs` with its encoder layers dealt out to prefix and suffix as in `ours`."""
    cut = next((leaf.shape[0] for name, leaf in ours.items() if name.startswith(_PREFIX)), 0)
    recut = {name: leaf for name, leaf in theirs.items() if not name.startswith((_PREFIX, _SUFFIX))}
    for part in {name.removeprefix(_PREFIX).removeprefix(_SUFFIX) for name in theirs.keys() - recut.keys()}:
        layers = jnp.concatenate([theirs[stack + part] for stack in (_PREFIX, _SUFFIX) if stack + part in theirs])
        recut[_PREFIX + part] = layers[:cut]
        if cut < len(layers):
            recut[_SUFFIX + part] = layers[cut:]
    return recut


def _flat(params: Params) -> Flat:
    return cast(Flat, flatten_dict(params, sep="/"))


def _written(leaf: Array) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"

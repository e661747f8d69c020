"""Parameters that do not train, by their names."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from mrt5_jax.config import OptimizerConfig, RunConfig
from mrt5_jax.errors import UserError
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.parameters import Params, matches, path_name, split_stages
from mrt5_jax.spelling import nearest


def named(params: PyTree, names: Sequence[str]) -> PyTree[bool]:
    """Marks in a tree which parameters have one of `names` in their path, "gate" or "encoder/relpos_bias"."""
    return jax.tree_util.tree_map_with_path(lambda path, _: matches(path_name(path), names), params)


def stop_gradients(params: Params, frozen: Sequence[str]) -> Params:
    """Makes constants of the parameters that are frozen: nothing is differentiated by them."""
    if not frozen:
        return params
    return jax.tree.map(
        lambda leaf, constant: jax.lax.stop_gradient(leaf) if constant else leaf, params, named(params, frozen)
    )


def check_names(run: RunConfig) -> None:
    """Refuses names in the optimizer's configuration that no parameter has, and freezes that leave nothing to train.

    Raises:
        UserError: a name that no parameter has, with the nearest; all parameters are frozen; or all that deletion
            depends on are, and the run wants to steer it.
    """
    frozen = run.optimizer.freeze
    excluded = set(run.optimizer.weight_decay_exclude) - set(OptimizerConfig().weight_decay_exclude)
    if not (frozen or excluded):
        return
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    params = jax.eval_shape(MrT5(run.model).init, jax.random.key(0), tokens, tokens)["params"]
    paths = _paths(params)
    for field, names in {"freeze": frozen, "weight_decay_exclude": sorted(excluded)}.items():
        for name in names:
            if not any(matches(path, (name,)) for path in paths):
                known = nearest(name, {part for path in paths for part in path.split("/")})
                raise UserError(f"config.OptimizerConfig.{field}: no parameter has {name!r} in its path{known}")
    if all(matches(path, frozen) for path in paths):
        raise UserError(f"config.OptimizerConfig.freeze = {frozen!r}: freezes all parameters, and nothing would train")
    before_gate, _ = split_stages(params)
    if all(matches(path, frozen) for path in _paths(before_gate)):
        for field, value, default in (
            ("config.RunConfig.controller", run.controller, None),
            ("config.LossConfig.gate_weight", run.loss.gate_weight, 0.0),
        ):
            if value != default:
                raise UserError(
                    f"config.OptimizerConfig.freeze = {frozen!r}: freezes all that deletion depends on, so {field} "
                    f"would steer nothing; set it to {default!r}, or let the gate train"
                )


def _paths(params: Params) -> list[str]:
    """Names of a model's parameters, as they are made."""
    return [path_name(path).removesuffix("/value") for path, _ in jax.tree_util.tree_leaves_with_path(params)]

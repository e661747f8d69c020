"""Parameters that do not train, by their names."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mrt5_jax.config import RunConfig
from mrt5_jax.errors import UserError
from mrt5_jax.network import MrT5
from mrt5_jax.spelling import nearest
from mrt5_jax.training.state import Params


def named(params: Any, names: Sequence[str]) -> Any:
    """A tree of booleans: which parameters have one of `names` in their path, "gate" or "encoder/relpos_bias"."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _matches(_written(path), names), params)


def stop_gradients(params: Params, frozen: Sequence[str]) -> Params:
    """The parameters, those that are frozen as constants: nothing is differentiated by them."""
    if not frozen:
        return params
    return jax.tree.map(
        lambda leaf, constant: jax.lax.stop_gradient(leaf) if constant else leaf, params, named(params, frozen)
    )


def check_frozen(run: RunConfig) -> None:
    """Every name of `OptimizerConfig.freeze` is one of the model's, and something is left to train.

    Raises:
        UserError: a name that no parameter has, with the nearest; or all parameters are frozen.
    """
    frozen = run.optimizer.freeze
    if not frozen:
        return
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    params = jax.eval_shape(MrT5(run.model).init, jax.random.key(0), tokens, tokens)["params"]
    paths = [_written(path).removesuffix("/value") for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for name in frozen:
        if not any(_matches(path, (name,)) for path in paths):
            raise UserError(
                f"config.OptimizerConfig.freeze: no parameter has {name!r} in its path{nearest(name, _names(paths))}"
            )
    if all(_matches(path, frozen) for path in paths):
        raise UserError(f"config.OptimizerConfig.freeze = {frozen!r}: freezes all parameters, and nothing would train")


def _matches(path: str, names: Iterable[str]) -> bool:
    return any(f"/{name}/" in f"/{path}/" for name in names)


def _names(paths: Iterable[str]) -> set[str]:
    return {name for path in paths for name in path.split("/")}


def _written(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")

"""Optimizers, made from their configuration (optax)."""

from collections.abc import Hashable

import jax
import optax
from jaxtyping import Array, Float, Int, PyTree

from mrt5_jax.config import OptimizerConfig
from mrt5_jax.model.parameters import STACKS, path_name, stack_of
from mrt5_jax.training.freezing import named
from mrt5_jax.training.schedules import make_schedule

_GROUP = {True: "frozen", False: "trained"}


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Clips by global norm, then runs AdamW (Loshchilov & Hutter 2019) or Adafactor (Shazeer & Stern 2018).

    The learning rate follows `make_schedule`; the gate's is the same curve with its own peak. Weight decay is
    decoupled: a parameter loses `learning rate * weight_decay` of itself a step. Frozen parameters have no state.

    Raises:
        UserError: see `make_schedule`.
    """
    moments = {
        "adamw": optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        "adafactor": scale_by_layerwise_adafactor(),
    }
    steps = {
        "clip": optax.identity() if config.clip_norm is None else clip_by_norm(config.clip_norm),
        "moments": moments[config.name],
        "weight_decay": optax.add_decayed_weights(
            config.weight_decay,
            lambda params: jax.tree.map(lambda excluded: not excluded, named(params, config.weight_decay_exclude)),
        ),
        "learning_rate": optax.scale_by_learning_rate(make_schedule(config, num_steps)),
    }
    if config.gate_learning_rate is not None:
        steps["gate_learning_rate"] = optax.masked(
            optax.scale(config.gate_learning_rate / config.learning_rate),
            lambda params: named(params, ("gate",)),
        )
    optimizer = optax.named_chain(*steps.items())
    if not config.freeze:
        return optimizer
    groups: dict[Hashable, optax.GradientTransformation] = {"trained": optimizer, "frozen": optax.set_to_zero()}
    return optax.partition(
        groups, lambda params: jax.tree.map(lambda frozen: _GROUP[frozen], named(params, config.freeze))
    )


def clip_by_norm(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """Clips as `optax.clip_by_global_norm` does, with `gradient_norm` from whoever has computed it already.

    Within a conditional the compiler would compute it, and exchange it between devices, a second time.
    """

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        gradient_norm: Float[Array, ""] | None = None,
        **_: PyTree,
    ) -> tuple[PyTree, PyTree]:
        norm = optax.tree.norm(updates) if gradient_norm is None else gradient_norm
        clipped = jax.tree.map(
            lambda leaf: jax.lax.select(norm < max_norm, leaf, (leaf / norm.astype(leaf.dtype)) * max_norm), updates
        )
        return clipped, state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def updates_made(opt_state: optax.OptState) -> Int[Array, ""]:
    """Returns how many updates the schedule of `make_optimizer` has counted: refused steps made none."""

    def is_schedule(node: PyTree) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    nodes = jax.tree.leaves(opt_state, is_leaf=is_schedule)
    return next(node.count for node in nodes if is_schedule(node))


def scale_by_layerwise_adafactor() -> optax.GradientTransformation:
    """Scales by Adafactor with T5's settings: second moments factored from 128 x 128 on, no momentum, update RMS <= 1.

    The update is relative to the parameter's RMS (at least 1e-3). In a scanned stack every layer has its own factors,
    clipping and RMS, as with T5X's logical factor rules, where "layers" is a batch axis.
    """
    adafactor = optax.chain(
        optax.scale_by_factored_rms(decay_rate=0.8, min_dim_size_to_factor=128, epsilon=1e-30),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(1e-3),
    )
    groups: dict[Hashable, optax.GradientTransformation] = {"whole": adafactor}
    groups.update(dict.fromkeys(STACKS, _each_layer(adafactor)))
    return optax.partition(groups, lambda params: jax.tree_util.tree_map_with_path(_stack, params))


def _each_layer(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` on every index of the leading axis by itself."""
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> PyTree:
        # A group without arrays has nothing to map over (a plain ByT5 has no suffix).
        return jax.vmap(inner.init)(params) if jax.tree.leaves(params) else inner.init(params)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        if not jax.tree.leaves(updates):
            return updates, state
        return jax.vmap(inner.update)(updates, state, params)

    return optax.GradientTransformation(init, update)


def _stack(path: tuple, _: PyTree) -> str:
    return stack_of(path_name(path)) or "whole"

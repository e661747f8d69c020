"""The parts of a T5 v1.1 block (Raffel et al. 2020; Shazeer 2020), as Flax Linen modules.

Every parameter carries logical axis names, from which training derives its sharding. Projections run on
two-dimensional arrays: XLA's CPU backend computes the gradients of their kernels twice as fast that way, and on
accelerators it makes no difference.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import ExecutionConfig, ModelConfig
from mrt5_jax.kernels.attention import Attended, BiasTable, attention
from mrt5_jax.kernels.elementwise import gated_gelu, rms_norm
from mrt5_jax.kernels.products import project
from mrt5_jax.model.dropout import drop_units, drop_weights

_PROJECTED = "projected"
"""What projections give; `remat = "dots"` saves it. By name, since products with their own derivative show no dots."""


class Keys(NamedTuple):
    """Describes the key positions of an attention."""

    mask: Bool[Array, "batch key"]
    """True = attend."""
    bias: Float[Array, "batch key"] | None = None
    """Gate values, added to the scores of their keys (soft deletion)."""
    segments: Int[Array, "batch key"] | None = None
    """In packed rows, the number of the example that a key belongs to: a query sees its own example alone."""
    positions: Int[Array, "#batch key"] | None = None
    """In the original row; None where an attention reads no positions, as across from decoder to encoder."""


class Queries(NamedTuple):
    """Describes the query positions of an attention."""

    mask: Bool[Array, "batch query"]
    """Valid queries; only the score regulariser looks at it, results of other queries are never used."""
    segments: Int[Array, "batch query"] | None = None
    positions: Int[Array, "#batch query"] | None = None


def kernel_init(config: ModelConfig, std: float, num_layers: int) -> nn.initializers.Initializer:
    """Initialises a block's kernel normally; the reference scales whole blocks by num_layers^-1/2."""
    scale = num_layers**-0.5 if config.initialization == "reference" else 1.0
    return nn.initializers.normal(std * scale)


def parameter(
    module: nn.Module,
    name: str,
    initializer: nn.initializers.Initializer,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
    config: ModelConfig,
) -> Array:
    """Makes a parameter of `module` with the logical axis names that its sharding is derived from."""
    boxed = nn.with_logical_partitioning(initializer, axes)
    array: Any = module.param(name, boxed, shape, jnp.dtype(config.param_dtype))
    return array


class Projection(nn.Module):
    """A linear map without bias on the last axis, computed as one two-dimensional matrix product."""

    features: int
    initializer: nn.initializers.Initializer
    axes: tuple[str, str]
    config: ModelConfig

    @nn.compact
    def __call__(self, inputs: Float[Array, "*batch width"]) -> Float[Array, "*batch features"]:
        shape = (inputs.shape[-1], self.features)
        kernel = parameter(self, "kernel", self.initializer, self.axes, shape, self.config)
        flat = project(inputs.reshape(-1, inputs.shape[-1]), kernel)
        return checkpoint_name(flat, _PROJECTED).reshape(*inputs.shape[:-1], self.features)


class RMSNorm(nn.Module):
    """Root mean square normalisation without mean or bias, computed in at least float32."""

    config: ModelConfig

    @nn.compact
    def __call__(self, inputs: Float[Array, "*batch embed"]) -> Float[Array, "*batch embed"]:
        scale = parameter(self, "scale", nn.initializers.ones, ("embed",), inputs.shape[-1:], self.config)
        return rms_norm(inputs, scale, self.config.layer_norm_epsilon)


class GatedMlp(nn.Module):
    """wo(gelu(wi_0 x) * wi_1 x), GELU in its tanh approximation."""

    config: ModelConfig
    num_layers: int

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "batch length embed"], kept: Bool[Array, "batch mlp"] | None = None
    ) -> Float[Array, "batch length embed"]:
        config = self.config
        wide = kernel_init(config, config.emb_dim**-0.5, self.num_layers)
        narrow = kernel_init(config, config.mlp_dim**-0.5, self.num_layers)
        gate = Projection(config.mlp_dim, wide, ("embed", "mlp"), config, name="wi_0")(inputs)
        linear = Projection(config.mlp_dim, wide, ("embed", "mlp"), config, name="wi_1")(inputs)
        hidden = drop_units(gated_gelu(gate, linear), kept, config.dropout_rate)
        return Projection(config.emb_dim, narrow, ("mlp", "embed"), config, name="wo")(hidden)


class MultiHeadAttention(nn.Module):
    """Projects what goes into and comes out of `attention`. Keys and values can be computed apart, for caches."""

    config: ModelConfig
    num_layers: int
    execution: ExecutionConfig = ExecutionConfig()

    def setup(self) -> None:
        config = self.config
        width = config.num_heads * config.head_dim
        std = config.emb_dim**-0.5
        # T5 folds the 1/sqrt(head_dim) that other models apply to scores into the query's initialisation.
        query_std = std if config.initialization == "reference" else std * config.head_dim**-0.5
        inwards, outwards = ("embed", "joined_kv"), ("joined_kv", "embed")
        self.query = Projection(width, kernel_init(config, query_std, self.num_layers), inwards, config)
        self.key = Projection(width, kernel_init(config, std, self.num_layers), inwards, config)
        self.value = Projection(width, kernel_init(config, std, self.num_layers), inwards, config)
        self.out = Projection(config.emb_dim, kernel_init(config, width**-0.5, self.num_layers), outwards, config)

    def heads(self, joined: Float[Array, "batch length joined"]) -> Float[Array, "batch length heads head_dim"]:
        return joined.reshape(*joined.shape[:-1], self.config.num_heads, self.config.head_dim)

    def keys_and_values(self, hidden: Float[Array, "batch key embed"]) -> tuple[Array, Array]:
        """Computes keys and values, both [batch key heads head_dim]."""
        return self.heads(self.key(hidden)), self.heads(self.value(hidden))

    def __call__(
        self,
        hidden: Float[Array, "batch query embed"],
        key: Float[Array, "batch key heads head_dim"],
        value: Float[Array, "batch key heads head_dim"],
        queries: Queries,
        keys: Keys,
        *,
        bias_table: BiasTable | None = None,
        causal: bool = False,
        kept_weights: Bool[Array, "batch heads key"] | None = None,
        excess: bool = False,
    ) -> Attended:
        """Returns what `attention` does, with projected values [batch query embed] in place of values by head.

        Args:
          kept_weights: the attention weights that dropout leaves, of a key for all queries together; None: all.
        """
        attended = attention(
            self.heads(self.query(hidden)),
            key,
            drop_weights(value, kept_weights),
            query_positions=queries.positions,
            key_positions=keys.positions,
            bias_table=bias_table,
            max_distance=self.config.relpos_max_distance,
            key_bias=keys.bias,
            key_mask=keys.mask,
            query_segments=queries.segments,
            key_segments=keys.segments,
            causal=causal,
            sink=self.config.softmax1,
            query_mask=queries.mask,
            excess=excess,
            rows=self.execution.attention_rows,
        )
        values = attended.values.reshape(*hidden.shape[:-1], -1)
        if kept_weights is not None:
            values = values / (1.0 - self.config.dropout_rate)
        return Attended(self.out(values), attended.score_excess)


class RelativeBiases(nn.Module):
    """The learned biases by relative position bucket, shared by the layers of a stack."""

    config: ModelConfig

    @nn.compact
    def __call__(self) -> Float[Array, "heads buckets"]:
        normal = nn.initializers.normal(self.config.emb_dim**-0.5)
        shape = (self.config.num_heads, self.config.relpos_num_buckets)
        return parameter(self, "rel_embedding", normal, ("heads", "relpos_buckets"), shape, self.config)


def stack(
    layer: type[nn.Module], *, length: int, num_shared: int, execution: ExecutionConfig, initializing: bool
) -> type[nn.Module]:
    """Scans `length` layers over a leading axis of their parameters, rematerialised and unrolled as `execution` says.

    A layer takes (hidden, its own dropout, *`num_shared` inputs that all layers share).

    Args:
      initializing: whether parameters are being made. Flax then traces a layer once more, to check what a stack
        broadcasts, and draws other parameters if it does not.
    """
    if execution.remat != "none":
        policy = jax.checkpoint_policies.save_only_these_names(_PROJECTED) if execution.remat == "dots" else None
        layer = nn.remat(layer, policy=policy, prevent_cse=False)
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, *[nn.broadcast] * num_shared),  # pyright: ignore[reportArgumentType]
        length=length,
        unroll=min(execution.scan_unroll, length),
        metadata_params={nn.PARTITION_NAME: "layers"},
        check_constancy_invariants=initializing,
    )

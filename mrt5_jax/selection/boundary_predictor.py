"""The boundary predictor (Nawrot et al. 2023; MrT5's baseline BPT5): the ends of segments are learned."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.model.layers import RMSNorm, parameter
from mrt5_jax.selection.boundary_losses import binomial_surprise, per_input
from mrt5_jax.selection.protocol import Penalty, Selection, straight_through
from mrt5_jax.selection.segments import last_of_examples, segments_of_boundaries
from mrt5_jax.selection.selector_rule import (
    PenaltyRule,
    Segments,
    SelectorRule,
    count_examples,
    gate_config,
    sum_examples,
)
from mrt5_jax.selection.settings import any_number, given, positive, rate, with_setting

PREDICTOR_SETTINGS = {"temperature": positive(0.5), "bias_init": any_number(-1.0)}
"""Of every selector with such a predictor. The last layer's initial bias is BPT5's, the temperature Nawrot's."""


class BoundaryPredictor(nn.Module):
    r"""Logits of boundaries, from two layers over the normed states; each boundary closes its segment.

    In training a boundary is drawn, straight-through (Gumbel sigmoid of temperature T); elsewhere it is where the logit
    is positive. An example's last input always is one.

    .. math::
        s_t = \sigma((W_2 \operatorname{GELU}(W_1 \operatorname{RMSNorm}(h_t) + b_1) + b_2 + \log u - \log(1-u)) / T),
        \quad b_t = [s_t > 1/2] - \operatorname{sg}(s_t) + s_t

    The penalty of a number of boundaries that is unlikely is -log Binomial(sum b; L, prior) / L of each example, with L
    its inputs.

    Examples:
        >>> never = ("bias_init", -30.0)  # no boundary but the last
        >>> show_untrained("The cat, 42.", GateConfig(kind="boundary_predictor", settings=(("prior", 0.25), never)))
        'T···········'
    """

    config: ModelConfig

    def num_predictors(self) -> int:
        """Returns how many predictors there are, beside each other."""
        return 1

    def predictor_of(
        self, tokens: Int[Array, "batch length"], mask: Bool[Array, "batch length"], segments: Segments
    ) -> Int[Array, "batch length"]:
        """Returns which predictor decides at each position."""
        return jnp.zeros_like(tokens)

    def penalties(
        self,
        boundary: Float[Array, "batch length"],
        logits: Float[Array, "batch length"],
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        segments: Segments,
    ) -> dict[str, Penalty]:
        """Returns the terms of the loss."""
        prior = given(gate_config(self.config), _SETTINGS, "prior")
        sizes = sum_examples(jnp.ones_like(boundary), mask, segments)
        surprise = binomial_surprise(sum_examples(boundary, mask, segments), sizes, prior)
        return {"boundaries": per_input(surprise, mask, segments)}

    def setup(self) -> None:
        config, gate, number = self.config, gate_config(self.config), self.num_predictors()
        self.norm = RMSNorm(config)
        bias, inner = given(gate, PREDICTOR_SETTINGS, "bias_init"), number * config.mlp_dim
        wide = nn.initializers.normal(config.emb_dim**-0.5)
        self.wi_kernel = parameter(self, "wi_kernel", wide, ("embed", "mlp"), (config.emb_dim, inner), config)
        self.wi_bias = parameter(self, "wi_bias", nn.initializers.zeros, ("mlp",), (inner,), config)
        narrow = nn.initializers.normal(config.mlp_dim**-0.5)
        self.wo_kernel = parameter(self, "wo_kernel", narrow, ("gate", "mlp"), (number, config.mlp_dim), config)
        self.wo_bias = parameter(self, "wo_bias", nn.initializers.constant(bias), ("gate",), (number,), config)

    def logits(
        self, hidden: Float[Array, "batch length embed"], predictor: Int[Array, "batch length"]
    ) -> Float[Array, "batch length"]:
        """Computes the logits, in at least float32: positive where a segment ends."""
        wide = self.norm(hidden.astype(jnp.promote_types(hidden.dtype, jnp.float32)))
        inner = wide.reshape(-1, wide.shape[-1]) @ self.wi_kernel + self.wi_bias[None]
        inner = jax.nn.gelu(inner, approximate=False).reshape(-1, *self.wo_kernel.shape)
        logits = jnp.sum(inner * self.wo_kernel[None], axis=-1) + self.wo_bias[None]
        return jnp.take_along_axis(logits, predictor.reshape(-1, 1), axis=1).reshape(predictor.shape)

    def __call__(
        self,
        hidden: Float[Array, "batch length embed"],
        tokens: Int[Array, "batch length"],
        mask: Bool[Array, "batch length"],
        keys: RowKeys | None,
        segments: Segments = None,
    ) -> Selection:
        logits = drawn = self.logits(hidden, self.predictor_of(tokens, mask, segments))
        if keys is not None:
            drawn = logits + jax.vmap(lambda key: jax.random.logistic(key, logits.shape[1:], logits.dtype))(keys)
        soft = jax.nn.sigmoid(drawn / given(gate_config(self.config), PREDICTOR_SETTINGS, "temperature"))
        boundary = jnp.where(mask, (soft > 0.5) + straight_through(soft), 0)
        boundary = jnp.where(last_of_examples(mask, segments), 1, boundary)
        selection = segments_of_boundaries(boundary, soft, mask, segments)
        return selection._replace(penalties=self.penalties(boundary, logits, tokens, mask, segments))


def predictor_shapes(number: Callable[[GateConfig], int]) -> Callable[[ModelConfig], dict[str, tuple[int, ...]]]:
    """Returns the parameters of a selector with so many predictors."""

    def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
        predictors, width, inner = number(gate_config(config)), config.emb_dim, config.mlp_dim
        return {
            "norm/scale": (width,),
            "wi_kernel": (width, predictors * inner),
            "wi_bias": (predictors * inner,),
            "wo_kernel": (predictors, inner),
            "wo_bias": (predictors,),
        }

    return shapes


_SETTINGS = {"prior": rate(0.2), **PREDICTOR_SETTINGS}

BOUNDARY_PREDICTOR = SelectorRule(
    BoundaryPredictor,
    reads=("settings",),
    penalties={
        "boundaries": PenaltyRule(
            count_examples, "target", hold=lambda gate, rate: with_setting(gate, "prior", 1 - rate)
        )
    },
    pools=True,
    has_gate_values=False,
    causal=True,
    settings=_SETTINGS,
    parameters=predictor_shapes(lambda gate: 1),
    multiply_adds=lambda config: config.mlp_dim * (config.emb_dim + 1),
)

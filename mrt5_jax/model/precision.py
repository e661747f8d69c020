"""Whether JAX computes as precisely as a model says."""

import jax.numpy as jnp

from mrt5_jax.config import ModelConfig
from mrt5_jax.errors import UserError


def check_precision(model: ModelConfig) -> None:
    """Refuses float64 where JAX would compute in float32 without a word.

    Raises:
        UserError: JAX has not been told to use 64 bits.
    """
    for name in ("dtype", "param_dtype"):
        if getattr(model, name) == "float64" and jnp.result_type(float) != jnp.float64:
            raise UserError(
                f"config.ModelConfig.{name} = 'float64': JAX computes in 32 bits; set JAX_ENABLE_X64=1 for 64"
            )

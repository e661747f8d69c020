"""Sizes of ByT5 (Xue et al. 2022, table 1) and of MrT5 (Kallini et al. 2025) as configurations, without gin.

They are those of gin_configs/models: `mrt5("small")` is what `models/mrt5_small.gin` makes.
"""

import dataclasses
from typing import Any, Literal, get_args

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.spelling import nearest

Size = Literal["tiny", "small", "base", "large", "xl", "xxl"]
"""tiny is no published model: it trains in minutes on a CPU."""

_SIZES: dict[str, tuple[int, int, int, int, int, int]] = {
    "tiny": (128, 4, 32, 256, 3, 2),
    "small": (1472, 6, 64, 3584, 12, 4),
    "base": (1536, 12, 64, 3968, 18, 6),
    "large": (1536, 16, 64, 3840, 36, 12),
    "xl": (2560, 32, 64, 6720, 36, 12),
    "xxl": (4672, 64, 64, 12352, 36, 12),
}
"""emb_dim, num_heads, head_dim, mlp_dim, num_encoder_layers, num_decoder_layers."""

_GATE_LAYER, _GATE_LAYER_OF_TINY = 3, 1


def byt5(size: Size, **changes: Any) -> ModelConfig:
    """Returns a ByT5 of a size, which deletes nothing.

    Args:
        size: "tiny", "small", "base", "large", "xl" or "xxl".
        changes: other fields of `config.ModelConfig`, as in `dropout_rate=0.0`.

    Returns:
        its configuration.

    Raises:
        UserError: there is no such size or field.

    Examples:
        >>> mrt5_jax.presets.byt5("small").num_encoder_layers
        12
    """
    if size not in _SIZES:
        raise UserError(f"size {size!r}: should be {' or '.join(get_args(Size))}{nearest(str(size), list(_SIZES))}")
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    for name in changes:
        if name not in fields:
            raise UserError(f"config.ModelConfig has no field {name}{nearest(name, sorted(fields))}")
    return dataclasses.replace(ModelConfig(*_SIZES[size]), **changes)


def mrt5(size: Size, gate_layer: int | None = None, **changes: Any) -> ModelConfig:
    """Returns an MrT5 of a size: a ByT5 with a learned delete gate, and softmax1 in every attention (section 3).

    Args:
        size: see `byt5`.
        gate_layer: the encoder layer, counted from 0, that the gate stands before; None: 3, of tiny 1.
        changes: see `byt5`.

    Returns:
        its configuration.

    Raises:
        UserError: there is no such size or field, or the encoder has no such layer.

    Examples:
        >>> config = mrt5_jax.presets.mrt5("small", gate_layer=3)
        >>> config.gate.layer, config.gate.threshold
        (3, -15.0)
    """
    plain = byt5(size, **changes)
    layer = gate_layer if gate_layer is not None else _GATE_LAYER_OF_TINY if size == "tiny" else _GATE_LAYER
    if not 0 < layer < plain.num_encoder_layers:
        last = plain.num_encoder_layers - 1
        raise UserError(f"gate_layer={layer}: of {size} it should be from 1 to {last}, with layers on both sides")
    gate = GateConfig(layer=layer, scale=-30.0, threshold=-15.0)
    return byt5(size, **{"gate": gate, "softmax1": True, **changes})

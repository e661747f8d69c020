"""How many multiply-adds a model's matrix products take, counted from its sizes.

Norms, softmax and other elementwise work are left out: a part in hundreds, and none of it runs on the matrix units.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from mrt5_jax.config import DataConfig, ModelConfig

BACKWARD = 2
"""A gradient takes two matrix products for one of the forward pass."""


class MultiplyAdds(NamedTuple):
    """Of one row's forward pass."""

    prefix: int
    """Encoder layers at full length, before the gate; of a model without a gate, all."""
    suffix: int
    """Encoder layers over the slots."""
    decoder: int
    """Decoder and output head, the cross-attention's keys and values over the slots."""

    @property
    def total(self) -> int:
        return sum(self)


def forward_multiply_adds(model: ModelConfig, data: DataConfig, slots: int) -> MultiplyAdds:
    """Counts one row's forward pass, teacher-forced, with so many slots after the gate."""
    before = model.gate.layer if model.gate else model.num_encoder_layers
    return MultiplyAdds(
        prefix=row_cost(model, data.target_length).before_gate(data.input_length),
        suffix=(model.num_encoder_layers - before) * _encoder_layer(model, slots),
        decoder=_decoder(model, data.target_length, slots),
    )


def body_multiply_adds(model: ModelConfig, target_length: int) -> Callable[[int], int]:
    """Returns a function that counts what follows the gate in one row's forward pass, by its slots."""
    after = model.num_encoder_layers - model.gate.layer if model.gate else 0
    return lambda slots: after * _encoder_layer(model, slots) + _decoder(model, target_length, slots)


class Polynomial(NamedTuple):
    """Multiply-adds as a function of a length."""

    constant: int
    linear: int
    square: int

    def __call__(self, length: int) -> int:
        return self.constant + self.linear * length + self.square * length**2


class RowCost(NamedTuple):
    """Multiply-adds of one row's teacher-forced forward pass, as functions of its lengths."""

    before_gate: Polynomial
    """Of the length of its batch's inputs; of a model without a gate, all encoder layers."""
    after_gate: Polynomial
    """Of the slots."""


def row_cost(model: ModelConfig, target_length: int) -> RowCost:
    """Returns what one row costs; `target_length` is that of its batch."""
    layers = model.gate.layer if model.gate else model.num_encoder_layers

    def before(length: int) -> int:
        return layers * _encoder_layer(model, length) + (length * model.emb_dim if model.gate else 0)

    return RowCost(_polynomial(before), _polynomial(body_multiply_adds(model, target_length)))


def _polynomial(work: Callable[[int], int]) -> Polynomial:
    """The polynomial that takes the same values."""
    nothing, one, two = map(work, (0, 1, 2))
    square = (two - 2 * one + nothing) // 2
    return Polynomial(nothing, one - nothing - square, square)


class BodyShare(NamedTuple):
    """How much of its multiply-adds at full length a row takes after the gate (suffix and decoder) with fewer slots.

    The share is a polynomial of the slots; numbers, NumPy arrays and JAX arrays will do.
    """

    constant: float
    linear: float
    square: float

    def __call__(self, slots: Any) -> Any:
        return self.constant + self.linear * slots + self.square * slots**2


def body_share(model: ModelConfig, target_length: int, length: int) -> BodyShare:
    """Returns the share for rows whose full length is `length`."""
    body = body_multiply_adds(model, target_length)
    return BodyShare(*(part / body(length) for part in _polynomial(body)))


def training_multiply_adds(model: ModelConfig, data: DataConfig, slots: int) -> int:
    """Counts one step over the whole batch on all devices, forward and backward, without recomputation (remat)."""
    return (1 + BACKWARD) * data.batch_size * forward_multiply_adds(model, data, slots).total


def _encoder_layer(model: ModelConfig, length: int) -> int:
    width = model.num_heads * model.head_dim
    projections = 4 * length * model.emb_dim * width
    return projections + 2 * length**2 * width + 3 * length * model.emb_dim * model.mlp_dim


def _decoder(model: ModelConfig, targets: int, slots: int) -> int:
    width, embed = model.num_heads * model.head_dim, model.emb_dim
    self_attention = 4 * targets * embed * width + 2 * targets**2 * width
    cross_attention = 2 * (targets + slots) * embed * width + 2 * targets * slots * width
    layer = self_attention + cross_attention + 3 * targets * embed * model.mlp_dim
    return model.num_decoder_layers * layer + targets * embed * model.vocab_size

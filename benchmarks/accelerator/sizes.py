"""What is measured: the model, the lengths, and a batch whose gate deletes exactly half of the positions.

The gate sees the first component of the hidden states, and the embeddings of even and odd bytes differ there by much
more than the layers before the gate add. So even bytes stay and odd ones go, in any number format.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrt5_jax.config import (
    CompactionConfig,
    DataConfig,
    Dispatch,
    ExecutionConfig,
    GateConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
    TrainingDeletion,
)
from mrt5_jax.model.parameters import Params

ATTENTIONS = {"xla": "batched"}
"""Names of attention implementations -> what selects them, `ExecutionConfig.attention_rows`."""

Lengths = Dispatch | Literal["capacity"]
"""Who chooses the length after the gate; or that it is always half."""

_SIGNAL = 10.0
"""Of even bytes in the first component of the embeddings, whose other components have a standard deviation of 1."""


class Sizes(NamedTuple):
    model: ModelConfig
    input_length: int
    target_length: int
    rows: int
    """The most rows of a batch; memory may allow fewer."""
    decoded: int
    """Tokens that are decoded for each row."""
    execution: ExecutionConfig = ExecutionConfig()

    @property
    def kept(self) -> int:
        """Positions that the gate keeps of each row."""
        return self.input_length // 2

    @property
    def data(self) -> DataConfig:
        return DataConfig("", (), self.input_length, self.target_length, self.rows, self.rows)


_MRT5_SMALL = ModelConfig(
    emb_dim=1472,
    num_heads=6,
    head_dim=64,
    mlp_dim=3584,
    num_encoder_layers=12,
    num_decoder_layers=4,
    gate=GateConfig(layer=3, threshold=-15.0),
    softmax1=True,
    dropout_rate=0.0,
    dtype="bfloat16",
)
"""gin_configs/models/mrt5_small.gin, without dropout."""

BYT5_SMALL = Sizes(_MRT5_SMALL, input_length=1024, target_length=189, rows=16, decoded=64)
SMALL = Sizes(
    dataclasses.replace(
        _MRT5_SMALL, emb_dim=64, num_heads=2, head_dim=32, mlp_dim=128, num_encoder_layers=4, num_decoder_layers=2,
        gate=GateConfig(layer=1),
    ),
    input_length=128, target_length=24, rows=4, decoded=8,
)  # fmt: skip
"""For a try-out on a CPU."""


def with_attention(sizes: Sizes, name: str) -> Sizes:
    """The sizes with an attention implementation of ATTENTIONS."""
    return sizes._replace(execution=dataclasses.replace(sizes.execution, attention_rows=ATTENTIONS[name]))


def make_run(sizes: Sizes, deletion: TrainingDeletion, lengths: Lengths = "in_graph") -> RunConfig:
    """A run with the lengths half and full, and a learning rate of nearly 0: the gate must go on keeping half."""
    compaction = CompactionConfig(capacity=0.5 if lengths == "capacity" else None)
    dispatch = "in_graph" if lengths == "capacity" else lengths
    execution = dataclasses.replace(sizes.execution, rungs=(sizes.kept,), dispatch=dispatch)
    training, optimizer = TrainingConfig(100, deletion), OptimizerConfig(learning_rate=1e-12)
    return RunConfig(
        "", sizes.model, sizes.data, training, optimizer=optimizer, compaction=compaction, execution=execution
    )


def make_batch(sizes: Sizes) -> dict[str, np.ndarray]:
    """Random bytes, even ones in exactly half of each row's positions."""
    rng = np.random.default_rng(0)
    shape = (sizes.rows, sizes.input_length)
    even = rng.permuted(np.broadcast_to(np.arange(sizes.input_length) < sizes.kept, shape), axis=1)
    targets = rng.integers(3, 259, (sizes.rows, sizes.target_length), dtype=np.int32)
    return {
        "encoder_input_tokens": (2 * rng.integers(2, 129, shape) + np.where(even, 0, 1)).astype(np.int32),
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones_like(targets),
    }


def keeping_even_bytes(params: Params, steepness: float) -> Params:
    """The parameters with a gate that keeps even bytes; and decoding never ends a sequence early.

    Args:
        steepness: what the gate makes of the first component of the normed hidden states, which is around 3 to 8.
    """
    encoder, decoder = params["encoder"], params["decoder"]
    table = params["token_embedder"]["embedding"]
    signal = jnp.where(jnp.arange(table.shape[0]) % 2 == 0, _SIGNAL, -_SIGNAL).astype(table.dtype)
    kernel = (0.1 * encoder["gate"]["kernel"]).at[0].set(steepness)
    gate = {**encoder["gate"], "kernel": kernel, "bias": jnp.zeros_like(encoder["gate"]["bias"])}
    # The end of sequence, token 1, gets the logits of token 0, and argmax takes the lower id of the two.
    head = decoder["logits_dense"]["kernel"]
    changed: dict[str, Any] = {
        "token_embedder": {"embedding": table.at[:, 0].set(signal)},
        "encoder": {**encoder, "gate": gate},
        "decoder": {**decoder, "logits_dense": {"kernel": head.at[:, 1].set(head[:, 0])}},
    }
    return {**params, **changed}


def device_batch(sizes: Sizes, sharding: Any) -> dict[str, jax.Array]:
    return jax.device_put({name: jnp.asarray(rows) for name, rows in make_batch(sizes).items()}, sharding)

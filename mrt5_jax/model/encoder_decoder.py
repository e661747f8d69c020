"""ByT5 and MrT5 as Flax Linen modules, in the three parts between which compaction happens.

    prefix   tokens -> embedding -> encoder layers 0..g-1 -> selector           full length
    suffix   compact hidden states -> encoder layers g..N-1 -> final norm       short
    decode   decoder, cross-attending to the short sequence -> logits

What lies between prefix and suffix (dispatch, plan, gather) is in `forward.py` and `compaction/`; the modules hold
parameters and nothing else. A plain ByT5 has all its encoder layers in the prefix and no selector.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mrt5_jax.compaction.plan import plan
from mrt5_jax.config import ExecutionConfig, ModelConfig
from mrt5_jax.kernels.attention import BiasTable, prepare_bias
from mrt5_jax.model.dropout import NO_DROPOUT, Dropout, LayerDropout, RowKeys, at_positions, drop_units
from mrt5_jax.model.layers import (
    GatedMlp,
    Keys,
    MultiHeadAttention,
    Projection,
    Queries,
    RelativeBiases,
    RMSNorm,
    parameter,
    stack,
)
from mrt5_jax.selection.protocol import Selection, without_other_gradients
from mrt5_jax.selection.reductions import Members, make_reduction
from mrt5_jax.selection.selectors import make_selector, pools


class Prefix(NamedTuple):
    """Hidden states at the selector, at full length."""

    hidden: Float[Array, "batch length embed"]
    mask: Bool[Array, "batch length"]
    selection: Selection | None


class Compact(NamedTuple):
    """The positions that the rest of the model sees."""

    hidden: Float[Array, "batch slots embed"]
    positions: Int[Array, "#batch slots"]
    """Original positions in the row; one row where all rows share them."""
    keys: Keys
    members: Members | None = None
    """Where positions are pooled, what the slots are made of: `hidden` is then at full length."""


class Encoded(NamedTuple):
    """The encoder's output, as the decoder's cross-attention sees it."""

    hidden: Float[Array, "batch slots embed"]
    positions: Int[Array, "#batch slots"]
    keys: Keys
    score_excess: Float[Array, "layers batch"]
    """The score regulariser's mean excess in every layer that sees the gate."""


class Decoded(NamedTuple):
    """What the decoder returns."""

    logits: Float[Array, "batch target vocab"]
    score_excess: Float[Array, " batch"]
    """The score regulariser's, mean over all layers that see the gate: the encoder's and the cross-attentions."""


class EncoderLayer(nn.Module):
    config: ModelConfig
    num_layers: int
    execution: ExecutionConfig
    sees_gate: bool
    """Whether the score regulariser looks at its attention."""

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "batch length embed"],
        dropout: LayerDropout,
        keys: Keys,
        bias_table: BiasTable,
    ) -> tuple[Float[Array, "batch length embed"], Float[Array, " batch"]]:
        config = self.config
        hidden = _constrain(hidden)
        attention = MultiHeadAttention(config, self.num_layers, self.execution, name="attention")
        normed = RMSNorm(config, name="pre_attention_layer_norm")(hidden)
        attended = attention(
            normed,
            *attention.keys_and_values(normed),
            Queries(keys.mask, keys.segments, keys.positions),
            keys,
            bias_table=bias_table,
            kept_weights=dropout.weights,
            excess=self.sees_gate,
        )
        hidden = hidden + drop_units(attended.values, dropout.sublayer(0), config.dropout_rate)
        normed = RMSNorm(config, name="pre_mlp_layer_norm")(hidden)
        output = GatedMlp(config, self.num_layers, name="mlp")(normed, dropout.mlp)
        return hidden + drop_units(output, dropout.sublayer(1), config.dropout_rate), attended.score_excess


class Encoder(nn.Module):
    """Two stacks of layers that share one set of relative position biases, with the selector between them."""

    config: ModelConfig
    execution: ExecutionConfig

    def setup(self) -> None:
        config = self.config
        total = config.num_encoder_layers
        self.prefix_length = config.gate.layer if config.gate else total
        self.relpos_bias = RelativeBiases(config)
        self.prefix = self._stack(self.prefix_length, sees_gate=False)
        if config.gate:
            self.gate = make_selector(config)
            if pools(config.gate):
                self.pooling = make_reduction(config)
            self.suffix = self._stack(total - self.prefix_length, sees_gate=True)
        self.encoder_norm = RMSNorm(config)

    def _stack(self, length: int, *, sees_gate: bool) -> nn.Module:
        initializing = self.is_initializing()
        layers = stack(EncoderLayer, length=length, num_shared=2, execution=self.execution, initializing=initializing)
        return layers(self.config, self.config.num_encoder_layers, self.execution, sees_gate)

    def _biases(self, positions: Int[Array, "rows length"]) -> BiasTable:
        return prepare_bias(
            self.relpos_bias(),
            positions,
            positions,
            max_distance=self.config.relpos_max_distance,
            causal=False,
            rows=self.execution.attention_rows,
        )

    def before_gate(
        self,
        hidden: Float[Array, "batch length embed"],
        tokens: Int[Array, "batch length"],
        dropout: LayerDropout,
        selector_keys: RowKeys | None,
        segments: Int[Array, "batch length"] | None = None,
    ) -> Prefix:
        positions = jnp.arange(tokens.shape[1])[None]
        mask = tokens > 0
        keys = Keys(mask, segments=segments, positions=positions)
        hidden, _ = self.prefix(hidden, dropout, keys, self._biases(positions))
        if not self.config.gate:
            return Prefix(hidden, mask, None)
        return Prefix(hidden, mask, without_other_gradients(self.gate(hidden, tokens, mask, selector_keys, segments)))

    def after_gate(self, compact: Compact, dropout: Dropout) -> Encoded:
        hidden, keys, positions = compact.hidden, compact.keys, compact.positions
        if compact.members is not None:
            hidden = self.pooling(hidden, positions, compact.members)
        excess = jnp.zeros((0, hidden.shape[0]), jnp.float32)
        if self.config.gate:
            kept = dropout.suffix._replace(weights=at_positions(dropout.suffix.weights, positions))
            hidden, excess = self.suffix(hidden, kept, keys._replace(positions=positions), self._biases(positions))
        hidden = drop_units(self.encoder_norm(hidden), dropout.encoded, self.config.dropout_rate)
        return Encoded(_constrain(hidden), positions, keys, excess)


class DecoderLayer(nn.Module):
    config: ModelConfig
    num_layers: int
    execution: ExecutionConfig

    def setup(self) -> None:
        config = self.config
        self.pre_self_attention_layer_norm = RMSNorm(config)
        self.self_attention = MultiHeadAttention(config, self.num_layers, self.execution)
        self.pre_cross_attention_layer_norm = RMSNorm(config)
        self.encoder_decoder_attention = MultiHeadAttention(config, self.num_layers, self.execution)
        self.pre_mlp_layer_norm = RMSNorm(config)
        self.mlp = GatedMlp(config, self.num_layers)

    def __call__(
        self,
        hidden: Float[Array, "batch target embed"],
        dropout: LayerDropout,
        encoded: Encoded,
        bias_table: BiasTable,
        targets: Queries,
    ) -> tuple[Float[Array, "batch target embed"], Float[Array, " batch"]]:
        rate = self.config.dropout_rate
        hidden = _constrain(hidden)
        everywhere = jnp.ones(hidden.shape[:2], bool)
        normed = self.pre_self_attention_layer_norm(hidden)
        attended = self.self_attention(
            normed,
            *self.self_attention.keys_and_values(normed),
            Queries(everywhere, targets.segments, targets.positions),
            Keys(everywhere, segments=targets.segments, positions=targets.positions),
            bias_table=bias_table,
            causal=True,
            kept_weights=dropout.weights,
        )
        hidden = hidden + drop_units(attended.values, dropout.sublayer(0), rate)
        crossed = self.encoder_decoder_attention(
            self.pre_cross_attention_layer_norm(hidden),
            *self.encoder_decoder_attention.keys_and_values(encoded.hidden),
            targets,
            encoded.keys,
            kept_weights=dropout.cross_weights,
            excess=True,
        )
        hidden = hidden + drop_units(crossed.values, dropout.sublayer(1), rate)
        output = self.mlp(self.pre_mlp_layer_norm(hidden), dropout.mlp)
        return hidden + drop_units(output, dropout.sublayer(2), rate), crossed.score_excess


class Decoder(nn.Module):
    config: ModelConfig
    execution: ExecutionConfig

    def setup(self) -> None:
        config = self.config
        self.relpos_bias = RelativeBiases(config)
        layers = stack(
            DecoderLayer,
            length=config.num_decoder_layers,
            num_shared=3,
            execution=self.execution,
            initializing=self.is_initializing(),
        )
        self.layers = layers(config, config.num_decoder_layers, self.execution)
        self.decoder_norm = RMSNorm(config)
        head_init = nn.initializers.normal(config.emb_dim**-0.5)
        self.logits_dense = Projection(config.vocab_size, head_init, ("embed", "vocab"), config)

    def __call__(
        self,
        hidden: Float[Array, "batch target embed"],
        encoded: Encoded,
        dropout: Dropout,
        targets: Queries,
    ) -> Decoded:
        positions = jnp.arange(hidden.shape[1])[None]
        bias_table = self.bias_table(positions, positions)
        kept = dropout.decoder._replace(cross_weights=at_positions(dropout.decoder.cross_weights, encoded.positions))
        hidden, excess = self.layers(hidden, kept, encoded, bias_table, targets._replace(positions=positions))
        hidden = drop_units(self.decoder_norm(hidden), dropout.decoded, self.config.dropout_rate)
        return Decoded(self.logits(hidden), jnp.mean(jnp.concatenate([encoded.score_excess, excess]), axis=0))

    def bias_table(self, query_positions: Int[Array, "rows query"], key_positions: Int[Array, "rows key"]) -> BiasTable:
        """Returns what the layers' self-attentions take as `bias_table`."""
        return prepare_bias(
            self.relpos_bias(),
            query_positions,
            key_positions,
            max_distance=self.config.relpos_max_distance,
            causal=True,
            rows=self.execution.attention_rows,
        )

    def logits(self, hidden: Float[Array, "batch target embed"]) -> Float[Array, "batch target vocab"]:
        return self.logits_dense(hidden)


class MrT5(nn.Module):
    """The whole model; call its parts with `model.apply(variables, ..., method="prefix")` and so on."""

    config: ModelConfig
    execution: ExecutionConfig = ExecutionConfig()
    """Of which the layers read how they are unrolled, rematerialised and attend; no number depends on it."""

    def setup(self) -> None:
        config = self.config
        self.token_embedder = TokenEmbedder(config)
        self.encoder = Encoder(config, self.execution)
        self.decoder = Decoder(config, self.execution)

    def prefix(
        self,
        tokens: Int[Array, "batch length"],
        dropout: Dropout = NO_DROPOUT,
        selector_keys: RowKeys | None = None,
        segments: Int[Array, "batch length"] | None = None,
    ) -> Prefix:
        """Runs the embedding, the encoder layers before the gate, and the selector. Token 0 is padding.

        Args:
          selector_keys: randomness of the selector in training (gate noise, random choices), or None.
          segments: of packed rows, the example of each position; examples do not see each other. Positions are those
            in the row, since only their differences within an example count.
        """
        hidden = drop_units(self.token_embedder(tokens), dropout.embedded, self.config.dropout_rate)
        return self.encoder.before_gate(hidden, tokens, dropout.prefix, selector_keys, segments)

    def suffix(self, compact: Compact, dropout: Dropout = NO_DROPOUT) -> Encoded:
        """Runs the encoder layers from the gate on, and the final norm."""
        return self.encoder.after_gate(compact, dropout)

    def decode(
        self,
        encoded: Encoded,
        decoder_input_tokens: Int[Array, "batch target"],
        dropout: Dropout = NO_DROPOUT,
        targets: Queries | None = None,
    ) -> Decoded:
        """Decodes teacher-forced: computes the logits of every target position from those before it.

        Args:
          targets: positions with a target, which are those that the score regulariser counts, and in packed rows the
            example of each; None: all, of one example a row.
        """
        if targets is None:
            targets = Queries(jnp.ones(decoder_input_tokens.shape, bool))
        hidden = self.token_embedder(decoder_input_tokens)
        hidden = drop_units(hidden, dropout.decoder_embedded, self.config.dropout_rate)
        return self.decoder(hidden, encoded, dropout, targets)

    def __call__(self, tokens: Int[Array, "batch length"], decoder_input_tokens: Int[Array, "batch target"]) -> Decoded:
        """Runs all parts under hard deletion by masking: deleted positions are hidden, nothing is moved or shortened.

        This is the oracle of what compaction computes: `forward`, scoring and evaluation under hard deletion give the
        same logits to rounding, on fewer positions. A model without a gate deletes nothing.

        Args:
          tokens: inputs with end of sequence; pads (0) at the end.
          decoder_input_tokens: the targets, shifted right by one; the first is 0.

        Examples:
          >>> logits = model.apply({"params": params}, tokens, decoder_input_tokens).logits  # doctest: +SKIP
        """
        prefix = self.prefix(tokens)
        selection, positions = prefix.selection, jnp.arange(tokens.shape[1])[None]
        hidden = prefix.hidden if selection is None else hidden_of_known(prefix)
        if selection is None:
            compact = Compact(hidden, positions, Keys(prefix.mask))
        elif selection.merged_into is None:
            compact = Compact(hidden, positions, Keys(selection.keep & prefix.mask))
        else:
            to = plan(selection.keep, tokens.shape[1])
            members = Members(selection.keep, selection.merged_into, prefix.mask, selection.signals.weights)
            compact = Compact(hidden, to.positions, Keys(to.mask), members)
        encoded = self.suffix(compact)
        return self.decode(encoded, decoder_input_tokens)


def hidden_of_known(prefix: Prefix) -> Float[Array, "batch length embed"]:
    """Returns the hidden states, all NaN in rows of which a gate value is NaN: nothing finite comes from such a row."""
    assert prefix.selection is not None
    lost = jnp.any(jnp.isnan(prefix.selection.priority) & prefix.mask, axis=1)
    return jnp.where(lost[:, None, None], jnp.nan, prefix.hidden)


class TokenEmbedder(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length embed"]:
        config = self.config
        std = config.emb_dim**-0.5 if config.initialization == "reference" else 1.0
        shape = (config.vocab_size, config.emb_dim)
        table = parameter(self, "embedding", nn.initializers.normal(std), ("vocab", "embed"), shape, config)
        # The table is small: every device looks its own rows up in the whole of it, and no activations are exchanged.
        whole = nn.spmd.with_logical_constraint(table.astype(jnp.dtype(config.dtype)), (None, None))
        return _constrain(whole[tokens])


def _constrain(hidden: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
    return nn.spmd.with_logical_constraint(hidden, ("batch", "length", "embed"))

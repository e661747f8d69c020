"""T5 v1.1 and MrT5 once more, in NumPy float64, written from the papers' formulas and not from our code.

Plain where ours is clever: layers are a Python loop, relative position buckets are exact fractions, hard deletion masks
at full length instead of moving anything, and nothing is batched over layers or chunks.
"""

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from mrt5_jax.config import LossConfig, ModelConfig
from mrt5_jax.model.dropout import NO_DROPOUT, Dropout


class Passed(NamedTuple):
    """A forward pass."""

    logits: np.ndarray
    """[batch target vocab]."""
    gate_values: np.ndarray
    """[batch length]; zeros without a gate."""
    keep: np.ndarray
    """bool [batch length]: what hard deletion keeps."""
    score_penalty: np.ndarray
    """[batch]: mean over the attentions that see the gate."""


def objective(
    config: ModelConfig,
    params: Any,
    batch: dict[str, np.ndarray],
    deletion: str,
    loss: LossConfig,
    alpha: float,
    dropout: Dropout = NO_DROPOUT,
) -> float:
    """Cross-entropy and z-loss per target token + alpha * mean gate value + beta * mean score penalty."""
    passed = forward(config, params, batch, deletion, dropout)
    weights, targets = batch["decoder_loss_weights"], batch["decoder_target_tokens"]
    log_z = np.log(np.exp(passed.logits).sum(-1))
    chosen = np.take_along_axis(passed.logits, targets[..., None], -1)[..., 0]
    tokens = weights * (log_z - chosen + loss.z_loss * log_z**2)
    present = batch["encoder_input_tokens"] > 0
    gate = passed.gate_values[present].mean()
    penalty = passed.score_penalty[weights.any(1)].mean()
    return tokens.sum() / weights.sum() + alpha * gate + loss.score_penalty * penalty


def forward(
    config: ModelConfig, params: Any, batch: dict[str, np.ndarray], deletion: str, dropout: Dropout = NO_DROPOUT
) -> Passed:
    """Teacher-forced logits; `dropout` says what is kept, by original position."""
    tokens, inputs = batch["encoder_input_tokens"], batch["decoder_input_tokens"]
    encoder, decoder = params["encoder"], params["decoder"]
    table = params["token_embedder"]["embedding"]
    present, everywhere = tokens > 0, np.ones(inputs.shape, bool)
    before = config.gate.layer if config.gate else config.num_encoder_layers
    bias = _position_bias(config, encoder["relpos_bias"]["rel_embedding"], tokens.shape[1], bidirectional=True)
    attended, gate_values, keep, penalties = present, np.zeros(tokens.shape), present, []

    hidden = _drop(table[tokens], dropout.embedded, config)
    for number in range(config.num_encoder_layers):
        stack, index = ("prefix", number) if number < before else ("suffix", number - before)
        kept = _layer(dropout.prefix if stack == "prefix" else dropout.suffix, index)
        if config.gate and number == before:
            values, keep = _gate(config, encoder["gate"], hidden, present)
            attended = keep if deletion == "hard" else present
            gate_values = values
        added = gate_values if deletion == "soft" and stack == "suffix" else None
        weights = _layer(encoder[stack], index)
        normed = _norm(hidden, weights["pre_attention_layer_norm"], config)
        pairs = attended[:, None, :] & attended[:, :, None]
        # Positions that are not there attend too: only what they receive is of no interest.
        seen = np.broadcast_to(attended[:, None, :], pairs.shape)
        out, penalty = _attention(config, weights["attention"], normed, normed, seen, pairs, bias, added, kept.weights)
        penalties += [penalty] if stack == "suffix" else []
        hidden = hidden + _drop(out, _place(kept.residual, 0), config)
        normed = _norm(hidden, weights["pre_mlp_layer_norm"], config)
        hidden = hidden + _drop(_mlp(config, weights["mlp"], normed, kept.mlp), _place(kept.residual, 1), config)
    memory = _drop(_norm(hidden, encoder["encoder_norm"], config), dropout.encoded, config)

    bias = _position_bias(config, decoder["relpos_bias"]["rel_embedding"], inputs.shape[1], bidirectional=False)
    past = np.tril(np.ones((inputs.shape[1],) * 2, bool))[None] & everywhere[:, :, None]
    seen = attended[:, None, :] & everywhere[:, :, None]
    scored = seen & batch["decoder_loss_weights"].astype(bool)[:, :, None]
    added = gate_values if deletion == "soft" else None
    hidden = _drop(table[inputs], dropout.decoder_embedded, config)
    for number in range(config.num_decoder_layers):
        weights, kept = _layer(decoder["layers"], number), _layer(dropout.decoder, number)
        normed = _norm(hidden, weights["pre_self_attention_layer_norm"], config)
        out, _ = _attention(config, weights["self_attention"], normed, normed, past, past, bias, None, kept.weights)
        hidden = hidden + _drop(out, _place(kept.residual, 0), config)
        normed = _norm(hidden, weights["pre_cross_attention_layer_norm"], config)
        cross = weights["encoder_decoder_attention"]
        out, penalty = _attention(config, cross, normed, memory, seen, scored, 0, added, kept.cross_weights)
        penalties.append(penalty)
        hidden = hidden + _drop(out, _place(kept.residual, 1), config)
        normed = _norm(hidden, weights["pre_mlp_layer_norm"], config)
        hidden = hidden + _drop(_mlp(config, weights["mlp"], normed, kept.mlp), _place(kept.residual, 2), config)
    hidden = _drop(_norm(hidden, decoder["decoder_norm"], config), dropout.decoded, config)
    return Passed(hidden @ decoder["logits_dense"]["kernel"], gate_values, keep, np.mean(penalties, axis=0))


def bucket(distance: int, *, bidirectional: bool, num_buckets: int, max_distance: int) -> int:
    """T5's bucket of key position minus query position, in exact arithmetic."""
    first, past = 0, max(-distance, 0)
    if bidirectional:
        num_buckets //= 2
        first, past = (num_buckets if distance > 0 else 0), abs(distance)
    exact = num_buckets // 2
    if past < exact:
        return first + past
    # floor(coarse * log(past / exact) / log(max / exact)) is the number of powers that are not above.
    coarse = num_buckets - exact
    ratio, limit = Fraction(past, exact), Fraction(max_distance, exact)
    powers = sum(ratio**coarse >= limit**power for power in range(1, coarse + 1))
    return first + exact + min(powers, coarse - 1)


def _position_bias(config: ModelConfig, embedding: np.ndarray, length: int, *, bidirectional: bool) -> np.ndarray:
    """[heads query key]."""
    sizes = {"num_buckets": config.relpos_num_buckets, "max_distance": config.relpos_max_distance}
    numbers = [
        [bucket(key - query, bidirectional=bidirectional, **sizes) for key in range(length)] for query in range(length)
    ]
    return embedding[:, np.array(numbers)]


def _gate(config: ModelConfig, weights: Any, hidden: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gate values, and what hard deletion keeps."""
    assert config.gate is not None
    normed = _norm(hidden, weights["norm"], config) if config.gate.layer_norm else hidden
    logits = (normed @ weights["kernel"])[..., 0] + weights["bias"]
    values = config.gate.scale / (1 + np.exp(logits))
    threshold = config.gate.scale / 2 if config.gate.threshold is None else config.gate.threshold
    keep = (values > threshold) & present
    for row in range(len(keep)):
        if present[row].any() and not keep[row].any():
            keep[row, np.where(present[row], values[row], -np.inf).argmax()] = True
    return values, keep


def _attention(
    config: ModelConfig,
    weights: Any,
    hidden: np.ndarray,
    memory: np.ndarray,
    seen: np.ndarray,
    scored: np.ndarray,
    bias: np.ndarray | int,
    added: np.ndarray | None,
    kept: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Output, and [batch] the mean of max(score, 5) - 5 over heads and the pairs `scored` [batch query key]."""
    query, key, value = (
        (source @ weights[name]["kernel"]).reshape(*source.shape[:2], config.num_heads, config.head_dim)
        for name, source in (("query", hidden), ("key", memory), ("value", memory))
    )
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) + bias
    excess = np.where(scored[:, None], np.maximum(scores, 5) - 5, 0).sum((1, 2, 3))
    excess = excess / (config.num_heads * np.maximum(scored.sum((1, 2)), 1))
    if added is not None:
        scores = scores + added[:, None, None, :]
    powers = np.where(seen[:, None], np.exp(np.where(seen[:, None], scores, 0)), 0)
    total = powers.sum(-1, keepdims=True) + (1 if config.softmax1 else 0)
    attention = powers / np.where(total == 0, 1, total)
    if kept is not None:
        attention = attention * kept[:, :, None, :] / (1 - config.dropout_rate)
    values = np.einsum("bhqk,bkhd->bqhd", attention, value).reshape(*hidden.shape[:2], -1)
    return values @ weights["out"]["kernel"], excess


def _mlp(config: ModelConfig, weights: Any, hidden: np.ndarray, kept: np.ndarray | None) -> np.ndarray:
    gate, linear = hidden @ weights["wi_0"]["kernel"], hidden @ weights["wi_1"]["kernel"]
    gelu = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    return _drop(gelu * linear, kept, config) @ weights["wo"]["kernel"]


def _norm(hidden: np.ndarray, weights: Any, config: ModelConfig) -> np.ndarray:
    size = np.sqrt((hidden**2).mean(-1, keepdims=True) + config.layer_norm_epsilon)
    return hidden / size * weights["scale"]


def _drop(hidden: np.ndarray, kept: np.ndarray | None, config: ModelConfig) -> np.ndarray:
    """Units [batch width] dropped for all positions alike."""
    return hidden if kept is None else hidden * kept[:, None] / (1 - config.dropout_rate)


def _place(kept: np.ndarray | None, number: int) -> np.ndarray | None:
    return None if kept is None else kept[:, number]


def _layer(stacked: Any, number: int) -> Any:
    """One layer of a stack's parameters or draws."""
    if isinstance(stacked, dict):
        return {name: _layer(value, number) for name, value in stacked.items()}
    if isinstance(stacked, tuple):
        return type(stacked)(*(_layer(value, number) for value in stacked))
    return None if stacked is None else np.asarray(stacked)[number]

"""MrT5 for transformers: a byte-level T5 whose encoder learns which bytes to delete (Kallini et al., ICLR 2025).

Every folder that `mrt5 convert hf-export` writes has a copy of this file, which
`AutoModelForSeq2SeqLM.from_pretrained(FOLDER, trust_remote_code=True)` runs. It needs torch and transformers alone, and
takes T5's modules from there; what differs is the way through them:

- before encoder layer `delete_gate_layer` a gate gives every position a value in (k, 0): 0 keeps, k deletes;
- soft deletion adds these values to the scores of their positions, there and in cross-attention; training does;
- hard deletion removes the positions whose value is not above `deletion_threshold`, so that the rest of the model runs
  on fewer; evaluation and generation do. The others keep their positions and their order;
- `use_softmax1` gives every softmax one more score, which is 0 and has no value.

`model(..., deletion="soft")`, "hard" or "none" chooses by hand, in `generate` too. Outputs have `gate_values`, to be
penalised in training (`loss + alpha * (gate_values * mask).sum() / mask.sum()`), and `kept_mask`.
"""

# torch types what a module holds as any module, and transformers wraps its forward passes.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
)
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import (
    T5ForConditionalGeneration,
    T5LayerNorm,
    T5PreTrainedModel,
    T5Stack,
)

_DELETIONS = ("soft", "hard", "none")
_LOWEST = torch.finfo(torch.float32).min
_SHARE_STD = 0.05
_SEPARATORS = (12, 13, *range(35, 51), *range(61, 68), *range(94, 100), *range(126, 130), 1)
_CACHE = "cache" if "cache" in BaseModelOutputWithPastAndCrossAttentions.__dataclass_fields__ else "past_key_values"


class MrT5Config(T5Config):
    """T5's configuration and the gate's.

    Args:
        delete_gate_layer: the encoder layer at whose input the gate stands.
        sigmoid_mask_scale: k, the lowest gate value.
        deletion_threshold: hard deletion keeps gate values above it; k / 2 if None.
        gate_layer_norm: whether the gate norms its input.
        deletion_type: "scaled_sigmoid" (or None) is learned, "random" and "fixed" are rules without parameters.
        use_gumbel_noise: whether training adds Gumbel noise to the gate's logits.
        random_deletion_probability: mean share of positions that "random" deletes.
        fixed_deletion_amount: share of every segment's end that "fixed" deletes.
        use_softmax1: whether every softmax has one more score, 0.
    """

    model_type = "mrt5"

    def __init__(
        self,
        delete_gate_layer: int = 2,
        sigmoid_mask_scale: float = -10.0,
        deletion_threshold: float | None = None,
        gate_layer_norm: bool = True,
        deletion_type: str | None = "scaled_sigmoid",
        use_gumbel_noise: bool = False,
        random_deletion_probability: float = 0.5,
        fixed_deletion_amount: float = 0.5,
        use_softmax1: bool = False,
        **fields,
    ) -> None:
        deletion_type = deletion_type or "scaled_sigmoid"
        if deletion_type not in ("scaled_sigmoid", "random", "fixed"):
            raise ValueError(f"deletion_type={deletion_type!r}: should be scaled_sigmoid, random or fixed")
        self.delete_gate_layer = delete_gate_layer
        self.sigmoid_mask_scale = sigmoid_mask_scale
        self.deletion_threshold = sigmoid_mask_scale / 2 if deletion_threshold is None else deletion_threshold
        self.gate_layer_norm = gate_layer_norm
        self.deletion_type = deletion_type
        self.use_gumbel_noise = use_gumbel_noise
        self.random_deletion_probability = random_deletion_probability
        self.fixed_deletion_amount = fixed_deletion_amount
        self.use_softmax1 = use_softmax1
        super().__init__(**fields)


@dataclass
class MrT5EncoderOutput(BaseModelOutput):
    """The encoder's output at the slots that are left: all positions, or under hard deletion the kept ones.

    Attributes:
        key_bias: [batch slots], what attention adds to the scores of a slot; the lowest float at padding.
        gate_values: [batch length], 0 keeps and k deletes; None under deletion "none".
        kept_mask: [batch length], positions with input that are kept.
    """

    key_bias: torch.Tensor | None = None
    gate_values: torch.Tensor | None = None
    kept_mask: torch.Tensor | None = None


@dataclass
class MrT5Output(Seq2SeqLMOutput):
    """T5's output with `gate_values` and `kept_mask`, see `MrT5EncoderOutput`."""

    gate_values: torch.Tensor | None = None
    kept_mask: torch.Tensor | None = None


class _GateLogit(nn.Linear):
    """The gate's linear map, by its class told from others where weights are initialised."""


class _GateInitialisation(T5PreTrainedModel):
    """Gives a new gate the authors' values; by the version of transformers, the model is asked or its encoder."""

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, _GateLogit):
            nn.init.xavier_uniform_(module.weight)
            nn.init.ones_(module.bias)


class MrT5Gate(nn.Module):
    """The learned gate: G = k sigmoid(-z), z = w . RMSNorm(h) + c, in at least float32."""

    def __init__(self, config: MrT5Config) -> None:
        super().__init__()
        self.scale, self.has_noise = config.sigmoid_mask_scale, config.use_gumbel_noise
        if config.gate_layer_norm:
            self.layer_norm = T5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.feed_forward = _GateLogit(config.d_model, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Returns the gate values [batch length] of hidden states [batch length d_model]."""
        normed = _wide(self.layer_norm(hidden) if hasattr(self, "layer_norm") else hidden)
        weight, bias = self.feed_forward.weight.to(normed.dtype), self.feed_forward.bias.to(normed.dtype)
        logits = nn.functional.linear(normed, weight, bias)[..., 0]
        if self.training and self.has_noise:
            logits = logits - torch.log(-torch.log(torch.rand_like(logits).clamp_min(1e-20)))
        return self.scale * torch.sigmoid(-logits)


class MrT5Encoder(_GateInitialisation, T5Stack):
    """T5's encoder with the gate before layer `delete_gate_layer`."""

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        inputs_embeds=None,
        deletion=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        **kwargs,
    ):
        """Encodes [batch length] tokens; without an `attention_mask` what is not `pad_token_id` is input."""
        config = self.config
        deletion = deletion or ("soft" if self.training else "hard")
        if deletion not in _DELETIONS:
            raise ValueError(f"deletion={deletion!r}: should be one of {', '.join(_DELETIONS)}")
        _refuse_head_masks(kwargs)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if attention_mask is not None:
            mask = attention_mask.bool()
        elif input_ids is not None:
            mask = input_ids != config.pad_token_id
        else:
            mask = inputs_embeds.new_ones(inputs_embeds.shape[:2], dtype=torch.bool)
        hidden, key_bias = self.dropout(inputs_embeds), _bias_of(mask)
        positions = torch.arange(mask.shape[1], device=mask.device)[None]
        positional = _position_bias(self.block[0].layer[0].SelfAttention, positions, positions)
        values = kept = None
        states, attentions = [], []
        for number, block in enumerate(self.block):
            if number == config.delete_gate_layer and deletion != "none":
                values = self._gate_values(block, hidden, input_ids, mask)
                kept = _never_empty(values > config.deletion_threshold, values, mask)
                if deletion == "soft":
                    key_bias = key_bias + values
                else:
                    order = torch.argsort((~kept).int(), dim=1, stable=True)[:, : max(int(kept.sum(1).max()), 1)]
                    hidden = hidden.gather(1, order[..., None].expand(-1, -1, hidden.shape[-1]))
                    key_bias = _bias_of(kept.gather(1, order))
                    positional = _position_bias(self.block[0].layer[0].SelfAttention, order, order)
            states.append(hidden)
            bias = positional + key_bias[:, None, None, :]
            hidden, weights = _self_attention(block.layer[0], hidden, bias, config.use_softmax1)
            hidden = block.layer[-1](hidden)
            attentions.append(weights)
        hidden = self.dropout(self.final_layer_norm(hidden))
        outputs = MrT5EncoderOutput(
            last_hidden_state=hidden,
            hidden_states=(*states, hidden) if _asked(output_hidden_states, config.output_hidden_states) else None,
            attentions=tuple(attentions) if _asked(output_attentions, config.output_attentions) else None,
            key_bias=key_bias,
            gate_values=values,
            kept_mask=mask if kept is None else kept,
        )
        return outputs.to_tuple() if return_dict is False else outputs

    def _gate_values(self, block, hidden, input_ids, mask):
        config = self.config
        if config.deletion_type == "scaled_sigmoid":
            return block.delete_gate(hidden)
        if config.deletion_type == "random":
            kept = _random_choice(mask, config.random_deletion_probability)
        else:
            if input_ids is None:
                raise ValueError("deletion_type='fixed' reads the tokens: give input_ids, not inputs_embeds")
            kept = _beginnings(input_ids, mask, 1.0 - config.fixed_deletion_amount)
        kept = _never_empty(kept, kept.float(), mask)
        return torch.where(kept, 0.0, config.sigmoid_mask_scale).to(_wide(hidden).dtype)


class MrT5Decoder(T5Stack):
    """T5's decoder; its cross-attention sees the encoder's `key_bias`."""

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        inputs_embeds=None,
        past_key_values=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        **kwargs,
    ):
        """Decodes [batch target] tokens; `encoder_attention_mask` is a mask, or a bias of floats, [batch slots]."""
        config = self.config
        cache = kwargs.get("cache", past_key_values)
        if cache is None and _asked(use_cache, config.use_cache):
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        if getattr(cache, "is_compileable", False):
            raise ValueError("MrT5 decodes with caches that grow: leave cache_implementation out")
        past = 0 if cache is None else int(cache.get_seq_length())
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        hidden = self.dropout(inputs_embeds)
        length = past + hidden.shape[1]
        positions = torch.arange(length, device=hidden.device)[None]
        bias = _position_bias(self.block[0].layer[0].SelfAttention, positions[:, past:], positions)
        bias = bias.masked_fill((positions[0, past:, None] < positions)[None, None], _LOWEST)
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask.bool()[:, None, None, :length], _LOWEST)
        memory_bias = encoder_attention_mask
        if memory_bias is None:
            memory_bias = torch.zeros(encoder_hidden_states.shape[:2], device=hidden.device)
        elif not memory_bias.is_floating_point():
            memory_bias = _bias_of(memory_bias.bool())
        memory_bias = memory_bias[:, None, None, :]
        states, attentions, crossed = [], [], []
        for number, block in enumerate(self.block):
            states.append(hidden)
            hidden, weights = _self_attention(block.layer[0], hidden, bias, config.use_softmax1, cache, number)
            attentions.append(weights)
            hidden, weights = _cross_attention(
                block.layer[1], hidden, encoder_hidden_states, memory_bias, config.use_softmax1, cache, number
            )
            crossed.append(weights)
            hidden = block.layer[-1](hidden)
        hidden = self.dropout(self.final_layer_norm(hidden))
        with_attentions = _asked(output_attentions, config.output_attentions)
        outputs = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden,
            hidden_states=(*states, hidden) if _asked(output_hidden_states, config.output_hidden_states) else None,
            attentions=tuple(attentions) if with_attentions else None,
            cross_attentions=tuple(crossed) if with_attentions else None,
            **{_CACHE: cache},
        )
        return outputs.to_tuple() if return_dict is False else outputs


class MrT5ForConditionalGeneration(_GateInitialisation, T5ForConditionalGeneration):
    """T5 with a delete gate in its encoder."""

    config_class = MrT5Config
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = False
    _supports_sdpa = False
    _supports_flex_attn = False
    _supports_static_cache = False

    def __init__(self, config: MrT5Config) -> None:
        super().__init__(config)
        # The same modules, and another way through them: the constructors of T5's stacks differ between versions.
        self.encoder.__class__, self.decoder.__class__ = MrT5Encoder, MrT5Decoder
        if config.deletion_type == "scaled_sigmoid":
            self.encoder.block[config.delete_gate_layer].delete_gate = MrT5Gate(config)
        self.post_init()

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        decoder_input_ids=None,
        encoder_outputs=None,
        inputs_embeds=None,
        labels=None,
        deletion=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        **kwargs,
    ):
        """As T5's; `deletion` is "soft", "hard" or "none", by default soft in training and hard otherwise."""
        kwargs.pop("num_items_in_batch", None)
        _refuse_head_masks(kwargs)
        more = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                deletion=deletion,
                **more,
            )
        bias = getattr(encoder_outputs, "key_bias", None)
        if bias is None and attention_mask is not None:
            bias = _bias_of(attention_mask.bool())
        outputs = super().forward(
            attention_mask=bias,
            decoder_input_ids=decoder_input_ids,
            encoder_outputs=encoder_outputs,
            labels=labels,
            return_dict=True,
            **{name: value for name, value in more.items() if value is not None},
            **kwargs,
        )
        outputs = MrT5Output(
            **outputs,
            gate_values=getattr(encoder_outputs, "gate_values", None),
            kept_mask=getattr(encoder_outputs, "kept_mask", None),
        )
        return outputs.to_tuple() if return_dict is False else outputs


def _asked(argument, default) -> bool:
    return bool(default if argument is None else argument)


def _refuse_head_masks(kwargs) -> None:
    for name in ("head_mask", "decoder_head_mask", "cross_attn_head_mask"):
        if kwargs.get(name) is not None:
            raise ValueError(f"{name}: MrT5 masks no heads")


def _wide(array: torch.Tensor) -> torch.Tensor:
    return array.to(torch.promote_types(array.dtype, torch.float32))


def _bias_of(mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask, 0.0, _LOWEST).to(torch.float32)


def _never_empty(kept: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Lets rows with input but without kept positions keep the one of the highest value."""
    kept = kept & mask
    best = torch.argmax(values.detach().masked_fill(~mask, -math.inf), dim=1, keepdim=True)
    rescued = torch.zeros_like(kept).scatter_(1, best, True) & mask
    return kept | (rescued & ~kept.any(dim=1, keepdim=True))


def _random_choice(mask: torch.Tensor, probability: float) -> torch.Tensor:
    """Deletes a Normal(probability, 0.05) share of each row's positions."""
    present = mask.sum(dim=1, keepdim=True)
    share = (probability + _SHARE_STD * torch.randn(present.shape, device=mask.device)).clamp(0, 1)
    count = present - torch.round(share * present).long()
    chance = torch.rand(mask.shape, device=mask.device).masked_fill(~mask, 2.0)
    return (chance.argsort(dim=1).argsort(dim=1) < count) & mask


def _beginnings(tokens: torch.Tensor, mask: torch.Tensor, share: float) -> torch.Tensor:
    """Keeps the first ceil(share * length) bytes of every segment; segments begin at separators."""
    length = tokens.shape[1]
    position = torch.arange(length, device=tokens.device).expand_as(tokens)
    begins = torch.isin(tokens, torch.tensor(_SEPARATORS, device=tokens.device)) | (position == 0)
    start = torch.cummax(torch.where(begins, position, 0), dim=1).values
    ends = torch.where(begins | ~mask, position, length)
    ends = torch.cat([ends[:, 1:], torch.full_like(ends[:, :1], length)], dim=1)
    end = torch.cummin(ends.flip(1), dim=1).values.flip(1)
    # Rounded, since 0.6 * 25 is above 15.
    sizes = torch.tensor([math.ceil(round(share * size, 6)) for size in range(length + 1)], device=tokens.device)
    return (position - start < sizes[end - start]) & mask


def _position_bias(attention, query_positions: torch.Tensor, key_positions: torch.Tensor) -> torch.Tensor:
    """Returns the relative position bias [rows heads query key] of positions [rows query] and [rows key], in float32.

    From `relative_attention_max_distance` on all distances share a bucket, so a table of the nearer ones has them all.
    """
    furthest = attention.relative_attention_max_distance
    buckets = attention._relative_position_bucket(
        torch.arange(-furthest, furthest + 1, device=query_positions.device),
        bidirectional=not attention.is_decoder,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=furthest,
    )
    table = _wide(attention.relative_attention_bias(buckets)).T
    distances = key_positions[:, None, :] - query_positions[:, :, None]
    return table[:, distances.clamp(-furthest, furthest) + furthest].transpose(0, 1)


def _heads(attention, states: torch.Tensor) -> torch.Tensor:
    return states.unflatten(-1, (attention.n_heads, attention.key_value_proj_dim)).transpose(1, 2)


def _attend(attention, queries, keys, values, bias, softmax1: bool):
    """Returns [batch query d_model] and the weights [batch heads query key]; scores are in at least float32."""
    scores = _wide(queries @ keys.transpose(-1, -2)) + bias
    if softmax1:
        scores = nn.functional.pad(scores, (0, 1))
    weights = torch.softmax(scores, dim=-1)
    if softmax1:
        weights = weights[..., :-1]
    weights = nn.functional.dropout(weights.to(values.dtype), attention.dropout, attention.training)
    return attention.o((weights @ values).transpose(1, 2).flatten(2)), weights


def _self_attention(layer, hidden, bias, softmax1: bool, cache=None, number: int = 0):
    attention, normed = layer.SelfAttention, layer.layer_norm(hidden)
    queries, keys, values = (_heads(attention, linear(normed)) for linear in (attention.q, attention.k, attention.v))
    if cache is not None:
        keys, values = cache.self_attention_cache.update(keys, values, number)
    attended, weights = _attend(attention, queries, keys, values, bias, softmax1)
    return hidden + layer.dropout(attended), weights


def _cross_attention(layer, hidden, memory, bias, softmax1: bool, cache=None, number: int = 0):
    attention = layer.EncDecAttention
    queries = _heads(attention, attention.q(layer.layer_norm(hidden)))
    if cache is not None and cache.is_updated.get(number):
        keys, values = _stored(cache.cross_attention_cache, number)
    else:
        keys, values = (_heads(attention, linear(memory)) for linear in (attention.k, attention.v))
        if cache is not None:
            keys, values = cache.cross_attention_cache.update(keys, values, number)
            cache.is_updated[number] = True
    attended, weights = _attend(attention, queries, keys, values, bias, softmax1)
    return hidden + layer.dropout(attended), weights


def _stored(cache, number: int):
    if hasattr(cache, "layers"):
        return cache.layers[number].keys, cache.layers[number].values
    return cache.key_cache[number], cache.value_cache[number]

"""Hugging Face's config.json of T5 v1.1, ByT5 and the authors' MrT5, as our ModelConfig and back."""

from typing import Any, TypeVar

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.selection.selectors import deletion_threshold, pools

_T5_DEFAULTS: dict[str, Any] = {
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_decoder_layers": None,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "dense_act_fn": "gelu_new",
    "is_gated_act": True,
    "tie_word_embeddings": True,
    "use_softmax1": False,
    "has_absolute_position_embeddings": False,
    "is_encoder_decoder": True,
    "tie_encoder_decoder": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_MRT5_DEFAULTS: dict[str, Any] = {
    "delete_gate_layer": 2,
    "sigmoid_mask_scale": -10.0,
    "deletion_threshold": None,
    "gate_layer_norm": True,
    "deletion_type": "scaled_sigmoid",
    "use_gumbel_noise": False,
    "random_deletion_probability": 0.5,
    "fixed_deletion_amount": 0.5,
}
"""What the authors' classes take for a field that config.json leaves out."""

_FIXED = {
    "vocab_size": (384, "byte models have 384 rows"),
    "feed_forward_proj": ("gated-gelu", "T5 v1.1 has gated GELU"),
    "dense_act_fn": ("gelu_new", "T5 v1.1 has gated GELU"),
    "is_gated_act": (True, "T5 v1.1 has gated GELU"),
    "has_absolute_position_embeddings": (False, "T5 v1.1 has relative positions only"),
    "is_encoder_decoder": (True, "only encoder-decoder models are read"),
    "tie_encoder_decoder": (False, "encoder and decoder have their own weights"),
    "pad_token_id": (0, "the byte vocabulary pads with 0"),
    "eos_token_id": (1, "the byte vocabulary ends with 1"),
    "decoder_start_token_id": (0, "decoding starts from the pad 0"),
}
"""Fields that T5 v1.1 over bytes leaves no choice in."""

_KINDS = {
    "scaled_sigmoid": "learned",
    "random": "random",
    "fixed": "fixed",
}
_DELETION_TYPES = {kind: deletion_type for deletion_type, kind in _KINDS.items()}

_CANINE = "CanineT5ForConditionalGeneration"
"""The authors' T5 with convolutional pooling; its model_type is t5."""
TOKENIZER_CLASS = "ByT5Tokenizer"
MODELING = "modeling_mrt5.py"
"""The code beside this file that goes with every MrT5 that is exported, for transformers to run."""
AUTO_MAP = {
    "AutoConfig": "modeling_mrt5.MrT5Config",
    "AutoModelForSeq2SeqLM": "modeling_mrt5.MrT5ForConditionalGeneration",
}
"""What config.json tells transformers of it."""

Value = TypeVar("Value", int, float, bool)


def model_config(fields: dict[str, Any], place: str) -> ModelConfig:
    """Returns the ModelConfig of a config.json.

    Args:
        fields: the JSON object.
        place: the file, for messages.

    Raises:
        UserError: the architecture is not T5 v1.1 or MrT5, the vocabulary is not the bytes', or a field is of a wrong
            type.
    """
    if fields.get("model_type", "t5") not in ("t5", "mrt5"):
        raise UserError(f"{place}: model_type is {fields['model_type']!r}; only t5 and mrt5 are read")
    complete = _complete(fields)
    for name, (value, reason) in _FIXED.items():
        if complete[name] != value:
            raise UserError(f"{place}: {name} is {complete[name]!r}, not {value!r}: {reason}")

    def get(name: str, kind: type[Value]) -> Value:
        value: Any = complete.get(name)
        if kind is float and type(value) is int:
            return kind(value)
        if type(value) is not kind or (kind is int and value <= 0):
            raise UserError(f"{place}: {name} is {value!r}, not a valid {kind.__name__}")
        return value

    gate, layer = None, "delete_gate_layer"
    if _CANINE in (fields.get("architectures") or ()):
        layer = "downsampling_layer"
        gate = GateConfig(
            layer=get(layer, int),
            kind="every_kth",
            stride=get("downsampling_rate", int),
            reduction="convolution",
            drop_tail=True,
        )
    elif complete["model_type"] == "mrt5":
        deletion_type = complete["deletion_type"]
        if deletion_type not in tuple(_KINDS):
            raise UserError(f"{place}: deletion_type {deletion_type!r} is not one of scaled_sigmoid, random, fixed")
        kind = _KINDS[deletion_type]
        share = {"random": "random_deletion_probability", "fixed": "fixed_deletion_amount"}.get(kind)
        gate = GateConfig(
            layer=get(layer, int),
            kind=kind,
            scale=get("sigmoid_mask_scale", float),
            threshold=get("deletion_threshold", float),
            layer_norm=get("gate_layer_norm", bool),
            gumbel_noise=get("use_gumbel_noise", bool),
            deletion_probability=GateConfig.deletion_probability if share is None else get(share, float),
        )
    config = ModelConfig(
        emb_dim=get("d_model", int),
        num_heads=get("num_heads", int),
        head_dim=get("d_kv", int),
        mlp_dim=get("d_ff", int),
        num_encoder_layers=get("num_layers", int),
        num_decoder_layers=get("num_decoder_layers", int),
        vocab_size=get("vocab_size", int),
        gate=gate,
        softmax1=get("use_softmax1", bool),
        dropout_rate=get("dropout_rate", float),
        relpos_num_buckets=get("relative_attention_num_buckets", int),
        relpos_max_distance=get("relative_attention_max_distance", int),
        layer_norm_epsilon=get("layer_norm_epsilon", float),
    )
    if gate is not None and gate.layer >= config.num_encoder_layers:
        raise UserError(f"{place}: {layer} is {gate.layer}; the encoder has {config.num_encoder_layers} layers")
    if gate is not None and pools(gate) and gate.stride < 2:
        raise UserError(f"{place}: downsampling_rate is {gate.stride}, which pools nothing; give at least 2")
    return config


def write_config(config: ModelConfig, source: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the config.json of a model.

    Args:
        config: the model.
        source: the config.json that the model was imported with; its fields stay as they are wherever they mean the
            same, and its other fields stay too.
    """
    ours: dict[str, Any] = {
        "model_type": "t5" if config.gate is None or pools(config.gate) else "mrt5",
        "vocab_size": config.vocab_size,
        "d_model": config.emb_dim,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "num_heads": config.num_heads,
        "relative_attention_num_buckets": config.relpos_num_buckets,
        "relative_attention_max_distance": config.relpos_max_distance,
        "dropout_rate": config.dropout_rate,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "use_softmax1": config.softmax1,
    }
    if config.gate is not None:
        ours |= _gate_fields(config.gate)
    if source is None:
        fixed = {name: value for name, (value, _) in _FIXED.items()}
        return {
            "architectures": [_architecture(config.gate)],
            **fixed,
            **ours,
            "tie_word_embeddings": False,
            "tokenizer_class": TOKENIZER_CLASS,
            "use_cache": True,
        }
    before = _complete(source)
    fields = dict(source) | {name: value for name, value in ours.items() if before.get(name) != value}
    pooled_before = _CANINE in (source.get("architectures") or ())
    if (before["model_type"], pooled_before) != (ours["model_type"], pools(config.gate)):
        fields["architectures"] = [_architecture(config.gate)]
    return fields


def _architecture(gate: GateConfig | None) -> str:
    if gate is None:
        return "T5ForConditionalGeneration"
    return _CANINE if pools(gate) else "MrT5ForConditionalGeneration"


def _gate_fields(gate: GateConfig) -> dict[str, Any]:
    if pools(gate) and gate.reduction == "convolution" and gate.drop_tail:
        return {"downsampling_layer": gate.layer, "downsampling_rate": gate.stride}
    if gate.kind not in _DELETION_TYPES:
        raise UserError(
            f"a gate of kind = {gate.kind!r} has no name in Hugging Face's config.json, {', '.join(_DELETION_TYPES)} "
            "have: export it by `mrt5 convert jax-export` or `mrt5 convert t5x-export`"
        )
    fields = {
        "delete_gate_layer": gate.layer,
        "sigmoid_mask_scale": gate.scale,
        "deletion_threshold": deletion_threshold(gate),
        "gate_layer_norm": gate.layer_norm,
        "deletion_type": _DELETION_TYPES[gate.kind],
        "use_gumbel_noise": gate.gumbel_noise,
    }
    if gate.kind == "random":
        fields["random_deletion_probability"] = gate.deletion_probability
    if gate.kind == "fixed":
        fields["fixed_deletion_amount"] = gate.deletion_probability
    return fields


def _complete(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with the classes' defaults for what is left out."""
    complete = {**_T5_DEFAULTS, **_MRT5_DEFAULTS, **fields}
    if complete["num_decoder_layers"] is None:
        complete["num_decoder_layers"] = complete["num_layers"]
    if complete["deletion_type"] is None:
        complete["deletion_type"] = _MRT5_DEFAULTS["deletion_type"]
    if complete["deletion_threshold"] is None and isinstance(complete["sigmoid_mask_scale"], int | float):
        complete["deletion_threshold"] = complete["sigmoid_mask_scale"] / 2
    return complete


def may_be_tied(fields: dict[str, Any]) -> bool:
    """Says whether a missing output head is the embedding, or the other way round: unless config.json denies it."""
    return fields.get("tie_word_embeddings", _T5_DEFAULTS["tie_word_embeddings"]) is not False


def head_scale(fields: dict[str, Any], emb_dim: int) -> float:
    """Returns what the decoder's outputs are multiplied by before the output head.

    transformers 5 writes `tie_word_embeddings: true` for every T5 and says in `scale_decoder_outputs` what the older
    field meant: T5 v1.0 scales the decoder's outputs because its head is the embedding.
    """
    scaled = fields.get("scale_decoder_outputs", may_be_tied(fields))
    return emb_dim**-0.5 if scaled is not False else 1.0

import dataclasses

import pytest

from mrt5_jax.config import GateConfig, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.interop.hf_config import head_scale, model_config, write_config

SIZES = {"vocab_size": 384, "d_model": 8, "d_kv": 3, "d_ff": 5, "num_layers": 3, "num_heads": 2}
BYT5 = {**SIZES, "model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


def test_fields_left_out_have_the_authors_defaults() -> None:
    config = model_config({**BYT5, "model_type": "mrt5"}, "config.json")
    assert config.gate == GateConfig(layer=2, scale=-10.0, threshold=-5.0, layer_norm=True)
    assert not config.softmax1
    assert (config.num_decoder_layers, config.relpos_num_buckets, config.relpos_max_distance) == (3, 32, 128)


def test_fields_that_are_there_are_taken() -> None:
    fields = {
        **BYT5,
        "model_type": "mrt5",
        "num_decoder_layers": 1,
        "delete_gate_layer": 1,
        "sigmoid_mask_scale": -30,
        "deletion_threshold": -12.5,
        "gate_layer_norm": False,
        "use_gumbel_noise": True,
        "use_softmax1": True,
        "dropout_rate": 0.25,
        "layer_norm_epsilon": 1e-5,
    }
    gate = GateConfig(layer=1, scale=-30.0, threshold=-12.5, layer_norm=False, gumbel_noise=True)
    expected = ModelConfig(8, 2, 3, 5, 3, 1, gate=gate, softmax1=True, dropout_rate=0.25, layer_norm_epsilon=1e-5)
    assert model_config(fields, "config.json") == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"feed_forward_proj": "relu"}, "feed_forward_proj is 'relu'"),
        ({"feed_forward_proj": None}, "feed_forward_proj is None"),
        ({"dense_act_fn": "relu"}, "dense_act_fn is 'relu'"),
        ({"has_absolute_position_embeddings": True}, "has_absolute_position_embeddings"),
        ({"vocab_size": 32128}, "vocab_size is 32128"),
        ({"model_type": "bart"}, "model_type is 'bart'"),
        ({"eos_token_id": 2}, "eos_token_id is 2"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder"),
        ({"d_model": "large"}, "d_model is 'large'"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"model_type": "mrt5", "deletion_type": "log_sigmoid"}, "deletion_type 'log_sigmoid'"),
        ({"model_type": "mrt5", "delete_gate_layer": 3}, "delete_gate_layer is 3"),
        ({"model_type": "mrt5", "delete_gate_layer": 0}, "delete_gate_layer is 0"),
        ({"model_type": "mrt5", "sigmoid_mask_scale": None}, "sigmoid_mask_scale is None"),
    ],
    ids=str,
)
def test_another_architecture_is_refused_by_field(change, named) -> None:
    with pytest.raises(UserError, match=rf"^some/config.json: {named}"):
        model_config({**BYT5, **change}, "some/config.json")


@pytest.mark.parametrize(
    ("change", "scale"),
    [
        ({}, 1.0),
        ({"tie_word_embeddings": True}, 0.25),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, 1.0),
        ({"tie_word_embeddings": False, "scale_decoder_outputs": True}, 0.25),
        ({"tie_word_embeddings": None}, 0.25),
    ],
    ids=str,
)
def test_the_scale_of_the_head_is_that_of_transformers_5(change, scale) -> None:
    assert head_scale({**BYT5, **change}, 16) == scale


def test_the_way_transformers_5_says_untied_is_understood() -> None:
    newer = {**BYT5, "tie_word_embeddings": True, "scale_decoder_outputs": False}
    assert model_config(newer, "config.json") == model_config(BYT5, "config.json")


@pytest.mark.parametrize(
    "gate",
    [
        None,
        GateConfig(layer=1, threshold=-15.0, gumbel_noise=True),
        GateConfig(layer=2, kind="random", threshold=-15.0, deletion_probability=0.3),
        GateConfig(layer=2, kind="fixed", threshold=-15.0, deletion_probability=0.7),
    ],
    ids=str,
)
def test_a_config_written_afresh_reads_back(byt5, gate) -> None:
    config = dataclasses.replace(byt5, gate=gate, softmax1=gate is not None)
    assert model_config(write_config(config, None), "config.json") == config


def test_a_sources_fields_stay_as_they_are() -> None:
    source = {
        **BYT5,
        "model_type": "mrt5",
        "num_decoder_layers": None,
        "deletion_threshold": None,
        "auto_map": {"a": "b"},
    }
    assert write_config(model_config(source, "config.json"), source) == source


def test_only_what_changed_since_the_import_is_rewritten(byt5) -> None:
    source = {**BYT5, "num_decoder_layers": 2, "architectures": ["T5ForConditionalGeneration"], "note": "kept"}
    gated = dataclasses.replace(byt5, gate=GateConfig(layer=1), softmax1=True)
    fields = write_config(gated, source)
    assert fields["model_type"] == "mrt5"
    assert fields["architectures"] == ["MrT5ForConditionalGeneration"]
    assert fields["note"] == "kept"
    assert fields["delete_gate_layer"] == 1
    assert fields["deletion_threshold"] == -15.0
    assert fields["use_softmax1"] is True

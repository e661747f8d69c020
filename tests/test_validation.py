"""Configurations that make no sense are refused by name, before anything is read or written."""

import dataclasses
import typing

import pytest

from mrt5_jax import config
from mrt5_jax.errors import UserError
from mrt5_jax.selection.step_deletions import step_deletions
from mrt5_jax.validation import RULES, validate

RUN = config.RunConfig(
    model_dir="runs/test",
    model=config.ModelConfig(
        emb_dim=8,
        num_heads=2,
        head_dim=4,
        mlp_dim=16,
        num_encoder_layers=3,
        num_decoder_layers=1,
        gate=config.GateConfig(layer=1),
    ),
    data=config.DataConfig("task", ("task",), input_length=8, target_length=8, batch_size=2, eval_batch_size=2),
    training=config.TrainingConfig(num_steps=10),
    controller=config.ControllerConfig(target_deletion_rate=0.5),
)

OUT_OF_RANGE = {
    "model.gate.layer": [0, 3, -1],
    "model.gate.scale": [0.0, 1.0, float("nan")],
    "model.gate.threshold": [-30.0, 0.0, -31.0],
    "model.gate.deletion_probability": [-0.1, 0.0, 1.0],
    "model.emb_dim": [0],
    "model.num_heads": [-1],
    "model.vocab_size": [256],
    "model.dropout_rate": [1.0, -0.1, float("nan")],
    "model.relpos_num_buckets": [31, 0],
    "model.relpos_max_distance": [8],
    "data.train_task": [""],
    "data.eval_tasks": [()],
    "data.input_length": [0],
    "data.batch_size": [0],
    "training.num_steps": [0],
    "training.profile_steps": [(0, 2), (3, 2), (9, 11), (11, 12)],
    "execution.log_every": [0],
    "loss.score_penalty": [-1.0, float("inf")],
    "loss.regularizer_delay": [-1],
    "controller.target_deletion_rate": [0.0, 1.0],
    "optimizer.learning_rate": [0.0, float("inf")],
    "optimizer.clip_norm": [0.0],
    "checkpoints.keep": [0],
    "execution.max_rungs": [0],
    "execution.rounding": [0, 9],
    "execution.rungs": [(4, 4), (6, 2), (0, 4), (4, 9)],
    "compaction.capacity": [0.0, 1.1],
    "execution.chunks": [0],
    "execution.microbatches": [0],
    "monitor.interval": [0],
    "evaluation.deletions": [()],
    "evaluation.num_examples": [0],
    "model_dir": [""],
    "warm_start": [""],
}


def replaced(node: typing.Any, path: str, value: typing.Any) -> typing.Any:
    """A copy of nested dataclasses with one field changed."""
    name, _, rest = path.partition(".")
    return dataclasses.replace(node, **{name: replaced(getattr(node, name), rest, value) if rest else value})


def test_a_sensible_run_passes() -> None:
    validate(RUN)


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, values in OUT_OF_RANGE.items() for value in values]
)
def test_a_value_out_of_range_is_refused_in_one_line_that_names_it(path: str, value: object) -> None:
    with pytest.raises(UserError) as error:
        validate(replaced(RUN, path, value))
    message = str(error.value)
    assert f".{path.rpartition('.')[2]} = {value!r}: should be " in message
    assert "\n" not in message


def test_optional_values_may_be_left_out() -> None:
    validate(replaced(replaced(RUN, "optimizer.clip_norm", None), "model.gate.threshold", -15.0))
    validate(replaced(RUN, "training.profile_steps", (10, 10)))


def test_a_model_without_a_gate_needs_no_controller_and_may_have_none() -> None:
    plain = replaced(RUN, "model.gate", None)
    with pytest.raises(UserError, match="without a gate"):
        validate(plain)
    validate(replaced(plain, "controller", None))


def test_a_controller_that_could_never_push_is_refused() -> None:
    weak = replaced(RUN, "controller.proportional_gain", 0.0)
    validate(weak)
    with pytest.raises(UserError, match="both 0, so alpha would stay 0: give one of them"):
        validate(replaced(weak, "controller.integral_gain", 0.0))


def test_saturated_deletion_is_refused_where_it_can_remove_nothing_or_too_much() -> None:
    """No gate; a gate whose values never fall so low (k = -10); a threshold above the one of deletion."""
    saturated = replaced(RUN, "training.deletion", "saturated")
    validate(saturated)
    for path, value, message in (
        ("model.gate.scale", -10.0, "scale = -10.0: gate values never fall below it"),
        ("compaction.saturation_threshold", -14.0, "saturation_threshold = -14.0: should be at most -15.0"),
    ):
        with pytest.raises(UserError, match=message):
            validate(replaced(saturated, path, value))
    with pytest.raises(UserError, match="has nothing to delete"):
        validate(replaced(replaced(saturated, "controller", None), "model.gate", None))


def test_deletion_that_decides_is_soft_where_it_cannot_saturate_or_drops() -> None:
    """Nothing is refused for a weak gate or for none; a capacity would drop in some steps and not in others."""
    auto = replaced(replaced(RUN, "training.deletion", "auto"), "execution.chunks", "auto")
    validate(auto)
    assert step_deletions(auto).all == ("soft", "saturated")
    weak = replaced(auto, "model.gate.scale", -10.0)
    validate(weak)
    assert step_deletions(weak).all == ("soft",)
    assert "never fall below GateConfig.scale = -10.0" in step_deletions(weak).why
    without = replaced(replaced(auto, "controller", None), "model.gate", None)
    validate(without)
    assert step_deletions(without).all == ("none",)
    with pytest.raises(UserError, match="beside it deletion = 'auto' stays soft") as error:
        validate(replaced(auto, "compaction.capacity", 0.5))
    assert "\n" not in str(error.value)
    mixed = replaced(replaced(auto, "training.hard_probability", 0.5), "compaction.capacity", 0.5)
    validate(mixed)
    assert step_deletions(mixed).all == ("soft", "hard")
    with pytest.raises(UserError, match=r"monitor.* nothing reads it|MonitorConfig.* nothing reads it"):
        validate(replaced(mixed, "monitor.tolerance", 0.5))


def test_a_batch_that_microbatches_and_chunks_do_not_divide_is_refused() -> None:
    cut = replaced(replaced(RUN, "data.batch_size", 12), "execution.microbatches", 2)
    validate(replaced(cut, "execution.chunks", 3))
    for chunks in (4, 24):
        with pytest.raises(UserError, match=f"multiple of microbatches=2 times chunks={chunks}"):
            validate(replaced(cut, "execution.chunks", chunks))
    validate(replaced(cut, "execution.chunks", "auto"))


def test_rows_and_length_buckets_that_do_not_fit_each_other_are_refused() -> None:
    validate(replaced(RUN, "data.length_buckets", (4, 8)))
    for buckets, rows in (((4, 6), "one_a_row"), ((4, 8), "packed")):
        with pytest.raises(UserError, match="length_buckets"):
            validate(replaced(replaced(RUN, "data.rows", rows), "data.length_buckets", buckets))


def test_every_number_of_a_configuration_has_a_range_or_a_reason_to_have_none() -> None:
    checked_elsewhere = {
        "GateConfig.layer",  # against the number of layers
        "GateConfig.threshold",  # against the scale
        "ModelConfig.relpos_max_distance",  # against the buckets
        *(f"MeshConfig.{axis}" for axis in ("data", "fsdp", "tensor")),  # against the devices
    }
    any_value = {
        "GateConfig.bias_init",
        "OptimizerConfig.decay_factor",
    }
    without_range = set()
    for cls in filter(dataclasses.is_dataclass, vars(config).values()):
        for name, hint in typing.get_type_hints(cls).items():
            is_number = {int, float}.intersection((hint, *typing.get_args(hint))) and typing.get_origin(
                hint
            ) is not tuple
            if is_number and name not in RULES.get(cls, {}):
                without_range.add(f"{cls.__name__}.{name}")
    assert without_range == checked_elsewhere | any_value


def test_rules_name_fields_that_exist() -> None:
    for cls, rules in RULES.items():
        assert set(rules) <= {field.name for field in dataclasses.fields(cls)}, cls

"""Whether a configuration makes sense: what the types of config.py cannot say.

Touches no data and no device: what depends on those (tasks, the mesh) is checked where they are opened. One file is
read, that of an oracle's masks.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from mrt5_jax import config
from mrt5_jax.compaction.chunk_counts import fixed_chunks
from mrt5_jax.data.arrangements import input_lengths
from mrt5_jax.errors import UserError
from mrt5_jax.objectives.controllers import LAWS
from mrt5_jax.pairs import check_pairs
from mrt5_jax.selection.deletions import DELETIONS
from mrt5_jax.selection.selector_rule import GATE_MEAN
from mrt5_jax.selection.selectors import (
    ONE_OF_YOURS,
    SELECTORS,
    check_deletion,
    check_stride,
    deletion_threshold,
    selector_rule,
)
from mrt5_jax.selection.settings import check_settings
from mrt5_jax.selection.step_deletions import step_deletions
from mrt5_jax.spelling import nearest
from mrt5_jax.unread_settings import unread


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a number, text or tuple has to be; None, where a field allows it, always passes."""

    holds: Callable[[Any], bool]
    expected: str


POSITIVE = Rule(lambda value: 0 < value < math.inf, "greater than 0")
NOT_NEGATIVE = Rule(lambda value: 0 <= value < math.inf, "0 or greater")
NEGATIVE = Rule(lambda value: -math.inf < value < 0, "less than 0")
BELOW_ONE = Rule(lambda value: 0 <= value < 1, "at least 0 and less than 1")
RATE = Rule(lambda value: 0 < value < 1, "between 0 and 1")
SHARE = Rule(lambda value: 0 <= value <= 1, "from 0 to 1")
POSITIVE_OR_AUTO = Rule(lambda value: value == "auto" or 0 < value < math.inf, "greater than 0, or 'auto'")
NOT_EMPTY = Rule(lambda value: len(value) > 0, "given")
BYTES = Rule(lambda value: value >= 259, "at least 259: 256 bytes and three special ids")
INCREASING = Rule(
    lambda value: all(lower < upper for lower, upper in zip((0, *value), value, strict=False)),
    "positive and increasing lengths, as in (256, 512)",
)
CAPACITY = Rule(lambda value: 0 < value <= 1, "above 0 and at most 1")
SEED = Rule(lambda value: 0 <= value < 2**32, "from 0 to 4294967295: a seed has 32 bits")
STRIDE = Rule(lambda value: value >= 2, "at least 2: every position would own a slot")
SELECTOR = Rule(lambda value: value in SELECTORS, " or ".join([*map(repr, SELECTORS), ONE_OF_YOURS]))
WEIGHTS = Rule(lambda value: all(math.isfinite(weight) for _, weight in value), "names with finite weights")
LAW = Rule(lambda value: value in LAWS, " or ".join(map(repr, LAWS)))
LANGUAGE_TARGETS = Rule(
    lambda value: len(dict(value)) == len(value) and all(name and 0 < rate < 1 for name, rate in value),
    "languages, each once, with rates between 0 and 1, as in (('en', 0.5), ('zh', 0.3))",
)
STEPS = Rule(lambda value: 1 <= value[0] <= value[1], "a first and a last step, as in (10, 12)")

RULES: dict[type, dict[str, Rule]] = {
    config.GateConfig: {"kind": SELECTOR, "stride": STRIDE, "scale": NEGATIVE, "deletion_probability": RATE},
    config.ModelConfig: {
        "emb_dim": POSITIVE,
        "num_heads": POSITIVE,
        "head_dim": POSITIVE,
        "mlp_dim": POSITIVE,
        "num_encoder_layers": POSITIVE,
        "num_decoder_layers": POSITIVE,
        "vocab_size": BYTES,
        "dropout_rate": BELOW_ONE,
        "relpos_num_buckets": Rule(lambda value: value >= 4 and value % 2 == 0, "even, and at least 4"),
        "layer_norm_epsilon": POSITIVE,
    },
    config.CompactionConfig: {"capacity": CAPACITY, "saturation_threshold": NEGATIVE},
    config.ExecutionConfig: {
        "microbatches": POSITIVE,
        "scan_unroll": POSITIVE,
        "rungs": INCREASING,
        "rounding": POSITIVE,
        "max_rungs": POSITIVE,
        "chunks": POSITIVE_OR_AUTO,
        "window": POSITIVE,
        "log_every": POSITIVE,
    },
    config.MonitorConfig: {"interval": POSITIVE, "tolerance": NOT_NEGATIVE, "hysteresis": SHARE},
    config.DataConfig: {
        "train_task": NOT_EMPTY,
        "eval_tasks": NOT_EMPTY,
        "input_length": POSITIVE,
        "target_length": POSITIVE,
        "batch_size": POSITIVE,
        "eval_batch_size": POSITIVE,
    },
    config.LossConfig: {
        "z_loss": NOT_NEGATIVE,
        "score_penalty": NOT_NEGATIVE,
        "gate_weight": NOT_NEGATIVE,
        "penalties": WEIGHTS,
        "regularizer_delay": NOT_NEGATIVE,
    },
    config.ControllerConfig: {
        "target_deletion_rate": RATE,
        "proportional_gain": NOT_NEGATIVE,
        "integral_gain": NOT_NEGATIVE,
        "smoothing": BELOW_ONE,
        "kind": LAW,
        "language_targets": LANGUAGE_TARGETS,
    },
    config.OptimizerConfig: {
        "learning_rate": POSITIVE,
        "gate_learning_rate": POSITIVE,
        "steps_per_decay": POSITIVE,
        "steps_per_cycle": POSITIVE,
        "warmup_steps": NOT_NEGATIVE,
        "weight_decay": NOT_NEGATIVE,
        "clip_norm": POSITIVE,
        "b1": BELOW_ONE,
        "b2": BELOW_ONE,
        "eps": POSITIVE,
    },
    config.CheckpointConfig: {"every": POSITIVE, "keep": POSITIVE, "keep_period": POSITIVE, "keep_best": NOT_NEGATIVE},
    config.TrainingConfig: {
        "num_steps": POSITIVE,
        "seed": SEED,
        "eval_every": POSITIVE,
        "eval_batches": POSITIVE,
        "max_refused_steps": POSITIVE,
        "hard_probability": SHARE,
        "profile_steps": STEPS,
    },
    config.EvaluationConfig: {
        "deletions": NOT_EMPTY,
        "num_examples": POSITIVE,
        "capacity": CAPACITY,
        "seed": SEED,
    },
    config.RunConfig: {"model_dir": NOT_EMPTY, "warm_start": NOT_EMPTY},
}


LARGEST_INTEGER = 2**31 - 1
"""Steps, lengths and counts are int32 on the devices."""


def validate(run: config.RunConfig) -> None:
    """Checks every field, and the fields that have to fit each other.

    Raises:
      UserError: names the first field that does not fit, its value, and what it should be.
    """
    check_ranges(run)
    check_pairs(run)
    input_lengths(run.data)
    if run.model.gate is not None:
        check_gate(run.model.gate, run.model.num_encoder_layers)
        _check_penalties(run.loss, run.model.gate)
        _check_pooling(run, run.model.gate)
    _check_compaction(run)
    if run.model.relpos_max_distance <= run.model.relpos_num_buckets // 4:
        _refuse(
            run.model, "relpos_max_distance", f"above a quarter of relpos_num_buckets={run.model.relpos_num_buckets}"
        )
    if run.training.profile_steps is not None and run.training.profile_steps[1] > run.training.num_steps:
        _refuse(
            run.training, "profile_steps", f"steps of the run, of which there are num_steps={run.training.num_steps}"
        )
    if run.controller is not None:
        _check_controller(run, run.controller)
    for field in unread(run):
        raise UserError(field.complaint)


def _check_controller(run: config.RunConfig, controller: config.ControllerConfig) -> None:
    if controller.kind == "one_sided" and controller.proportional_gain == controller.integral_gain == 0:
        raise UserError(
            "config.ControllerConfig.proportional_gain and integral_gain are both 0, so alpha would stay 0: give one "
            "of them, or set config.RunConfig.controller to None"
        )
    if controller.language_targets and run.data.rows == "packed":
        raise UserError(
            "config.ControllerConfig.language_targets: a packed row may mix languages; set it to (), or "
            "config.DataConfig.rows to 'one_a_row'"
        )
    holding = None if run.model.gate is None else selector_rule(run.model.gate).holding
    if holding is not None and not dict(run.loss.penalties).get(holding):
        raise UserError(
            f"config.RunConfig.controller: the selector's penalty {holding!r} holds the target, and has no weight: "
            f"give config.LossConfig.penalties = (({holding!r}, 1.0),), or set the controller to None"
        )


def check_ranges(node: Any) -> None:
    """Refuses numbers of a dataclass, and of those in it, that cannot be; inner ones first.

    Raises:
      UserError: names the first that cannot, and what it should be.
    """
    for field in dataclasses.fields(node):
        if dataclasses.is_dataclass(getattr(node, field.name)):
            check_ranges(getattr(node, field.name))
    rules = RULES.get(type(node), {})
    for name, rule in rules.items():
        value = getattr(node, name)
        if value is not None and not rule.holds(value):
            _refuse(node, name, rule.expected)
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if rules.get(field.name) is not SEED and not all(map(_fits, value if isinstance(value, tuple) else (value,))):
            _refuse(node, field.name, f"finite, and at most {LARGEST_INTEGER} where it is a whole number")


def _fits(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) <= LARGEST_INTEGER


def check_gate(gate: config.GateConfig, num_encoder_layers: int) -> None:
    """Refuses a gate that stands nowhere, or a threshold where no gate values lie.

    Raises:
      UserError: names the field, and what it should be.
    """
    if not 1 <= gate.layer < num_encoder_layers:
        _refuse(gate, "layer", f"at least 1 and less than num_encoder_layers={num_encoder_layers}")
    rule = selector_rule(gate)
    check_settings(gate, rule.settings)
    rule.check(gate)
    lowest = rule.lowest(gate)
    if gate.threshold is not None and not lowest < gate.threshold < 0:
        above = "below 0" if lowest == -math.inf else f"between scale={gate.scale} and 0"
        _refuse(gate, "threshold", f"{above}, where gate values lie")


def _check_pooling(run: config.RunConfig, gate: config.GateConfig) -> None:
    for deletion in run.evaluation.deletions:
        check_deletion(gate, deletion, "config.EvaluationConfig.deletions")
    check_stride(gate, min(input_lengths(run.data)), "the shortest input length of config.DataConfig")
    if gate.drop_tail and run.data.rows == "packed":
        raise UserError(
            "config.GateConfig.drop_tail: in packed rows a window would read pads and other examples' tails; set it to "
            "False, or config.DataConfig.rows to 'one_a_row'"
        )


def _check_penalties(loss: config.LossConfig, gate: config.GateConfig) -> None:
    provided = [name for name in selector_rule(gate).penalties if name != GATE_MEAN]
    for name, _ in loss.penalties:
        if name not in provided:
            known = f"provides {', '.join(provided)}" if provided else "provides none"
            raise UserError(
                f"config.LossConfig.penalties names {name!r}: a selector of kind = {gate.kind!r} {known} besides the "
                f"mean gate value, whose weight is gate_weight{nearest(name, provided)}"
            )
    if len({name for name, _ in loss.penalties}) < len(loss.penalties):
        _refuse(loss, "penalties", "one weight a name")


def _check_compaction(run: config.RunConfig) -> None:
    compaction, execution, length = run.compaction, run.execution, run.data.input_length
    if execution.rounding is not None and execution.rounding > length:
        _refuse(execution, "rounding", f"at most DataConfig.input_length={length}")
    if execution.rungs and execution.rungs[-1] > length:
        _refuse(execution, "rungs", f"at most DataConfig.input_length={length}")
    chunks = fixed_chunks(execution)
    if run.data.batch_size % (execution.microbatches * chunks):
        raise UserError(
            f"config.DataConfig.batch_size = {run.data.batch_size}: should be a multiple of microbatches="
            f"{execution.microbatches} times chunks={chunks}"
        )
    if DELETIONS[step_deletions(run).preferred].keep == "unsaturated" and run.model.gate is not None:
        _check_saturation(compaction, run.model.gate)


def _check_saturation(compaction: config.CompactionConfig, gate: config.GateConfig) -> None:
    threshold = compaction.saturation_threshold
    if selector_rule(gate).lowest(gate) >= threshold:
        raise UserError(
            f"config.GateConfig.scale = {gate.scale}: gate values never fall below it, so none reaches "
            f"saturation_threshold={threshold} and saturated deletion would remove nothing; give a lower scale, or "
            "train with deletion = 'soft'"
        )
    if threshold > deletion_threshold(gate):
        _refuse(
            compaction,
            "saturation_threshold",
            f"at most {deletion_threshold(gate)}, the gate value below which a position counts as deleted",
        )


def _refuse(node: Any, name: str, expected: str) -> None:
    raise UserError(f"config.{type(node).__name__}.{name} = {getattr(node, name)!r}: should be {expected}")

"""Settings that a run's other settings leave without effect: which they are, and what they wait for.

A field is named here with what reads it. One that nothing reads must have its default value.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from mrt5_jax.config import RunConfig
from mrt5_jax.selection.deletions import MEASURE_OF_BEST, MIXED_IN, is_random
from mrt5_jax.selection.selectors import SELECTORS, selector_rule
from mrt5_jax.selection.step_deletions import step_deletions


@dataclasses.dataclass(frozen=True)
class Reader:
    """What reads some fields."""

    owner: str
    """The part of RunConfig that they are in, "model.gate"."""
    fields: tuple[str, ...]
    reads: Callable[[RunConfig], bool]
    otherwise: str
    """Why nothing reads them where `reads` is False."""
    switches: tuple[str, ...] = ()
    """Fields, as "TrainingConfig.deletion", that may take the effect of what was set before them."""


@dataclasses.dataclass(frozen=True)
class Unread:
    """A field whose value nothing reads."""

    owner: str
    class_name: str
    field: str
    value: Any
    default: Any
    why: str
    switches: tuple[str, ...]

    @property
    def complaint(self) -> str:
        """What is wrong with it, and what would be right."""
        name = f"config.{self.class_name}.{self.field}"
        return f"{name} = {self.value!r}: nothing reads it, since {self.why}; set it to {self.default!r}"


def steers(run: RunConfig) -> bool:
    """Says whether a gradient moves what is deleted: a gate that is learned."""
    return run.model.gate is not None and selector_rule(run.model.gate).is_steered


def learns(run: RunConfig) -> bool:
    """Says whether the selector has parameters."""
    return run.model.gate is not None and selector_rule(run.model.gate).learns


def holds_target(run: RunConfig) -> bool:
    """Says whether a penalty of the selector holds the run's target by itself."""
    return run.model.gate is not None and selector_rule(run.model.gate).holding is not None


def removes(run: RunConfig) -> bool:
    """Says whether steps of training run on fewer positions than they have."""
    return run.model.gate is not None and step_deletions(run).any_removes


def _is_pushed(run: RunConfig) -> bool:
    """Also where a controller wants to push what it cannot, which is refused by itself."""
    return steers(run) or run.controller is not None


def _is_two_sided(run: RunConfig) -> bool:
    return run.controller is not None and run.controller.kind == "two_sided"


def _has_gate(run: RunConfig) -> bool:
    return run.model.gate is not None


def _saturates(run: RunConfig) -> bool:
    return step_deletions(run).is_monitored


def _decides_while_it_runs(run: RunConfig) -> bool:
    return _saturates(run) or (run.execution.chunks == "auto" and removes(run))


def _has_factor(*names: str) -> Callable[[RunConfig], bool]:
    """Whether the schedule is a product with one of T5X's factors in it."""

    def has(run: RunConfig) -> bool:
        schedule = run.optimizer.schedule
        return "*" in schedule and not {part.strip() for part in schedule.split("*")}.isdisjoint(names)

    return has


def _warms_up(run: RunConfig) -> bool:
    factors = ("linear_warmup", "linear_decay", "rsqrt_decay", "rsqrt_normalized_decay", "cosine_decay")
    return "*" not in run.optimizer.schedule or _has_factor(*factors)(run)


def _reader_of_gate(field: str) -> Reader:
    """Of a field that some selectors read."""

    def reads(run: RunConfig) -> bool:
        return run.model.gate is not None and field in selector_rule(run.model.gate).reads

    kinds = " or ".join(repr(kind) for kind, rule in SELECTORS.items() if field in rule.reads)
    return Reader("model.gate", (field,), reads, f"a selector of kind {kinds} alone reads it", ("GateConfig.kind",))


_GATE = "the model has no gate that learns"
_NO_GATE = "the model has no gate"
_NOT_SATURATED = "saturated deletion alone reads it"

READERS = (
    *map(_reader_of_gate, sorted({field for rule in SELECTORS.values() for field in rule.reads})),
    Reader("loss", ("gate_weight",), _is_pushed, _GATE, ("ModelConfig.gate",)),
    Reader(
        "loss",
        ("gate_weight",),
        lambda run: run.controller is None,
        "the controller sets the weight instead",
        ("RunConfig.controller",),
    ),
    Reader(
        "loss",
        ("gate_weight", "regularizer_delay"),
        lambda run: not holds_target(run),
        "a penalty of the selector holds the target by itself",
        ("GateConfig.kind",),
    ),
    Reader("loss", ("penalties",), _has_gate, _NO_GATE, ("ModelConfig.gate",)),
    Reader("loss", ("regularizer_delay",), _is_pushed, _GATE, ("ModelConfig.gate",)),
    Reader(
        "loss",
        ("regularizer_delay",),
        lambda run: run.controller is not None or run.loss.gate_weight > 0,
        "there is neither a controller nor a gate_weight to delay",
        ("RunConfig.controller", "LossConfig.gate_weight"),
    ),
    Reader(
        "loss",
        ("regularizer_delay",),
        lambda run: not _is_two_sided(run),
        "the two-sided law decides by itself when it begins to move the rate",
        ("ControllerConfig.kind",),
    ),
    Reader(
        "controller",
        ("kind", "proportional_gain", "integral_gain", "smoothing", "language_targets"),
        lambda run: not holds_target(run),
        "a penalty of the selector holds the target by itself",
        ("GateConfig.kind",),
    ),
    Reader(
        "controller",
        ("proportional_gain", "integral_gain", "smoothing"),
        lambda run: not _is_two_sided(run),
        "the two-sided law finds its gain by itself",
        ("ControllerConfig.kind",),
    ),
    Reader(
        "controller",
        ("language_targets",),
        _is_two_sided,
        "the law of kind = 'two_sided' alone steers languages apart",
        ("ControllerConfig.kind",),
    ),
    Reader("optimizer", ("gate_learning_rate",), learns, _GATE, ("ModelConfig.gate",)),
    Reader(
        "optimizer",
        ("gate_learning_rate",),
        lambda run: not set(run.optimizer.freeze) & {"encoder", "gate", "encoder/gate"},
        "the gate is frozen",
        ("OptimizerConfig.freeze",),
    ),
    Reader(
        "optimizer",
        ("weight_decay_exclude",),
        lambda run: run.optimizer.weight_decay > 0,
        "weight_decay is 0",
        ("OptimizerConfig.weight_decay",),
    ),
    Reader(
        "optimizer",
        ("b1", "b2", "eps"),
        lambda run: run.optimizer.name == "adamw",
        "AdamW alone reads it",
        ("OptimizerConfig.name",),
    ),
    Reader(
        "optimizer",
        ("decay_factor",),
        _has_factor("linear_decay", "decay_every"),
        "the schedule has neither of the factors linear_decay and decay_every",
        ("OptimizerConfig.schedule",),
    ),
    Reader(
        "optimizer",
        ("steps_per_decay",),
        _has_factor("decay_every"),
        "the schedule has no factor decay_every",
        ("OptimizerConfig.schedule",),
    ),
    Reader(
        "optimizer",
        ("steps_per_cycle",),
        _has_factor("cosine_decay"),
        "the schedule has no factor cosine_decay",
        ("OptimizerConfig.schedule",),
    ),
    Reader(
        "optimizer",
        ("warmup_steps",),
        _warms_up,
        "the schedule has no factor that warms up",
        ("OptimizerConfig.schedule",),
    ),
    Reader("training", ("hard_probability",), _has_gate, _NO_GATE, ("ModelConfig.gate",)),
    Reader(
        "training",
        ("hard_probability",),
        lambda run: run.training.deletion != MIXED_IN,
        "every step deletes hard",
        ("TrainingConfig.deletion",),
    ),
    Reader("compaction", ("capacity",), _has_gate, _NO_GATE, ("ModelConfig.gate",)),
    Reader(
        "compaction",
        ("capacity",),
        removes,
        "no step removes positions: train with deletion = 'saturated' or 'hard', or with a hard_probability",
        ("TrainingConfig.deletion", "TrainingConfig.hard_probability"),
    ),
    Reader(
        "compaction",
        ("saturation_threshold",),
        _saturates,
        _NOT_SATURATED,
        ("TrainingConfig.deletion", "TrainingConfig.hard_probability"),
    ),
    Reader(
        "monitor",
        ("tolerance", "hysteresis"),
        _saturates,
        _NOT_SATURATED,
        ("TrainingConfig.deletion", "TrainingConfig.hard_probability"),
    ),
    Reader(
        "monitor",
        ("interval",),
        _decides_while_it_runs,
        "saturated deletion alone reads it, and chunks = 'auto' of steps that remove positions",
        ("TrainingConfig.deletion", "TrainingConfig.hard_probability", "ExecutionConfig.chunks"),
    ),
    Reader("evaluation", ("capacity",), _has_gate, _NO_GATE, ("ModelConfig.gate",)),
    Reader(
        "evaluation",
        ("seed",),
        lambda run: any(map(is_random, run.evaluation.deletions)),
        "random deletion alone reads it, and evaluation.deletions has none",
        ("EvaluationConfig.deletions",),
    ),
    Reader(
        "checkpoints",
        ("keep_best",),
        lambda run: MEASURE_OF_BEST in run.evaluation.deletions or run.model.gate is None,
        "the best have the lowest loss under hard deletion, and evaluation.deletions has none",
        ("EvaluationConfig.deletions",),
    ),
    Reader("execution", ("rungs", "rounding", "max_rungs"), _has_gate, _NO_GATE, ("ModelConfig.gate",)),
    Reader(
        "execution",
        ("microbatch_rows",),
        lambda run: run.execution.microbatches > 1 and run.execution.chunks != "auto" and removes(run),
        "microbatches of fixed chunks read it, in steps that remove positions",
        ("ExecutionConfig.microbatches", "ExecutionConfig.chunks", "TrainingConfig.deletion"),
    ),
    Reader(
        "execution",
        ("device_rows",),
        removes,
        "no step removes positions",
        ("TrainingConfig.deletion", "TrainingConfig.hard_probability"),
    ),
    Reader(
        "execution",
        ("max_rungs",),
        lambda run: run.execution.rungs is None,
        "the rungs are given",
        ("ExecutionConfig.rungs",),
    ),
    Reader(
        "execution",
        ("rounding",),
        lambda run: run.execution.rungs is None or run.compaction.capacity is not None,
        "the rungs are given",
        ("ExecutionConfig.rungs",),
    ),
)


def unread(run: RunConfig) -> list[Unread]:
    """Returns the fields that have another value than their default, and that nothing reads."""
    found = []
    for reader in READERS:
        node: Any = run
        for name in reader.owner.split("."):
            node = None if node is None else getattr(node, name)
        if node is None or reader.reads(run):
            continue
        defaults = {field.name: field.default for field in dataclasses.fields(node)}
        for field in reader.fields:
            value = getattr(node, field)
            if value != defaults[field] and (reader.owner, field) not in {(one.owner, one.field) for one in found}:
                owner = type(node).__name__
                found.append(
                    Unread(reader.owner, owner, field, value, defaults[field], reader.otherwise, reader.switches)
                )
    return found


def without_unread(run: RunConfig) -> RunConfig:
    """Returns the run with their defaults in fields that nothing reads; it computes the same."""
    while fields := unread(run):
        for field in fields:
            run = _replaced(run, field.owner.split("."), field.field, field.default)
    return run


def _replaced(node: Any, path: list[str], field: str, value: Any) -> Any:
    if not path:
        return dataclasses.replace(node, **{field: value})
    return dataclasses.replace(node, **{path[0]: _replaced(getattr(node, path[0]), path[1:], field, value)})

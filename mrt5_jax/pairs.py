"""Which options go together: the modes of a run, and the pairs of them that are refused.

A pair works, and a run of tests/pairs has it, or it is in `REFUSED`. Options here are what a run is,
not how much of it: sizes and rates have their own checks (`validation`), and so have settings that others leave without
effect (`unread_settings`).
"""

import dataclasses
from collections.abc import Callable
from typing import get_args

from mrt5_jax.config import Auto, RunConfig, TrainingDeletion
from mrt5_jax.errors import UserError
from mrt5_jax.selection.deletions import (
    MIXED_IN,
    POOLING,
    TRAINED_WITHOUT_POOLING,
    TRAINED_WITHOUT_REMOVING,
    TRAINED_WITHOUT_SELECTOR,
)
from mrt5_jax.selection.selector_rule import SelectorRule
from mrt5_jax.selection.selectors import SELECTORS

Mode = Callable[[RunConfig], str]
"""The value of an option that a run has."""


def _deletion(run: RunConfig) -> str:
    deletion = run.training.deletion
    return f"{deletion} and hard" if run.training.hard_probability > 0 and deletion != MIXED_IN else deletion


def _selector(run: RunConfig) -> str:
    return "none" if run.model.gate is None else run.model.gate.kind


def _rows(run: RunConfig) -> str:
    return "in buckets" if run.data.length_buckets else run.data.rows


def _mesh(run: RunConfig) -> str:
    """What is spread over devices: rows alone, or parameters too."""
    mesh = run.execution.mesh
    return "data" if abs(mesh.fsdp) == abs(mesh.tensor) == 1 else "parameters"


MODES: dict[str, Mode] = {
    "deletion": _deletion,
    "selector": _selector,
    "controller": lambda run: "off" if run.controller is None else "on",
    "capacity": lambda run: "none" if run.compaction.capacity is None else "a share",
    "rows": _rows,
    "score penalty": lambda run: "on" if run.loss.score_penalty > 0 else "off",
    "softmax1": lambda run: "on" if run.model.softmax1 else "off",
    "dtype": lambda run: run.model.dtype,
    "freeze": lambda run: "some" if run.optimizer.freeze else "none",
    "dispatch": lambda run: run.execution.dispatch,
    "chunks": lambda run: {"auto": "auto", 1: "one"}.get(run.execution.chunks, "several"),
    "microbatches": lambda run: "one" if run.execution.microbatches == 1 else "several",
    "mesh": _mesh,
}


@dataclasses.dataclass(frozen=True)
class Refused:
    """A pair of options that a run cannot have."""

    one: tuple[str, str]
    """An option, and its value."""
    other: tuple[str, str]
    why: str
    """The field at fault, what is wrong, what would be right."""

    def holds(self, run: RunConfig) -> bool:
        return all(MODES[option](run) == value for option, value in (self.one, self.other))


_NO_GATE = "a model without a gate has nothing to delete; give config.ModelConfig.gate, or"
_UNSTEERED = (
    "config.RunConfig.controller: nothing steers a selector of kind = {!r}, so a controller cannot change its deletion "
    "rate; set it to None, or give config.GateConfig.kind = 'learned'"
)
_DELETES_NOTHING = (
    "config.RunConfig.controller: a step of deletion = 'none' deletes nothing, whatever the gate says, so its rate "
    "tells a controller nothing; set it to None, or train with deletion = 'soft', 'hard' or 'saturated'"
)
_REMOVES_NOTHING = (
    "config.CompactionConfig.capacity: no step of deletion = {!r} removes positions; set it to None, or train with "
    "deletion = 'saturated' or 'hard', or with a hard_probability"
)
_SOFT_BESIDE_CAPACITY = (
    "config.CompactionConfig.capacity: beside it deletion = 'auto' stays soft, since it drops positions of steps that "
    "remove some, and of no others; set it to None, or train with deletion = 'saturated' or 'hard'"
)
_HARD_ALONE = f"config.TrainingConfig.deletion = {{!r}}: a model that {{}} trains under {POOLING} alone; set it to that"
_ALWAYS_HARD = (
    f"config.TrainingConfig.hard_probability: all steps of a model that {{}} delete by {POOLING} alone; set it to 0.0"
)


def _why_hard_alone(rule: SelectorRule) -> str:
    return "pools" if rule.pools else "has no gate values"


REFUSED = (
    Refused(
        ("selector", "none"),
        ("controller", "on"),
        "config.RunConfig.controller: a model without a gate has no deletion rate to control; set it to None, or give "
        "config.ModelConfig.gate",
    ),
    *(
        Refused(("selector", kind), ("controller", "on"), _UNSTEERED.format(kind))
        for kind, rule in SELECTORS.items()
        if not rule.is_steered and rule.holding is None
    ),
    *(
        Refused(("deletion", mode), ("controller", "on"), _DELETES_NOTHING)
        for deletion in TRAINED_WITHOUT_SELECTOR
        for mode in (deletion, f"{deletion} and hard")
    ),
    Refused(
        ("selector", "none"),
        ("deletion", "saturated"),
        f"config.TrainingConfig.deletion = 'saturated': {_NO_GATE} deletion = 'none'",
    ),
    *(
        Refused(
            ("selector", "none"),
            ("deletion", f"{deletion} and hard"),
            f"config.TrainingConfig.hard_probability: {_NO_GATE} set it to 0.0",
        )
        for deletion in (*get_args(TrainingDeletion), *get_args(Auto))
        if deletion != MIXED_IN
    ),
    *(
        Refused(("selector", kind), ("deletion", mode), _HARD_ALONE.format(deletion, _why_hard_alone(rule)))
        for kind, rule in SELECTORS.items()
        if rule.deletes_hard_alone
        for deletion in TRAINED_WITHOUT_POOLING
        for mode in (deletion, f"{deletion} and hard")
    ),
    *(
        Refused(("selector", kind), ("deletion", f"{auto} and hard"), _ALWAYS_HARD.format(_why_hard_alone(rule)))
        for kind, rule in SELECTORS.items()
        if rule.deletes_hard_alone
        for auto in get_args(Auto)
    ),
    Refused(
        ("selector", "none"), ("capacity", "a share"), f"config.CompactionConfig.capacity: {_NO_GATE} set it to None"
    ),
    *(
        Refused(("deletion", deletion), ("capacity", "a share"), _REMOVES_NOTHING.format(deletion))
        for deletion in TRAINED_WITHOUT_REMOVING
    ),
    *(Refused(("deletion", auto), ("capacity", "a share"), _SOFT_BESIDE_CAPACITY) for auto in get_args(Auto)),
)


def check_pairs(run: RunConfig) -> None:
    """Refuses options that do not go together.

    Raises:
      UserError: names the first such pair's field, what is wrong, and what would be right.
    """
    for refused in REFUSED:
        if refused.holds(run):
            raise UserError(refused.why)

"""The options of a run, by their names in `mrt5_jax.pairs`, and small runs that have chosen values of them."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, cast

from mrt5_jax import config
from mrt5_jax.pairs import REFUSED
from mrt5_jax.selection.selectors import SELECTORS
from mrt5_jax.unread_settings import unread

Options = dict[str, str]
Pair = frozenset[tuple[str, str]]

VALUES: dict[str, tuple[str, ...]] = {
    "deletion": ("hard", "none", "soft", "soft and hard", "saturated", "auto"),
    "selector": (
        "learned",
        "none",
        "random",
        "fixed",
        "log_sigmoid",
        "every_kth",
        "boundary_predictor",
        "hnet",
        "top_k",
    ),
    "controller": ("off", "on"),
    "capacity": ("none", "a share"),
    "rows": ("one_a_row", "in buckets", "packed"),
    "score penalty": ("off", "on"),
    "softmax1": ("off", "on"),
    "dtype": ("float32", "bfloat16", "float64"),
    "freeze": ("none", "some"),
    "dispatch": ("in_graph", "host"),
    "chunks": ("one", "several", "auto"),
    "microbatches": ("one", "several"),
    "mesh": ("data", "parameters"),
}


def traits(kind: str) -> tuple[bool, ...]:
    """What decides which options a selector goes together with: of those that are alike, VALUES needs one."""
    rule = SELECTORS[kind]
    return rule.is_steered, rule.holding is not None, rule.pools, rule.deletes_hard_alone


HOW = ("dispatch", "chunks", "microbatches", "mesh")
"""Options that say how a run is executed: the others decide what it computes."""

STEPS, LENGTH, ROWS = 2, 16, 8


def all_pairs() -> Iterator[Pair]:
    """Every pair of values of two options."""
    for one, other in itertools.combinations(VALUES, 2):
        for values in itertools.product(VALUES[one], VALUES[other]):
            yield frozenset(zip((one, other), values, strict=True))


def refused_pairs() -> set[Pair]:
    """Those that the table refuses."""
    return {frozenset((refused.one, refused.other)) for refused in REFUSED} & set(all_pairs())


def pairs_of(options: Mapping[str, str]) -> set[Pair]:
    """The pairs that a run has."""
    return {frozenset(pair) for pair in itertools.combinations(options.items(), 2)}


def make_run(options: Mapping[str, str], model_dir: str, task: str = "task") -> config.RunConfig:
    """A run of two encoder layers and one decoder layer; options that are not given have their first value."""
    chosen = {name: values[0] for name, values in VALUES.items()} | dict(options)
    deletion, _, mixed = chosen["deletion"].partition(" and ")
    selector, several = chosen["selector"], {"one": 1, "several": 2, "auto": "auto"}
    fields: Any = {"learned": {"bias_init": 0.0}, "log_sigmoid": {"bias_init": 0.0, "threshold": -0.7}}.get(
        selector, {}
    )
    rule = SELECTORS.get(selector)
    hard_alone = rule is not None and rule.deletes_hard_alone
    held = ((rule.holding, 1.0),) if rule is not None and rule.holding is not None else ()
    model: Any = {
        "gate": None if selector == "none" else config.GateConfig(layer=1, kind=cast(Any, selector), **fields),
        "softmax1": chosen["softmax1"] == "on",
        "dtype": chosen["dtype"],
        "param_dtype": "float64" if chosen["dtype"] == "float64" else "float32",
    }
    data: Any = {
        "rows": chosen["rows"].partition(",")[0],
        "length_buckets": (LENGTH // 2, LENGTH) if "buckets" in chosen["rows"] else (),
    }
    execution: Any = {name: several[chosen[name]] for name in ("chunks", "microbatches")}
    run = config.RunConfig(
        model_dir=model_dir,
        model=config.ModelConfig(8, 2, 4, 8, 2, 1, dropout_rate=0.1, **model),
        data=config.DataConfig(task, (task,), LENGTH, LENGTH, ROWS, ROWS, **data),
        training=config.TrainingConfig(
            STEPS, cast(Any, deletion), hard_probability=0.5 if mixed else 0.0, eval_batches=1
        ),
        loss=config.LossConfig(score_penalty=0.5 if chosen["score penalty"] == "on" else 0.0, penalties=held),
        controller=config.ControllerConfig(0.5) if chosen["controller"] == "on" else None,
        optimizer=config.OptimizerConfig(
            learning_rate=1e-3, schedule="constant", freeze=("relpos_bias",) if chosen["freeze"] == "some" else ()
        ),
        compaction=config.CompactionConfig(capacity=0.5 if chosen["capacity"] == "a share" else None),
        checkpoints=config.CheckpointConfig(every=STEPS),
        execution=config.ExecutionConfig(
            dispatch=cast(Any, chosen["dispatch"]),
            log_every=1,
            **({} if selector == "none" else {"max_rungs": 2}),
            mesh=config.MeshConfig(fsdp=1 if chosen["mesh"] == "data" else 2),
            **execution,
        ),
        evaluation=config.EvaluationConfig(deletions=("hard",) if hard_alone else ("none",)),
    )
    often = dataclasses.replace(run, monitor=config.MonitorConfig(interval=1))
    return often if "auto" in chosen.values() and not unread(often) else run

"""The table of selectors: which positions the rest of the model sees.

To add one, write its file and its line here; `config.GateConfig.kind` takes the name.
"""

from collections.abc import Iterable, Mapping

import flax.linen as nn
import numpy as np

from mrt5_jax.config import Deletion, GateConfig, ModelConfig, TrainingDeletion
from mrt5_jax.errors import UserError
from mrt5_jax.selection.boundary_predictor import BOUNDARY_PREDICTOR
from mrt5_jax.selection.deletions import DELETIONS, POOLING
from mrt5_jax.selection.every_kth import EVERY_KTH
from mrt5_jax.selection.fixed_selector import FIXED
from mrt5_jax.selection.flexitokens import FLEXITOKENS
from mrt5_jax.selection.hnet_routing import HNET
from mrt5_jax.selection.learned_gate import LEARNED
from mrt5_jax.selection.log_sigmoid_gate import LOG_SIGMOID
from mrt5_jax.selection.magnet import MAGNET
from mrt5_jax.selection.oracle import ORACLE
from mrt5_jax.selection.random_selector import RANDOM
from mrt5_jax.selection.selector_rule import SelectorRule, gate_config
from mrt5_jax.selection.spacelike import SPACELIKE
from mrt5_jax.selection.taught_boundaries import TAUGHT_BOUNDARIES
from mrt5_jax.selection.top_k import TOP_K
from mrt5_jax.selection.words import WORDS
from mrt5_jax.spelling import nearest

SELECTORS: dict[str, SelectorRule] = {
    "learned": LEARNED,
    "random": RANDOM,
    "fixed": FIXED,
    "log_sigmoid": LOG_SIGMOID,
    "every_kth": EVERY_KTH,
    "boundary_predictor": BOUNDARY_PREDICTOR,
    "taught_boundaries": TAUGHT_BOUNDARIES,
    "magnet": MAGNET,
    "flexitokens": FLEXITOKENS,
    "spacelike": SPACELIKE,
    "words": WORDS,
    "hnet": HNET,
    "top_k": TOP_K,
    "oracle": ORACLE,
}
ONE_OF_YOURS = "one of yours, whose module is imported first (--module)"
"""What a message names besides the table."""


def selector_rule(gate: GateConfig) -> SelectorRule:
    """Returns what the selector of a gate is.

    Raises:
        UserError: there is none of this name.
    """
    if gate.kind not in SELECTORS:
        names = " or ".join(map(repr, SELECTORS))
        raise UserError(
            f"config.GateConfig.kind = {gate.kind!r}: should be {names} or {ONE_OF_YOURS}"
            f"{nearest(gate.kind, list(SELECTORS))}"
        )
    return SELECTORS[gate.kind]


def pools(gate: GateConfig | None) -> bool:
    """Returns whether a model pools positions."""
    return gate is not None and selector_rule(gate).pools


def deletes_hard_alone(gate: GateConfig | None) -> bool:
    """Returns whether a model runs under deletions alone that can pool."""
    return gate is not None and selector_rule(gate).deletes_hard_alone


def check_deletion(gate: GateConfig | None, deletion: Deletion | TrainingDeletion, field: str) -> None:
    """Refuses a deletion that a model cannot run under; `field` is what asked for it.

    Raises:
        UserError: the model pools or has no gate values, which the deletion needs; names the deletions that will do.
    """
    if deletes_hard_alone(gate) and not DELETIONS[deletion].pools:
        why = "pools positions" if pools(gate) else "has no gate values"
        raise UserError(f"{field} = {deletion!r}: a model that {why} runs under {POOLING} alone; give that")


def check_stride(gate: GateConfig | None, length: int, field: str) -> None:
    """Refuses inputs that are shorter than the stride of a model that pools; `field` is what gave their length.

    Raises:
        UserError: names the field.
    """
    if gate is not None and "stride" in selector_rule(gate).reads and gate.stride > length:
        raise UserError(f"{field} = {length}: should be at least config.GateConfig.stride = {gate.stride}")


def check_examples(
    gate: GateConfig | None, batches: Iterable[Mapping[str, np.ndarray]], *, evaluation: bool = False
) -> None:
    """Refuses batches that do not bring what a selector needs of them, such as masks in its file.

    Args:
        gate: of the model, if it has one.
        batches: host arrays [batch ...]; read only where the selector needs something.
        evaluation: whether they are to be evaluated, for which most selectors need nothing.

    Raises:
        UserError: names the first example that lacks it.
    """
    if gate is None:
        return
    rule = selector_rule(gate)
    if rule.check_examples is None or (evaluation and rule.evaluates_alone):
        return
    for batch in batches:
        rule.check_examples(gate, batch["encoder_input_tokens"], batch.get("encoder_segment_ids"))


def make_selector(config: ModelConfig) -> nn.Module:
    """Returns the selector that `config.gate` names."""
    return selector_rule(gate_config(config)).make(config)


def deletion_threshold(gate: GateConfig) -> float:
    """Returns tau: hard deletion keeps gate values above it."""
    return selector_rule(gate).threshold(gate) if gate.threshold is None else gate.threshold

"""Which controller steers which rows, and what is reported of each."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Array, Float, Int

from mrt5_jax.config import ControllerConfig, RunConfig
from mrt5_jax.data.arrangements import LANGUAGE_IDS, Batch
from mrt5_jax.data.task_names import label_of
from mrt5_jax.errors import UserError
from mrt5_jax.objectives.controller import ControllerState
from mrt5_jax.objectives.two_sided import TwoSidedState
from mrt5_jax.parallel.batches import CONTROLLER_IDS
from mrt5_jax.spelling import nearest

OTHERS = "others"
"""Name of the controller of all languages that have no target of their own."""


def controller_names(controller: ControllerConfig | None) -> tuple[str, ...]:
    """Returns the languages with a controller of their own, and `OTHERS`; empty where one controller steers all."""
    if controller is None or not controller.language_targets:
        return ()
    return (*(language for language, _ in controller.language_targets), OTHERS)


def by_controller(name: str, values: Float[Array, "*controllers"], names: Sequence[str]) -> dict[str, Float[Array, ""]]:
    """Returns a number of each controller as metrics: `name` of the only one, or `name/LANGUAGE` of several."""
    return {f"{name}/{one}": values[place] for place, one in enumerate(names)} if names else {name: values}


def row_controllers(run: RunConfig, languages: Sequence[str]) -> Callable[[Batch], Batch]:
    """Returns what adds the rows' controllers to a batch that has been read; nothing where one steers them all.

    Args:
        languages: that `language_ids` count through.

    Raises:
        UserError: the run has targets for languages that its task does not have.
    """
    names = controller_names(run.controller)
    if not names:
        return lambda batch: batch
    task, field = label_of(run.data.train_task), "config.ControllerConfig.language_targets"
    if not languages:
        raise UserError(f"{field}: examples of the task '{task}' have no languages; set it to ()")
    for name in names[:-1]:
        if name not in languages:
            raise UserError(
                f"{field}: the task '{task}' has no language {name!r}, but {', '.join(languages)}"
                f"{nearest(name, languages)}"
            )
    # One more for language -1, which is none of the task's.
    places = [names.index(language) if language in names[:-1] else len(names) - 1 for language in (*languages, OTHERS)]

    def add(batch: Batch) -> Batch:
        ids: Int[np.ndarray, " rows"] = np.array(places, np.int32)[batch[LANGUAGE_IDS]]
        return {**batch, CONTROLLER_IDS: ids}

    return add


def controller_terms(run: RunConfig, state: ControllerState | TwoSidedState) -> dict[str, Array]:
    """Returns what alpha is made of, after the step; alpha itself is reported as the step used it."""
    if isinstance(state, ControllerState):
        return {"controller_proportional": state.proportional, "controller_integral": state.integral}
    names, terms = controller_names(run.controller), {}
    for name in ("rate", "reference", "gain", "integral"):
        terms |= by_controller(f"controller_{name}", getattr(state, name), names)
    return terms

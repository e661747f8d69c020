"""Reading checkpoints: whole, or not at all. Writing them is in checkpoints.py.

A checkpoint is read as it was written: Orbax restores flipped bits without a word, so every array is compared with the
checksum that it was saved with, and names, shapes and types with those that are wanted, because it casts silently.
"""

import contextlib
import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from mrt5_jax.errors import UserError
from mrt5_jax.model.parameters import Params
from mrt5_jax.runs.bucket_checkpoints import BucketManager
from mrt5_jax.runs.buckets import BucketPath
from mrt5_jax.runs.files import AnyPath, FilePath, as_path, exists, explained
from mrt5_jax.runs.integrity import CHECKSUM_RULE, check_same_arrays, describe_arrays, not_finite
from mrt5_jax.runs.model_dir import CHECKPOINTS
from mrt5_jax.runs.storage_trouble import is_storage_trouble, trouble_below

ITEMS = ("params", "rest", "run")
NOT_FINITE_ALLOWED = "not_finite_allowed"
"""In the description of imported weights that were to be taken as they are."""
Manager = ocp.CheckpointManager | BucketManager
_log = logging.getLogger(__name__)


class RestoredParams(NamedTuple):
    """The model of a checkpoint, without what only training needs."""

    params: Params
    step: int
    digest: str
    """Twelve digits that tell these weights from others."""


class DamagedError(Exception):
    """A checkpoint cannot be read, or reads as something else than was written."""


def restore_params(
    model_dir: AnyPath, step: int | None = None, sharding_of: Callable[[str], jax.sharding.Sharding] | None = None
) -> RestoredParams:
    """Restores the parameters of a checkpoint, whatever trained them.

    Args:
        model_dir: a MODEL_DIR.
        step: which checkpoint; None: the newest that is whole, with a warning for every damaged one.
        sharding_of: name of a parameter ("encoder/gate/kernel") -> where it shall lie; None: on the first device.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    with _reader(model_dir) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        if step is not None:
            _check_step(step, steps, manager)
        for candidate in steps if step is None else [step]:
            try:
                run = read_description(manager, candidate)
                wanted = {"params": _abstract_params(run, sharding_of or (lambda _: _first_device()))}
                params = read_arrays(manager, candidate, wanted, run)["params"]
                return RestoredParams(params, candidate, _digest(run))
            except DamagedError as damage:
                _log.warning("checkpoint %s is damaged (%s): passed over", manager.directory / str(candidate), damage)
        at_step = "" if step is None else f" at step {step}"
        raise UserError(f"{manager.directory} has no checkpoint that is whole{at_step}")


def data_state_of(model_dir: AnyPath, step: int | None = None) -> dict[str, Any] | None:
    """Returns what a checkpoint says of the data that it was trained with; None where there is none that says so.

    Args:
        step: which checkpoint; None: the newest that can be read.
    """
    if not exists((as_path(model_dir) / CHECKPOINTS).absolute()):
        return None
    with _reader(model_dir) as manager:
        for candidate in sorted(manager.all_steps(), reverse=True) if step is None else [step]:
            with contextlib.suppress(DamagedError):
                return read_description(manager, candidate).get("data_state")
    return None


def saved_steps(model_dir: AnyPath) -> list[int]:
    """Returns the steps of the checkpoints that are there, in order; none before the first is saved."""
    if not exists((as_path(model_dir) / CHECKPOINTS).absolute()):
        return []
    with _reader(model_dir) as manager:
        return sorted(manager.all_steps())


def check_steps(model_dir: AnyPath, wanted: Sequence[int]) -> None:
    """Refuses steps of which there is no checkpoint.

    Raises:
        UserError: naming the first of them, and those that are there.
    """
    if wanted:
        with _reader(model_dir) as manager:
            for step in wanted:
                _check_step(step, manager.all_steps(), manager)


def _check_step(step: int, steps: Sequence[int], manager: Manager) -> None:
    if step not in steps:
        there = ", ".join(map(str, sorted(steps))) or "none"
        raise UserError(f"{manager.directory} has no step {step}; it has {there}")


def best_step(model_dir: AnyPath) -> int | None:
    """Returns the step with the lowest cross-entropy under hard deletion of those there; None if unmeasured."""
    with _reader(model_dir) as manager:
        return next(iter(best_of(hard_losses(manager), manager.all_steps())), None)


def _reader(model_dir: AnyPath) -> Manager:
    """A manager that changes nothing."""
    directory = (as_path(model_dir) / CHECKPOINTS).absolute()
    with explained(directory):
        if not exists(directory):
            raise UserError(f"{directory} is not there: {model_dir} has no checkpoint")
        if isinstance(directory, BucketPath):
            return BucketManager(directory, ITEMS)
    options = ocp.CheckpointManagerOptions(create=False)
    return ocp.CheckpointManager(directory, item_names=ITEMS, options=options)


def hard_losses(manager: Manager) -> dict[int, float]:
    """Returns the cross-entropy of each step under hard deletion, where it was measured and can be read."""
    losses = {}
    for step in manager.all_steps():
        with contextlib.suppress(DamagedError):
            if (loss := read_description(manager, step).get("hard_loss")) is not None:
                losses[step] = loss
    return losses


def best_of(hard_losses: Mapping[int, float], steps: Sequence[int]) -> list[int]:
    """Returns those of `steps` that were measured, the best first; of equals the newest, and NaN is no measurement."""
    measured = [step for step in steps if not math.isnan(hard_losses.get(step, math.nan))]
    return sorted(measured, key=lambda step: (hard_losses[step], -step))


def read_description(manager: Manager, step: int) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        run = manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
        if not isinstance(run, dict) or not isinstance(run.get("arrays"), dict):
            raise ValueError("its description is incomplete")
        return run

    return _in_every_process(read, as_path(str(manager.directory)) / str(step))


def read_arrays(manager: Manager, step: int, wanted: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Reads the items of `wanted` (name -> tree of ShapeDtypeStructs), equal to what was saved or not at all."""

    def read() -> dict[str, Any]:
        args = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        restored = manager.restore(step, args=ocp.args.Composite(**args))
        return {name: restored[name] for name in wanted}

    place, rule = as_path(str(manager.directory)) / str(step), run.get("checksum_rule", 1)
    check_same_arrays(run["arrays"], wanted, place)
    if rule not in range(1, CHECKSUM_RULE + 1):
        raise UserError(f"{place} has checksums by rule {rule}, which this version does not know: use a newer one")
    items = _in_every_process(read, place)
    for name, description in describe_arrays(items, rule).items():
        if description != run["arrays"][name]:
            raise DamagedError(f"{name} does not have the checksum it was saved with")
    if not run.get(NOT_FINITE_ALLOWED) and (problem := not_finite({"params": items["params"]})):
        raise DamagedError(problem)
    return items


def _in_every_process(read: Callable[[], dict[str, Any]], place: FilePath) -> dict[str, Any]:
    """What `read` returns or, if it fails in any process, DamagedError in all, so that they fall back together.

    Raises:
        UserError: in any process the storage, not the checkpoint, is in trouble.
    """
    result, problem, trouble = {}, "", False
    try:
        result = read()
    except Exception as error:  # whatever the file system, JSON, tensorstore or Orbax make of a broken file
        cause = error if is_storage_trouble(error) else trouble_below(place)
        problem, trouble = first_line(cause or error), cause is not None
    if jax.process_count() > 1:
        failed, troubled = multihost_utils.process_allgather(np.array([bool(problem), trouble])).reshape(-1, 2).any(0)
        problem, trouble = problem or ("another process cannot read it" if failed else ""), bool(troubled)
    if trouble:
        raise UserError(
            f"{place} cannot be read ({problem}): that is no damage, and nothing was moved; see to the disk, the "
            "network or the permissions, and start again"
        )
    if problem:
        raise DamagedError(problem)
    return result


def _abstract_params(run: dict[str, Any], sharding_of: Callable[[str], jax.sharding.Sharding]) -> Params:
    """The saved parameters as ShapeDtypeStructs."""
    params: Params = {}
    for full_name, array in run["arrays"].items():
        item, _, name = full_name.partition("/")
        if item == "params":
            *folders, leaf = name.split("/")
            folder = params
            for part in folders:
                folder = folder.setdefault(part, {})
            shape, dtype = tuple(array["shape"]), jnp.dtype(array["dtype"])
            folder[leaf] = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding_of(name))
    return params


def _digest(run: dict[str, Any]) -> str:
    """Of the checksums that the parameters were saved with."""
    checksums = {name: array["checksum"] for name, array in run["arrays"].items() if name.startswith("params/")}
    return hashlib.sha256(repr(sorted(checksums.items())).encode()).hexdigest()[:12]


def _first_device() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

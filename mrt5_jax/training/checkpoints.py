"""Checkpoints of training (Orbax): everything a run needs to go on as if it had never stopped.

A checkpoint has three items: `params`, which evaluation reads alone; `rest`, the other parts of the state; and `run`,
JSON with the data iterator, the seed, library versions and a checksum of every array. The checksums are ours, because
Orbax restores flipped bits without a word; so are the comparisons of names, shapes and types, because it casts
silently. A step's directory gets its name when all of it is written: a run that is killed leaves whole checkpoints.
"""

import importlib.metadata
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import Array, UInt32

from mrt5_jax.config import CheckpointConfig, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.training.model_dir import CHECKPOINTS, write_model_config
from mrt5_jax.training.state import Params, TrainState

_ITEMS = ("params", "rest", "run")
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
_log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """Where training goes on."""

    state: TrainState
    step: int | None
    """Updates made before; None where training begins, from nothing or from imported weights."""
    data_state: dict[str, Any] | None
    """Where the data iterator stood; None where training begins."""


class RestoredParams(NamedTuple):
    """The model of a checkpoint, without what only training needs."""

    params: Params
    step: int


class _DamagedError(Exception):
    """A checkpoint cannot be read, or reads as something else than was written."""


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last save.

    Saving copies the arrays and returns; files are written behind the following steps. An error of writing (a full
    disk) is raised by the next `save`, `wait` or at the end, and leaves older checkpoints whole.
    """

    def __init__(self, model_dir: str | Path, config: CheckpointConfig, seed: int) -> None:
        self._directory = (Path(model_dir) / CHECKPOINTS).absolute()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._seed = seed
        policies = ocp.checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.LatestN(config.keep),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self._directory, item_names=_ITEMS, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The newest step on disk; None before the first."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data_state: Mapping[str, Any]) -> None:
        """Saves `state` under its step. Flush the metrics first: what a checkpoint follows must be on disk before it.

        Args:
            state: the state; may be donated to the next step as soon as this returns.
            data_state: where the data iterator stands, as JSON.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        run = {
            "data_state": dict(data_state),
            "seed": self._seed,
            "libraries": {library: importlib.metadata.version(library) for library in _LIBRARIES},
        }
        _save(self._manager, step, {"params": state.params, "rest": state._replace(params=None)}, run)

    def wait(self) -> None:
        """Returns when everything saved so far is on disk; raises what went wrong there."""
        self._manager.wait_until_finished()

    def restore_or_init(self, abstract: TrainState, init: Callable[[], TrainState]) -> Restored:
        """The newest checkpoint that is whole or, where there is none at all, what `init` makes.

        A damaged checkpoint is passed over with a warning and moved to MODEL_DIR/damaged_checkpoints, so that the
        resumed run can save its step again. Imported weights (`save_model`) replace the parameters that `init` makes.

        Args:
            abstract: ShapeDtypeStructs with shardings, which may be of another mesh than the saved state's.
            init: makes a new state.

        Raises:
            UserError: the checkpoint is of another model, optimizer or seed, or all checkpoints are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                return self._restore(step, abstract, init)
            except _DamagedError as damage:
                _log.warning("checkpoint %s is damaged (%s): passed over", self._directory / str(step), damage)
                self._set_aside(step)
        if steps:
            raise UserError(f"{self._directory}: every checkpoint ({', '.join(map(str, steps))}) is damaged")
        return Restored(init(), None, None)

    def _restore(self, step: int, abstract: TrainState, init: Callable[[], TrainState]) -> Restored:
        run = _read_run(self._manager, step)
        if "data_state" not in run:
            items = _read_arrays(self._manager, step, {"params": abstract.params}, run)
            return Restored(init()._replace(params=items["params"]), None, None)
        if run["seed"] != self._seed:
            place = self._directory / str(step)
            raise UserError(f"{place} was trained with seed {run['seed']}, not {self._seed}: give the old seed")
        wanted = {"params": abstract.params, "rest": abstract._replace(params=None)}
        items = _read_arrays(self._manager, step, wanted, run)
        return Restored(items["rest"]._replace(params=items["params"]), step, run["data_state"])

    def _set_aside(self, step: int) -> None:
        aside = self._directory.parent / "damaged_checkpoints"
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            (self._directory / str(step)).rename(aside / f"{step}-{time.time_ns()}")
        multihost_utils.sync_global_devices(f"checkpoint {step} set aside")
        self._manager.reload()


def save_model(model_dir: str | Path, params: Params, config: ModelConfig) -> Path:
    """Makes a MODEL_DIR of imported weights: evaluation reads it, and training starts from it at step 0.

    Raises:
        UserError: the directory has checkpoints already, or belongs to another model.
    """
    directory = (Path(model_dir) / CHECKPOINTS).absolute()
    if directory.is_dir() and any(directory.iterdir()):
        raise UserError(f"{directory} has checkpoints already: give a new MODEL_DIR")
    write_model_config(model_dir, config)
    with ocp.CheckpointManager(directory, item_names=_ITEMS) as manager:
        _save(manager, 0, {"params": params}, {})
    return directory


def restore_params(model_dir: str | Path, step: int | None = None, abstract: Params | None = None) -> RestoredParams:
    """The parameters of a checkpoint, whatever trained them.

    Args:
        model_dir: a MODEL_DIR.
        step: which checkpoint; None: the newest that is whole, with a warning for every damaged one.
        abstract: ShapeDtypeStructs with shardings to restore to; None: as they were saved, on the first device.

    Raises:
        UserError: no such checkpoint, a damaged one, or one of another model.
    """
    directory = (Path(model_dir) / CHECKPOINTS).absolute()
    options = ocp.CheckpointManagerOptions(read_only=True)
    if not directory.is_dir():
        raise UserError(f"{directory} is not there: {model_dir} has no checkpoint")
    with ocp.CheckpointManager(directory, item_names=_ITEMS, options=options) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        if step is not None and step not in steps:
            raise UserError(f"{directory} has no step {step}; it has {', '.join(map(str, steps[::-1])) or 'none'}")
        for candidate in steps if step is None else [step]:
            try:
                run = _read_run(manager, candidate)
                wanted = _abstract_params(run) if abstract is None else abstract
                return RestoredParams(_read_arrays(manager, candidate, {"params": wanted}, run)["params"], candidate)
            except _DamagedError as damage:
                _log.warning("checkpoint %s is damaged (%s): passed over", directory / str(candidate), damage)
    raise UserError(f"{directory} has no checkpoint that is whole{'' if step is None else f' at step {step}'}")


def _save(manager: ocp.CheckpointManager, step: int, items: dict[str, Any], run: dict[str, Any]) -> None:
    arrays = ocp.args.StandardSave
    manager.save(
        step,
        args=ocp.args.Composite(
            **{name: arrays(tree) for name, tree in items.items()},
            run=ocp.args.JsonSave(run | {"arrays": _describe(items)}),
        ),
        force=True,
    )


def _read_run(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    try:
        run = manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
        if not isinstance(run, dict) or not isinstance(run.get("arrays"), dict):
            raise ValueError("its description is incomplete")
    except Exception as error:  # whatever the file system, JSON or Orbax make of a broken file
        raise _DamagedError(_first_line(error)) from error
    return run


def _read_arrays(
    manager: ocp.CheckpointManager, step: int, wanted: dict[str, Any], run: dict[str, Any]
) -> dict[str, Any]:
    """The items of `wanted` (name -> tree of ShapeDtypeStructs), equal to what was saved or not at all."""
    place = Path(manager.directory) / str(step)
    _check_same_arrays(run["arrays"], wanted, place)
    try:
        args = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        restored = manager.restore(step, args=ocp.args.Composite(**args))
        items = {name: restored[name] for name in wanted}
    except Exception as error:  # tensorstore and Orbax raise plain Exceptions for missing and truncated files
        raise _DamagedError(_first_line(error)) from error
    for name, description in _describe(items).items():
        if description != run["arrays"][name]:
            raise _DamagedError(f"{name} does not have the checksum it was saved with")
    return items


def _check_same_arrays(saved: dict[str, Any], wanted: dict[str, Any], place: Path) -> None:
    """Compares names, shapes and types before Orbax casts, pads or drops anything."""
    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
    there = {name for name in saved if name.split("/")[0] in wanted}
    problems = [f"{name} is missing" for name in leaves.keys() - there]
    problems += [f"{name} has no place in this run" for name in there - leaves.keys()]
    for name in leaves.keys() & there:
        leaf, shape, dtype = leaves[name], saved[name]["shape"], saved[name]["dtype"]
        if list(leaf.shape) != shape:
            problems.append(f"{name} has shape {shape}, not {list(leaf.shape)}")
        elif str(leaf.dtype) != dtype:
            problems.append(f"{name} is {dtype}, not {leaf.dtype}")
        elif jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
            problems.append(f"{name} is {dtype}, which needs JAX_ENABLE_X64=1")
    if problems:
        more = f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else ""
        raise UserError(f"{place} is of another model or optimizer: {min(problems)}{more}")


def _describe(items: dict[str, Any]) -> dict[str, Any]:
    """Shape, type and checksum of every array, by name ("params/encoder/gate/kernel")."""
    leaves = jax.tree_util.tree_leaves_with_path(items)
    checksums = np.asarray(_checksums([leaf for _, leaf in leaves]))
    return {
        _name(path): {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "checksum": int(checksum)}
        for (path, leaf), checksum in zip(leaves, checksums, strict=True)
    }


@jax.jit
def _checksums(arrays: list[Array]) -> UInt32[Array, " arrays"]:
    """Sums of the arrays' bits as unsigned integers, modulo 2^32: exact, and the same however an array is sharded."""

    def checksum(array: Array) -> UInt32[Array, ""]:
        if array.dtype == jnp.bool_:
            return jnp.sum(array, dtype=jnp.uint32)
        word = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[array.dtype.itemsize]
        return jnp.sum(jax.lax.bitcast_convert_type(array, word), dtype=jnp.uint32)

    return jnp.stack([checksum(array) for array in arrays])


def _abstract_params(run: dict[str, Any]) -> Params:
    """The saved parameters as ShapeDtypeStructs on the first device."""
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    params: Params = {}
    for name, array in run["arrays"].items():
        item, *folders, leaf = name.split("/")
        if item == "params":
            folder = params
            for part in folders:
                folder = folder.setdefault(part, {})
            folder[leaf] = jax.ShapeDtypeStruct(tuple(array["shape"]), jnp.dtype(array["dtype"]), sharding=sharding)
    return params


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

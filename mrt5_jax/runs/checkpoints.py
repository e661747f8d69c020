"""Checkpoints of training (Orbax): everything a run needs to go on as if it had never stopped.

A checkpoint has three items: `params`, which evaluation reads alone; `rest`, the other parts of the state; and `run`,
JSON with the data iterator, the seed, library versions and a checksum of every array. The checksums are ours, because
Orbax restores flipped bits without a word; so are the comparisons of names, shapes and types, because it casts
silently. A step's directory gets its name when all of it is written: a run that is killed leaves whole checkpoints.
"""

import contextlib
import dataclasses
import importlib.metadata
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import Array, Int

from mrt5_jax.config import CheckpointConfig, ModelConfig
from mrt5_jax.errors import UserError
from mrt5_jax.model.parameters import Params
from mrt5_jax.parallel.processes import say
from mrt5_jax.runs.beginning import set_aside
from mrt5_jax.runs.bucket_checkpoints import BucketManager
from mrt5_jax.runs.buckets import BucketPath
from mrt5_jax.runs.files import AnyPath, FilePath, as_path
from mrt5_jax.runs.folders import move
from mrt5_jax.runs.integrity import CHECKSUM_RULE, as_saved, describe_arrays, not_finite
from mrt5_jax.runs.model_dir import CHECKPOINTS, DAMAGED, write_model_config
from mrt5_jax.runs.restoring import (
    ITEMS,
    NOT_FINITE_ALLOWED,
    DamagedError,
    Manager,
    best_of,
    first_line,
    hard_losses,
    read_arrays,
    read_description,
)

DataState = dict[str, Any]
"""Where the data of a run stand, as JSON."""
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
_PIECE, _FILE = 8 << 20, 32 << 20
"""Bytes of a chunk of an array, and of a file of chunks, of weights that are saved from where they lie in NumPy."""
_log = logging.getLogger(__name__)


@runtime_checkable
class CheckpointState(Protocol):
    """A NamedTuple of which everything is saved, the parameters as an item of their own."""

    @property
    def step(self) -> Int[Array, ""]:
        """Number of updates made."""
        ...

    @property
    def params(self) -> Params:
        """The parameters."""
        ...

    def _replace(self, **fields: Any) -> Any: ...

    def _asdict(self) -> dict[str, Any]: ...


State = TypeVar("State", bound=CheckpointState)
_LATER = ("kept",)
"""Fields of the state that older checkpoints lack, as do those of runs that have nothing there: they begin as zeros."""


@dataclasses.dataclass(frozen=True)
class Restored(Generic[State]):
    """Where training goes on."""

    state: State
    step: int | None
    """Updates made before; None where training begins, from nothing or from imported weights."""
    data_state: DataState | None
    """Where the data iterator stood; None where training begins."""


@dataclasses.dataclass
class _Keep(ocp.checkpoint_managers.PreservationPolicy):
    """Keeps the newest, those at multiples of a period, and the best; ours, since it must outlive damaged files."""

    config: CheckpointConfig
    hard_losses: dict[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return self.of([checkpoint.step for checkpoint in checkpoints])

    def of(self, steps: Sequence[int]) -> list[bool]:
        """Whether each of all steps there are, in their order, is kept."""
        kept = set(steps[-self.config.keep :])
        if self.config.keep_period is not None:
            kept |= {step for step in steps if step % self.config.keep_period == 0}
        kept |= set(best_of(self.hard_losses, steps)[: self.config.keep_best])
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last save.

    Saving copies the arrays and returns; files are written behind the following steps. What goes wrong there (a full
    disk) is a UserError of the next `save`, of `wait` or of the end, and leaves older checkpoints whole.
    """

    def __init__(self, model_dir: AnyPath, config: CheckpointConfig, seed: int, *, start_over: bool = False) -> None:
        """`start_over`: where no checkpoint of training is whole, set them aside and begin."""
        self._directory = (as_path(model_dir) / CHECKPOINTS).absolute()
        self._seed, self._start_over = seed, start_over
        self._keep = _Keep(config, {})
        try:
            self._manager = _writer(self._directory, self._keep)
        except OSError as error:
            raise UserError(f"{self._directory} cannot be made or read: {error.strerror}") from None
        self._keep.hard_losses.update(hard_losses(self._manager))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        with self._writing():
            self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The newest step on disk; None before the first."""
        return self._manager.latest_step()

    def save(self, state: CheckpointState, data_state: Mapping[str, Any], hard_loss: float | None = None) -> None:
        """Saves `state` under its step. Flush the metrics first: what a checkpoint follows must be on disk before it.

        Args:
            state: the state; may be donated to the next step as soon as this returns.
            data_state: where the data iterator stands, as JSON.
            hard_loss: cross-entropy under hard deletion at this step, by which the best checkpoints are kept; None
                where it was not measured.

        Raises:
            UserError: parameters are not finite, so that nothing is saved; or an earlier save went wrong.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        if problem := not_finite({"params": state.params}):
            self.wait()
            good = "none" if self.latest_step is None else f"that of step {self.latest_step}"
            raise UserError(
                f"after step {step} {problem}: nothing is saved, and training of {self._directory.parent} stopped; the "
                f"last good checkpoint is {good}; try a lower learning rate"
            )
        run = {
            "data_state": dict(data_state),
            "seed": self._seed,
            "hard_loss": hard_loss,
            "libraries": {library: importlib.metadata.version(library) for library in _LIBRARIES},
        }
        self.wait()
        if hard_loss is not None:
            self._keep.hard_losses[step] = hard_loss
        _save(self._manager, step, {"params": state.params, "rest": _rest(state)}, run)

    def wait(self) -> None:
        """Returns when everything saved so far is on disk.

        Raises:
            UserError: it could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def restore_or_init(self, abstract: State, init: Callable[[], State]) -> Restored[State]:
        """Restores the newest checkpoint that is whole; where there is none at all, returns what `init` makes.

        A damaged checkpoint is passed over with a warning. Once an older one has proved whole it is moved to
        MODEL_DIR/damaged_checkpoints, so that the resumed run can save its step again. Imported weights (`save_model`)
        replace the parameters that `init` makes.

        Args:
            abstract: ShapeDtypeStructs with shardings, which may be of another mesh than the saved state's.
            init: makes a new state.

        Raises:
            UserError: the checkpoint is of another model, optimizer or seed, or cannot be read now; or all that were
                trained are damaged, unless it is to start over. Nothing is moved then.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged: list[int] = []
        imported: Restored[State] | None = None
        for step in steps:
            try:
                restored = self._restore(step, abstract, init)
            except DamagedError as damage:
                _log.warning("checkpoint %s is damaged (%s): passed over", self._directory / str(step), damage)
                damaged.append(step)
                continue
            if restored.step is None:
                imported = restored
                break
            for number in damaged:
                self._set_aside(number)
            return restored
        if damaged:
            self._refuse_or_start_over(damaged, imported)
        return imported or Restored(init(), None, None)

    def _refuse_or_start_over(self, damaged: Sequence[int], imported: Restored[Any] | None) -> None:
        if not self._start_over:
            which = "every checkpoint" if imported is None else "every checkpoint of training"
            raise UserError(
                f"{self._directory}: {which} ({', '.join(map(str, damaged))}) is damaged, and nothing was changed: "
                "restore one from a copy, give --start_over to set them aside and begin at step 0, or another MODEL_DIR"
            )
        if jax.process_index() == 0:
            set_aside(self._directory.parent, damaged)
        multihost_utils.sync_global_devices("checkpoints set aside")
        self._manager.reload()

    def _restore(self, step: int, abstract: State, init: Callable[[], State]) -> Restored[State]:
        run = read_description(self._manager, step)
        if "data_state" not in run:
            items = read_arrays(self._manager, step, {"params": abstract.params}, run)
            if run.get(NOT_FINITE_ALLOWED):
                raise UserError(
                    f"{self._directory / str(step)} was imported with --allow_non_finite: weights that are not finite "
                    "cannot be trained"
                )
            return Restored(init()._replace(params=items["params"]), None, None)
        if run["seed"] != self._seed:
            place = self._directory / str(step)
            raise UserError(f"{place} was trained with seed {run['seed']}, not {self._seed}: give the old seed")
        rest = _rest(abstract)
        later = {name: rest.pop(name) for name in _LATER if name in rest and not _is_in(run["arrays"], f"rest/{name}/")}
        wanted = {"params": abstract.params, "rest": rest}
        saved = as_saved(wanted, run["arrays"])
        items = read_arrays(self._manager, step, saved, run)
        if saved != wanted:
            say(f"{self._directory / str(step)}: controller and monitor are float32 there, and float64 from here on")
            items = jax.tree.map(lambda leaf, to: jax.device_put(leaf.astype(to.dtype), to.sharding), items, wanted)
        state = abstract._replace(**items["rest"] | jax.tree.map(_zeros, later))
        return Restored(state._replace(params=items["params"]), step, run["data_state"])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # tensorstore's, as they come
            there = ", ".join(map(str, sorted(self._manager.all_steps()))) or "none"
            raise UserError(
                f"{self._directory}: a checkpoint could not be written ({first_line(error)}); "
                f"those of steps {there} are whole: fix the cause (disk space, permissions) and run the same command "
                "again"
            ) from error

    def _set_aside(self, step: int) -> None:
        aside = self._directory.parent / DAMAGED
        if jax.process_index() == 0:
            move(self._directory / str(step), aside / f"{step}-{time.time_ns()}")
        multihost_utils.sync_global_devices(f"checkpoint {step} set aside")
        self._manager.reload()


def _writer(directory: FilePath, keep: _Keep) -> Manager:
    if isinstance(directory, BucketPath):
        return BucketManager(directory, ITEMS, keep.of)
    directory.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(preservation_policy=keep, cleanup_tmp_directories=True)
    return ocp.CheckpointManager(directory, item_names=ITEMS, options=options)


def save_model(
    model_dir: str | Path, params: Params, config: ModelConfig, *, allow_non_finite: bool = False, step: int = 0
) -> Path:
    """Makes a MODEL_DIR of weights alone: evaluation reads it, and training starts from it at step 0.

    Args:
        model_dir: a new one.
        params: the parameters.
        config: of the model.
        allow_non_finite: whether weights may be NaN or infinite.
        step: under which the weights are saved; imported ones are of step 0.

    Returns:
        the folder of checkpoints.

    Raises:
        UserError: the directory has checkpoints already, or belongs to another model; or a weight is not finite and
            that is not allowed. With such a weight the model answers what does not touch it, and is not trained.
    """
    directory = (Path(model_dir) / CHECKPOINTS).absolute()
    if directory.is_dir() and any(directory.iterdir()):
        raise UserError(f"{directory} has checkpoints already: give a new MODEL_DIR")
    problem = not_finite({"params": params})
    if problem and not allow_non_finite:
        raise UserError(f"{problem}: nothing is written to {model_dir}")
    write_model_config(model_dir, config)
    where_it_lies = jax.tree.map(lambda leaf: leaf.view(_NotCopied) if type(leaf) is np.ndarray else leaf, params)
    with ocp.CheckpointManager(directory, item_names=ITEMS) as manager:
        _save(manager, step, {"params": where_it_lies}, {NOT_FINITE_ALLOWED: True} if problem else {}, _in_pieces)
    return directory


class _NotCopied(np.ndarray):
    """An array that is written from where it lies. Orbax deep-copies those of NumPy first, lest they change meanwhile;
    of a whole model that is as much memory again."""

    def __deepcopy__(self, memo: Any, /) -> "_NotCopied":
        return self


def _in_pieces(tree: Params) -> ocp.args.PyTreeSave:
    """Returns what saves a tree in small pieces, which are on the disk before the next ones are compressed.

    Orbax otherwise compresses all arrays at once and holds the result, which of float32 is nearly a second model, until
    a file of 2 GB is full. The format is the same.
    """
    pieces = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_PIECE), tree)
    return ocp.args.PyTreeSave(tree, save_args=pieces, ocdbt_target_data_file_size=_FILE)


def _rest(state: CheckpointState) -> dict[str, Any]:
    """The state without its parameters, as it is saved."""
    fields = state._replace(params=None)._asdict()
    return {name: value for name, value in fields.items() if name not in _LATER or value is not None}


def _is_in(arrays: Mapping[str, Any], item: str) -> bool:
    return any(name.startswith(item) for name in arrays)


def _zeros(leaf: jax.ShapeDtypeStruct) -> Array:
    return jax.jit(lambda: jnp.zeros(leaf.shape, leaf.dtype), out_shardings=leaf.sharding)()


def _save(
    manager: Manager,
    step: int,
    items: dict[str, Any],
    run: dict[str, Any],
    arrays: Callable[[Any], Any] = ocp.args.StandardSave,
) -> None:
    manager.save(
        step,
        args=ocp.args.Composite(
            **{name: arrays(tree) for name, tree in items.items()},
            run=ocp.args.JsonSave(run | {"checksum_rule": CHECKSUM_RULE, "arrays": describe_arrays(items)}),
        ),
        force=True,
    )

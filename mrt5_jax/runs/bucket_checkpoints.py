"""Checkpoints in a bucket: Orbax's, written to this machine's disk and sent from there, a commit file last.

A bucket has no rename, by which a step on a disk appears when all of it is written. So a step in a bucket is there when
STEP/commit_success.txt is, which is sent last; without it there is the rest of a save that was stopped.
STEP/sizes.json lists every object with its size. Of several processes the first one sends, and each one fetches.
"""

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from mrt5_jax.runs import folders
from mrt5_jax.runs.bucket_lock import check_held
from mrt5_jax.runs.buckets import BucketPath
from mrt5_jax.runs.files import LocalFiles, files_for, read_bytes
from mrt5_jax.user_cache import cache_folder

COMMIT = "commit_success.txt"
"""Orbax's commit file, which it also writes where it renames."""
SIZES = "sizes.json"


def committed_steps(directory: BucketPath) -> dict[int, bool]:
    """Finds the steps of which anything lies in a folder, and says whether they are whole."""
    names = files_for(directory).below(directory)
    steps = {int(step) for step in {name.partition("/")[0] for name in names} if step.isdigit()}
    return {step: f"{step}/{COMMIT}" in names for step in sorted(steps)}


def commit(folder: Path, target: BucketPath) -> None:
    """Sends a step that is whole on this machine's disk."""
    sizes = {name: (folder / name).stat().st_size for name in LocalFiles().below(folder)}
    folders.remove(target)  # of a save that was stopped
    folders.send(folder, target, [name for name in sizes if name != COMMIT])
    files_for(target).write(target / SIZES, json.dumps(sizes, indent=1).encode())
    check_held(target)
    folders.send(folder, target, [COMMIT])


def remove_step(target: BucketPath) -> None:
    """Removes a step, which is none from the first moment on."""
    with contextlib.suppress(FileNotFoundError):
        files_for(target).remove(target / COMMIT)
    folders.remove(target)


class BucketManager:
    """What runs use of Orbax's CheckpointManager, over a folder in a bucket."""

    def __init__(
        self,
        directory: BucketPath,
        item_names: Sequence[str],
        keep: Callable[[Sequence[int]], list[bool]] | None = None,
    ) -> None:
        """`keep`: which steps, in their order, are kept when another one is saved; None: nothing is ever removed."""
        self.directory = directory
        self._items, self._keep = tuple(item_names), keep
        found = committed_steps(directory)
        self._steps = {step for step, whole in found.items() if whole}
        if keep is not None and jax.process_index() == 0:
            for step in found.keys() - self._steps:
                folders.remove(directory / str(step))
        self._staging = _staging_folder(directory, "reads" if keep is None else "writes")
        self._local: ocp.CheckpointManager | None = None
        self._pool = ThreadPoolExecutor(1)
        self._sending: tuple[int, Future[None]] | None = None

    def __enter__(self) -> "BucketManager":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def all_steps(self) -> list[int]:
        """Returns the steps that are whole, and the one that is being saved."""
        return sorted(self._steps | ({self._sending[0]} if self._sending else set()))

    def latest_step(self) -> int | None:
        """Returns the newest of `all_steps`."""
        return max(self.all_steps(), default=None)

    def reload(self) -> None:
        """Looks again at what is in the bucket."""
        self._steps = {step for step, whole in committed_steps(self.directory).items() if whole}

    def save(self, step: int, args: ocp.args.Composite, force: bool = False) -> None:
        """Copies the arrays and returns; they are written, sent and committed behind the following steps."""
        self.wait_until_finished()
        if jax.process_count() > 1:
            args = ocp.args.Composite(**{name: _gathered(item) for name, item in args.items()})
        future: Future[None] = Future()
        if jax.process_index() == 0:
            if self._local is None:
                self._local = self._manager_of(self._staging / "saved")
            self._local.save(step, args=args, force=force)
            future = self._pool.submit(self._send, step, self._local)
        else:
            future.set_result(None)
        self._sending = step, future

    def wait_until_finished(self) -> None:
        """Returns when everything is in the bucket; raises what kept it from there."""
        if self._sending is None:
            return
        (step, future), self._sending = self._sending, None
        future.result()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"step {step} sent")
        self._steps.add(step)

    def restore(self, step: int, args: ocp.args.Composite) -> Any:
        """Fetches the items that `args` name, and restores them. An object of another size raises ValueError."""
        folder = self._staging / "restored"
        try:
            self._fetch(step, folder / str(step), tuple(args.keys()))
            with self._manager_of(folder) as manager:
                return manager.restore(step, args=args)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Waits for what is being sent, and leaves nothing on this machine's disk."""
        try:
            if self._sending is not None:
                self._sending[1].result()
        finally:
            self._pool.shutdown()
            if self._local is not None:
                self._local.close()
            shutil.rmtree(self._staging, ignore_errors=True)

    def _fetch(self, step: int, folder: Path, items: Sequence[str]) -> None:
        source = self.directory / str(step)
        sizes: dict[str, int] = json.loads(read_bytes(source / SIZES))
        wanted = [name for name in sizes if "/" not in name or name.partition("/")[0] in items]
        folders.fetch(source, folder, wanted)
        for name in wanted:
            if (found := (folder / name).stat().st_size) != sizes[name]:
                raise ValueError(f"{name} has {found} bytes, not {sizes[name]}")

    def _send(self, step: int, local: ocp.CheckpointManager) -> None:
        local.wait_until_finished()
        folder = Path(local.directory) / str(step)
        commit(folder, self.directory / str(step))
        shutil.rmtree(folder)
        local.reload()
        if self._keep is None:
            return
        steps = sorted(self._steps | {step})
        for each, kept in zip(steps, self._keep(steps), strict=True):
            if not kept:
                remove_step(self.directory / str(each))
                self._steps.discard(each)

    def _manager_of(self, folder: Path) -> ocp.CheckpointManager:
        folder.mkdir(parents=True, exist_ok=True)
        alone = {}
        if jax.process_count() > 1:
            own = jax.process_index()
            alone["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
                primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process {own}"
            )
        options = ocp.CheckpointManagerOptions(create=False, **alone)
        return ocp.CheckpointManager(folder, item_names=self._items, options=options)


def _staging_folder(directory: BucketPath, purpose: str) -> Path:
    """Makes a new folder on this machine's disk. What a killed run that wrote left is removed: only one may write."""
    parent = cache_folder() / "checkpoints"
    parent.mkdir(parents=True, exist_ok=True)
    whose = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
    prefix = f"{whose}-{jax.process_index()}-{purpose}-"
    if purpose == "writes":
        for left in parent.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=parent, prefix=prefix))


def _gathered(item: Any) -> Any:
    """Brings the arrays of a tree to the host as a whole; anything else stays as it is."""
    if not isinstance(item, ocp.args.StandardSave):
        return item
    return ocp.args.StandardSave(jax.tree.map(_whole, item.item))


def _whole(array: jax.Array) -> np.ndarray:
    if array.is_fully_replicated:
        return np.asarray(array.addressable_data(0))
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))

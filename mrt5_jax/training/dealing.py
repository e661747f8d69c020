"""Whether a run's rows are dealt to its devices, and how."""

from collections.abc import Mapping

from jax.sharding import AbstractMesh, Mesh

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import RunConfig
from mrt5_jax.data.batches import TrainBatches
from mrt5_jax.data.dealing import Dealing
from mrt5_jax.data.expectation import Expectation, feature_names
from mrt5_jax.data.registry import is_known, task_languages
from mrt5_jax.parallel.batches import own_places
from mrt5_jax.parallel.mesh import row_shards
from mrt5_jax.selection.step_deletions import step_deletions


def features_dealt_by(run: RunConfig, mesh: Mesh | AbstractMesh, ladders: Mapping[int, Ladder]) -> tuple[str, ...]:
    """Returns the names of the features by which a run deals its rows to a mesh; none where they lie as they come.

    By default they are dealt where that can save something: where rows lie on several devices, several on each, and
    run at the length of the fullest of some of them.
    """
    how = run.execution.device_rows
    if how == "as_they_come" or run.model.gate is None or not step_deletions(run).any_removes:
        return ()
    if how == "auto" and not _can_save(run, row_shards(mesh).count, ladders):
        return ()
    task = run.data.train_task
    return feature_names(task_languages(task) if is_known(task) else ())


def dealing_of(run: RunConfig, mesh: Mesh, ladders: Mapping[int, Ladder]) -> Dealing | None:
    """Returns how this process deals a run's rows; None where they lie as they come."""
    features = features_dealt_by(run, mesh, ladders)
    if not features:
        return None
    return Dealing(Expectation(features), row_shards(mesh).count, own_places(mesh), run.data.input_length)


def dealing_line(dealing: Dealing, batches: TrainBatches) -> str:
    """Says that rows are dealt."""
    how = f"rows are dealt to {dealing.num_places} devices by what is expected to be kept of them"
    if batches.is_dealt_by_process:
        how += (
            f", each process its own to {len(dealing.own)}, since this task's source says nothing of examples that a "
            "process does not read"
        )
    return f"{how} (config.ExecutionConfig.device_rows)"


def _can_save(run: RunConfig, places: int, ladders: Mapping[int, Ladder]) -> bool:
    execution = run.execution
    in_parts = execution.chunks != 1 or execution.microbatches > 1
    has_rungs = any(len(ladder.rungs) > 1 for ladder in ladders.values())
    return places > 1 and run.data.batch_size > places and in_parts and has_rungs

"""Evaluating what lies in a MODEL_DIR, on all devices."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mrt5_jax.compaction.ladder import make_ladder
from mrt5_jax.config import Deletion, MeshConfig, ModelConfig, RunConfig
from mrt5_jax.data.batches import EvalBatch, eval_batches
from mrt5_jax.evaluation.evaluate import Evaluation, evaluate, make_evaluator
from mrt5_jax.forward import Params
from mrt5_jax.network import MrT5
from mrt5_jax.training.checkpoints import restore_params
from mrt5_jax.training.partitioning import check_batch_size, make_mesh, param_shardings, put_batch


class LoadedModel(NamedTuple):
    model: MrT5
    params: Params
    step: int
    mesh: Mesh


def load_model(model_dir: str | Path, config: ModelConfig, step: int | None, mesh: MeshConfig) -> LoadedModel:
    """The model of a checkpoint, its parameters spread over the mesh; its data axis takes what devices there are.

    Raises:
        UserError: no such checkpoint, or one of another model; devices that the mesh does not fit.
    """
    model = MrT5(config)
    devices = make_mesh(dataclasses.replace(mesh, data=-1))
    boxed = jax.eval_shape(model.init, jax.random.key(0), *2 * [jax.ShapeDtypeStruct((1, 1), jnp.int32)])["params"]

    def placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    abstract = jax.tree.map(placed, nn.unbox(boxed), param_shardings(boxed, devices))
    restored = restore_params(model_dir, step, abstract)
    return LoadedModel(model, restored.params, restored.step, devices)


def evaluate_task(
    loaded: LoadedModel,
    run: RunConfig,
    task: str,
    split: str,
    deletions: Sequence[Deletion],
    watch: Callable[[Iterable[EvalBatch]], Iterable[EvalBatch]] = iter,
) -> Evaluation:
    """Evaluates `run.evaluation.num_examples` of a task's split, in the run's batches.

    Args:
        watch: sees the batches go by, to show progress.

    Raises:
        UserError: an unknown task or split; an eval_batch_size that the devices cannot share.
    """
    check_batch_size(run.data.eval_batch_size, loaded.mesh, "eval_batch_size")
    ladder = make_ladder(run.data.input_length, run.compaction, jax.default_backend())
    evaluator = make_evaluator(loaded.model, ladder, run.evaluation.seed)
    batches = eval_batches(task, run.data, split=split, num_examples=run.evaluation.num_examples)
    return evaluate(evaluator, loaded.params, watch(batches), deletions, lambda batch: put_batch(batch, loaded.mesh))

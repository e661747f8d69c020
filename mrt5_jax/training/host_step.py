"""A training step of several programs, between which the host reads the kept counts and chooses the lengths.

    prepare  alpha, counts of the batch, random keys                      one program
    begin    up to the gate, with the way back; rows in chunks            one program
    body     gradient of the model after the gate, for one chunk          one program for each rung
    finish   the first stage's gradient                                   one program
    update   gradients put together, optimizer, controller, metrics       one program

All compile before the first step of an input length, the rungs side by side: nothing compiles later, whatever is kept.
The memory of a step is that of the lengths that ran, and gradients stay outside of conditionals.
"""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Compiled
from jaxtyping import PyTree

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.compaction.on_host import Collected, OnHost, Programs, abstract_outputs, joined
from mrt5_jax.compaction.staged import Shardings
from mrt5_jax.config import RunConfig
from mrt5_jax.model.dropout import RowKeys
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import DeviceBatch
from mrt5_jax.model.parameters import split_stages
from mrt5_jax.parallel.axis_rules import DATA
from mrt5_jax.parallel.mesh import batch_sharding, replicated, row_shards
from mrt5_jax.training.gradients import Objective, Setting, training_stages
from mrt5_jax.training.staged_gradients import LossAndGradients
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.step import (
    Learning,
    StepResult,
    choose_by_branch,
    choose_leaf_by_leaf,
    make_setting,
    step_inputs,
    update,
)


class HostTrainStep:
    """(state, batch) -> StepResult, like `make_train_step`'s; the state is donated.

    Args:
        ladder: the lengths that deletions that remove positions run at.
        abstract: what `state_shardings.abstract_state` returns.
    """

    def __init__(self, model: MrT5, run: RunConfig, learning: Learning, ladder: Ladder, abstract: TrainState) -> None:
        self._run, self._learning, self._ladder, self._abstract = run, learning, ladder, abstract
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        mesh = jax.tree.leaves(places)[0].mesh
        everywhere, rows = replicated(mesh), batch_sharding(mesh)
        setting = make_setting(model, run, ladder, row_shards(mesh))
        self._stages = training_stages(setting, gradient_shardings(setting, places.params, mesh))
        self._gradients = OnHost(self._stages)
        self._move_if = choose_by_branch if mesh.devices.flat[0].platform == "cpu" else choose_leaf_by_leaf
        self._prepare = jax.jit(self._inputs, out_shardings=(everywhere, rows))
        result = StepResult(places, everywhere, everywhere)  # pyright: ignore[reportArgumentType]
        self._update = jax.jit(self._updated, donate_argnums=0, out_shardings=result)
        self._compiled: tuple[Compiled, Compiled] | None = None

    def __call__(self, state: TrainState, batch: DeviceBatch) -> StepResult:
        if self._compiled is None:
            self.prepare(jax.tree.map(_abstract, batch))
        assert self._compiled is not None
        prepare, update = self._compiled
        objective, row_keys = prepare(state, batch)
        return update(state, batch, self._gradients.collect(state.params, objective, (batch, row_keys)))

    def prepare(self, batch: dict[str, jax.ShapeDtypeStruct]) -> tuple[Programs[Compiled], Compiled]:
        """Compiles ahead of the first step everything that batches of these shapes can need.

        Returns:
            The programs of the gradient, and the update's.
        """
        prepare = self._prepare.lower(self._abstract, batch).compile()
        objective, row_keys = abstract_outputs(prepare)
        gradients, collected = self._gradients.compile(self._abstract.params, objective, (batch, row_keys))
        update = self._update.lower(self._abstract, batch, collected).compile()
        self._compiled = prepare, update
        return gradients, update

    def _inputs(self, state: TrainState, batch: DeviceBatch) -> tuple[Objective, RowKeys]:
        return step_inputs(self._run, state, batch)

    def _updated(self, state: TrainState, batch: DeviceBatch, collected: Collected) -> StepResult:
        result = joined(self._stages, collected)
        return update(self._run, self._learning, self._ladder, state, batch, result, self._move_if)


def gradient_shardings(setting: Setting, params: PyTree[NamedSharding], mesh: Mesh) -> Shardings:
    """Says where gradients and their sums lie: where their parameters do, with a leading axis of groups in chunks."""
    everywhere = replicated(mesh)
    groups = DATA if setting.cuts.num_groups > 1 else None

    def by_group(sharding: NamedSharding) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(groups, *sharding.spec))

    first, second = (
        LossAndGradients(everywhere, everywhere, stage)  # pyright: ignore[reportArgumentType]
        for stage in split_stages(params)
    )
    return Shardings(jax.tree.map(by_group, second), first, batch_sharding(mesh))


def _abstract(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)

"""Runs with every scheme: resumed exactly, and without a compilation once everything has been seen."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    GateConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainingConfig,
)
from mrt5_jax.data.batches import eval_batches, train_batches
from mrt5_jax.errors import UserError
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.batches import put_whole_batch
from mrt5_jax.parallel.mesh import make_mesh, replicated
from mrt5_jax.selection.selector_rule import GATE_MEAN
from mrt5_jax.selection.selectors import SELECTORS
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.loop import train
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.state_shardings import jit_step
from mrt5_jax.training.step import make_train_step

from ..compaction.compilations import compilations
from ..model.small import LENGTH, TARGET, make_batch, make_config, make_params
from ..selection.plain import every_kth, magnet
from .small_runs import EVERY, STEPS, make_run, same_bits, trained
from .test_loop import killed_and_resumed

GATES = {
    "magnet": magnet.GATE,
    "every_kth": every_kth.GATE,
    "oracle": GateConfig(1, "oracle", settings=(("masks", "masks.jsonl"),)),
}
QUICK = ("boundary_predictor", "hnet")
KINDS = [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in SELECTORS]
BATCHES, BYTES = 300, 259

pytestmark = pytest.mark.usefixtures("shared_programs")


def gate_of(kind: str) -> GateConfig:
    return GATES.get(kind, GateConfig(1, kind))


def penalties_of(kind: str) -> LossConfig:
    """All of a selector's, so that all of them are learned from."""
    return LossConfig(penalties=tuple((name, 0.1) for name in SELECTORS[kind].penalties if name != GATE_MEAN))


def write_masks(run: RunConfig, batches: int, *, evaluated: bool = True) -> None:
    """A file beside which the run stands, with masks of so many batches and, perhaps, of all that is evaluated."""
    data = run.data
    stream = train_batches(data, seed=run.training.seed)
    read = [next(stream)["encoder_input_tokens"] for _ in range(batches)]
    if evaluated:
        read += [batch.arrays["encoder_input_tokens"] for batch in eval_batches(data.train_task, data)]
    rows = {tuple(row[row > 0].tolist()) for tokens in read for row in tokens}
    lines = [{"inputs": list(ids), "mask": "".join("01"[one % 2] for one in ids)} for ids in rows if ids]
    Path("masks.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_uninterrupted_one(
    kind: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a checkpoint; metrics byte for byte, the state bit for bit."""
    monkeypatch.chdir(tmp_path)
    changes: dict[str, Any] = {
        "model": ModelConfig(8, 2, 4, 8, 2, 1, gate=gate_of(kind), dropout_rate=0.2),
        "training": TrainingConfig(STEPS, "hard", eval_every=EVERY, eval_batches=2),
        "evaluation": EvaluationConfig(deletions=("hard",)),
        "loss": penalties_of(kind),
        "controller": None,
        "checkpoints": CheckpointConfig(every=EVERY),
    }
    whole, resumed = (make_run(tmp_path / name, task, **changes) for name in ("whole", "resumed"))
    write_masks(whole, STEPS + 4)
    one, other = trained(whole), killed_and_resumed(resumed)
    texts = [(Path(run.model_dir) / "metrics.jsonl").read_bytes() for run in (one, other)]
    assert texts[0] == texts[1]
    assert same_bits(one.state, other.state)


@pytest.mark.parametrize(
    ("kind", "setting", "lacks"),
    [("taught_boundaries", "teacher", "all"), ("oracle", "masks", "all"), ("oracle", "masks", "what is evaluated")],
)
def test_a_batch_that_brings_no_boundaries_is_refused_before_anything_is_written(
    kind: str, setting: str, lacks: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gate = GateConfig(1, kind, settings=((setting, "masks.jsonl"),))
    run = make_run(
        tmp_path / "run",
        task,
        model=ModelConfig(8, 2, 4, 8, 2, 1, gate=gate),
        training=TrainingConfig(STEPS, "hard"),
        evaluation=EvaluationConfig(deletions=("hard",)),
        loss=LossConfig(),
        controller=None,
    )
    write_masks(run, 1, evaluated=False)
    if lacks == "all":
        Path("masks.jsonl").write_text('{"inputs": "another text", "mask": "0000000100001"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"masks\.jsonl has no mask for '.*', which a batch has: add a line") as refusal:
        train(run)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in SELECTORS if kind != "oracle"])
def test_a_stream_of_batches_compiles_nothing_after_warm_up(kind: str) -> None:
    """300 batches, whatever they keep; an oracle's file has no such stream."""
    data = DataConfig("", (), LENGTH, TARGET, 4, 4)
    run = RunConfig(
        "",
        make_config(gate=gate_of(kind), vocab_size=384),
        data,
        TrainingConfig(10, "hard"),
        loss=penalties_of(kind),
        optimizer=OptimizerConfig(learning_rate=1e-6),
    )
    model, learning, mesh = MrT5(run.model, run.execution), make_learning(run), make_mesh(run.execution.mesh)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), make_params(run.model, 1))
    state = TrainState(jnp.int32(0), params, learning.optimizer.init(params), learning.controller.init())
    state = jax.device_put(jax.tree.map(jnp.copy, state), replicated(mesh))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    step: Any = jit_step(make_train_step(model, run, learning, Ladder((2, 4, 6, LENGTH))), abstract)
    rng, rungs = np.random.default_rng(0), set()
    lengths = [tuple(rng.integers(0, most + 1, 4)) for most in rng.integers(3, LENGTH + 1, BATCHES)]
    with compilations() as ahead:
        state, _, _ = step(state, put_whole_batch(make_batch(0, lengths[0], BYTES), mesh))
    assert ahead, "the listener hears"
    with compilations() as later:
        for seed, ends in enumerate(lengths[1:], 1):
            state, metrics, _ = step(state, put_whole_batch(make_batch(seed, ends, BYTES), mesh))
            rungs.add(round(float(metrics["rung"])))
    assert later == []
    assert len(rungs) > 1

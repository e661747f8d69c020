"""Frozen parameters do not move, have no optimizer state, and what trains trains as if they were constants."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from mrt5_jax.cli import gin_setup
from mrt5_jax.cli.main import main
from mrt5_jax.compaction.ladder import Ladder
from mrt5_jax.config import OptimizerConfig, RunConfig
from mrt5_jax.errors import UserError
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.runs.run_files import claim
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.optimizers import make_optimizer
from mrt5_jax.training.state import TrainState
from mrt5_jax.training.step import make_train_step

from ..model.small import LENGTH, TARGET, make_batch, make_config, make_params

TRUNK = ("token_embedder", "prefix", "suffix", "encoder_norm", "relpos_bias", "decoder")


def run_with(freeze: tuple[str, ...], **optimizer: Any) -> RunConfig:
    from mrt5_jax.config import DataConfig, LossConfig, TrainingConfig

    return RunConfig(
        "m",
        make_config(),
        DataConfig("", (), LENGTH, TARGET, 4, 4),
        TrainingConfig(num_steps=4),
        LossConfig(gate_weight=0.3, score_penalty=0.5),
        optimizer=OptimizerConfig(learning_rate=0.1, schedule="constant", freeze=freeze, **optimizer),
    )


def num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
@pytest.mark.parametrize("freeze", [("gate",), TRUNK, ("encoder/relpos_bias", "decoder_norm")])
def test_frozen_parameters_have_no_optimizer_state(name: Any, freeze: tuple[str, ...]) -> None:
    """The state has as many bytes as that of a model which has only the parameters that train."""
    params = jax.tree.map(jnp.float32, make_params(make_config()))
    flat = flatten_dict(params, sep="/")
    trained = {path: leaf for path, leaf in flat.items() if not any(f"/{part}/" in f"/{path}/" for part in freeze)}
    assert 0 < len(trained) < len(flat)
    state, whole, of_trained = (
        num_bytes(make_optimizer(OptimizerConfig(name=name, freeze=frozen), 10).init(tree))
        for frozen, tree in ((freeze, params), ((), params), ((), unflatten_dict(trained, sep="/")))
    )
    assert state == of_trained < whole


def test_without_frozen_parameters_the_state_is_what_it_was() -> None:
    params = jax.tree.map(jnp.float32, make_params(make_config()))
    state: Any = make_optimizer(OptimizerConfig(), 10).init(params)
    assert list(state) == ["clip", "moments", "weight_decay", "learning_rate"]


def stepped(run: RunConfig) -> tuple[Any, dict[str, Any]]:
    """State and metrics after a step; the state of the optimizer begins with the gradients."""
    learning = make_learning(run)
    learning = learning._replace(optimizer=_keeping_gradients(learning.optimizer))
    params = first_params(run)
    state = TrainState(jnp.int32(0), params, learning.optimizer.init(params), learning.controller.init())
    step = jax.jit(make_train_step(MrT5(run.model), run, learning, Ladder((LENGTH,))))
    return step(state, jax.tree.map(jnp.asarray, make_batch()))[:2]


def first_params(run: RunConfig) -> Any:
    return jax.tree.map(jnp.float32, make_params(run.model))


@pytest.fixture(scope="module")
def free_gradients() -> dict[str, Any]:
    """Of a step in which everything trains."""
    return flatten_dict(stepped(run_with(()))[0].opt_state[0], sep="/")


@pytest.mark.parametrize("freeze", [("gate",), TRUNK])
def test_a_step_moves_what_trains_and_counts_nothing_else(freeze: tuple[str, ...], free_gradients) -> None:
    """Against a step without freezing: equal gradients of what trains, so their norm is that of those alone."""
    run = run_with(freeze, clip_norm=1e-3)
    state, metrics = stepped(run)
    gradients = flatten_dict(state.opt_state[0], sep="/")
    before, after = flatten_dict(first_params(run), sep="/"), flatten_dict(state.params, sep="/")
    trained = {path for path in before if not any(f"/{part}/" in f"/{path}/" for part in freeze)}
    for path in before:
        if path in trained:
            np.testing.assert_allclose(gradients[path], free_gradients[path], rtol=1e-4, atol=1e-6, err_msg=path)
            assert (after[path] != before[path]).any(), path
        else:
            assert not np.asarray(gradients[path]).any(), path
            np.testing.assert_array_equal(after[path], before[path], path)
    norm = optax.tree.norm([free_gradients[path] for path in trained])
    assert float(metrics["gradient_norm"]) == pytest.approx(float(norm), rel=1e-4)


def _keeping_gradients(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer, with the last gradients in its state."""

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params), optimizer.init(params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        moved, inner = optimizer.update(updates, state[1], params)
        return moved, (updates, inner)

    return optax.GradientTransformation(init, update)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("freeze=('gat',)", ["freeze: no parameter has 'gat' in its path", "did you mean gate?"]),
        ("freeze=('encoder/decoder',)", ["'encoder/decoder'"]),
        ("freeze=('token_embedder', 'encoder', 'decoder')", ["freezes all parameters"]),
        ("freeze=('token_embedder', 'encoder')", ["config.RunConfig.controller would steer nothing; set it to None"]),
        ("weight_decay_exclude=('scale', 'bais')", ["weight_decay_exclude: no parameter has 'bais'", "mean bias?"]),
    ],
)
def test_names_that_match_nothing_or_too_much_are_refused(
    setting: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bindings = [f"MODEL_DIR='{tmp_path / 'model'}'", f"config.OptimizerConfig.{setting}"]
    if "exclude" in setting:
        bindings.append("config.OptimizerConfig.weight_decay=0.1")
    flags = [f"--gin.{binding}" for binding in bindings]
    assert main(["train", "--gin_file=runs/quickstart.gin", *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in words:
        assert word in error
    assert not (tmp_path / "model").exists()


def test_a_gate_weight_where_only_the_decoder_trains_is_refused() -> None:
    with pytest.raises(UserError, match=r"LossConfig.gate_weight would steer nothing; set it to 0\.0"):
        make_learning(run_with(("encoder", "token_embedder")))
    make_learning(run_with(("encoder/prefix", "gate", "encoder/relpos_bias")))


def test_a_resume_with_another_freeze_is_refused(tmp_path: Path) -> None:
    run = gin_setup.resolve(["runs/quickstart.gin"], bindings=[f"MODEL_DIR='{tmp_path / 'model'}'"]).run
    claim(run, "")
    other = dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, freeze=("gate",)))
    with pytest.raises(UserError, match=r"optimizer.freeze \(\) -> \('gate',\)"):
        claim(other, "")

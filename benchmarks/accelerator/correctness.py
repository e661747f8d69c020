"""Whether a device computes what the host's CPU computes in float64: forward passes and a training step.

The same functions run on both, from the same float32 parameters, for a small model with rows of several lengths.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.accelerator.sizes import SMALL, Sizes, keeping_even_bytes, make_batch, make_run, with_attention
from mrt5_jax.compaction.ladder import Ladder, make_ladder
from mrt5_jax.config import Deletion, MeshConfig
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.model.forward import ForwardSetting, forward
from mrt5_jax.model.parameters import Params
from mrt5_jax.parallel.mesh import make_mesh, on_mesh, replicated
from mrt5_jax.training.learning import make_learning
from mrt5_jax.training.state import TrainState, initial_monitor
from mrt5_jax.training.state_shardings import init_sharded, jit_step
from mrt5_jax.training.step import make_state, make_train_step

SIZES = SMALL._replace(model=dataclasses.replace(SMALL.model, emb_dim=128, head_dim=64, dtype="float32"))
"""With heads as wide as those of all ByT5 sizes."""

_STEEPNESS = 0.5
"""Gate logits of a few units, so that gradients flow through the gate, and yet none near its threshold."""

TOLERANCES = {
    "float32": {"logits": 1e-4, "loss": 1e-4, "gradient": 1e-4},
    "bfloat16": {"logits": 3e-2, "loss": 1e-3, "gradient": 1e-1},
}
"""Of Euclidean norms of differences, relative to the norm in float64; a gradient's is that of its worst array.
float32: this project's tolerance for whole models. bfloat16: several times what rounding makes of them on a CPU, 7e-3,
3e-5 and 3e-2 (of the scale of the gate's norm)."""

DELETIONS: tuple[Deletion, ...] = ("none", "soft", "hard")


class Check(NamedTuple):
    what: str
    dtype: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance  # False for NaN


class Computed(NamedTuple):
    logits: dict[str, np.ndarray]
    """By deletion."""
    kept: np.ndarray
    """Whether hard deletion keeps a position."""
    loss: float
    gradient: dict[str, np.ndarray]
    """By the name of the parameter; clipped, as the optimizer sees it."""


def check(attention: str, device: Any, host: Any) -> Iterator[Check]:
    """Yields the differences between `device` and float64 on `host`, a CPU."""
    sizes = with_attention(SIZES, attention)
    params, batch = _make_params(sizes, host), _with_padding(make_batch(sizes))
    with jax.enable_x64(True), jax.default_device(host):
        wide = sizes._replace(model=dataclasses.replace(sizes.model, dtype="float64", param_dtype="float64"))
        expected = _compute(wide, jax.tree.map(np.float64, params), batch, host)
    for dtype, tolerances in TOLERANCES.items():
        with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
            own = sizes._replace(model=dataclasses.replace(sizes.model, dtype=dtype))
            yield from compare(dtype, _compute(own, params, batch, device), expected, tolerances)


def compare(dtype: str, computed: Computed, expected: Computed, tolerances: dict[str, float]) -> Iterator[Check]:
    """Yields what differs between two results."""
    for deletion, logits in computed.logits.items():
        difference = _relative(logits, expected.logits[deletion])
        yield Check(f"forward pass, {deletion}: logits", dtype, difference, tolerances["logits"])
    different = int(np.sum(computed.kept != expected.kept))
    yield Check("positions kept by one alone", dtype, different, 0)
    loss = _relative(np.float64(computed.loss), np.float64(expected.loss))
    yield Check("training step, saturated: loss", dtype, loss, tolerances["loss"])
    differences = {name: _relative(computed.gradient[name], array) for name, array in expected.gradient.items()}
    worst = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
    yield Check(f"its gradient: {worst}", dtype, differences[worst], tolerances["gradient"])


def _relative(array: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(np.float64(array) - expected) / np.linalg.norm(expected))


def _compute(sizes: Sizes, params: Params, batch: dict[str, np.ndarray], device: Any) -> Computed:
    mesh = make_mesh(MeshConfig(), [device])
    params, arrays = jax.device_put((params, batch), replicated(mesh))
    model, ladder = MrT5(sizes.model, sizes.execution), Ladder((sizes.kept, sizes.input_length))
    run_forward = jax.jit(forward, static_argnums=0)
    with on_mesh(mesh, MeshConfig()):
        outputs = {name: run_forward(ForwardSetting(model, name, ladder), params, arrays) for name in DELETIONS}
        stepped = _step(sizes, params, arrays, mesh)
    moment: Any = optax.tree.get(stepped.state.opt_state, "mu")
    names = [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
             for path, leaf in jax.tree_util.tree_leaves_with_path(moment)]  # fmt: skip
    return Computed(
        {name: np.float64(output.logits) for name, output in outputs.items()},
        np.asarray(outputs["hard"].at_gate.keep),
        float(stepped.metrics["total_loss"]),
        {name: np.float64(leaf) for name, leaf in names},
    )


def _step(sizes: Sizes, params: Params, batch: dict[str, jax.Array], mesh: Any) -> Any:
    """The real training step. AdamW's first moment, from zero, is a tenth of the gradient."""
    run = make_run(sizes, "saturated", "capacity")
    learning = make_learning(run)

    def first(params: Params) -> TrainState:
        moments, controller = learning.optimizer.init(params), learning.controller.init()
        return TrainState(jnp.int32(0), params, moments, controller, initial_monitor())

    # Compiled, so that no two arrays share a buffer: the step takes them over.
    state = jax.jit(first, out_shardings=replicated(mesh))(params)
    abstract: Any = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )
    ladder = make_ladder(sizes.input_length, run.execution, jax.default_backend(), run.compaction.capacity)
    return jit_step(make_train_step(MrT5(sizes.model, sizes.execution), run, learning, ladder), abstract)(state, batch)


def _make_params(sizes: Sizes, host: Any) -> Params:
    """Made on the host, since the random bits of devices may differ."""
    run = make_run(sizes, "saturated")
    mesh = make_mesh(MeshConfig(), [host])
    with on_mesh(mesh, MeshConfig()), jax.default_device(host):
        key = jax.random.key(0)
        state = init_sharded(
            lambda key: make_state(MrT5(sizes.model, sizes.execution), run, make_learning(run), key), mesh, key
        )
        return jax.tree.map(np.asarray, keeping_even_bytes(state.params, _STEEPNESS))


def _with_padding(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of several lengths, from whole down to about a half."""
    rows, length = batch["encoder_input_tokens"].shape
    targets = batch["decoder_target_tokens"].shape[1]
    share = 1 - np.arange(rows)[:, None] / (2 * rows)
    inside, weighted = np.arange(length) < share * length, np.arange(targets) < share * targets
    return {
        **batch,
        "encoder_input_tokens": np.where(inside, batch["encoder_input_tokens"], 0),
        "decoder_loss_weights": weighted.astype(np.int32),
    }

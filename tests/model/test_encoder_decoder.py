"""The whole forward pass against NumPy's: in every precision, under every deletion, whatever else is in the batch."""

import dataclasses
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.config import Deletion, ModelConfig
from mrt5_jax.model.encoder_decoder import MrT5

from . import oracle
from .small import LENGTH, LENGTHS, by_path, in_double, make_batch, make_config, make_params, run_forward

GATED = in_double(make_config())
BYT5 = dataclasses.replace(GATED, gate=None)
SINK = make_config(softmax1=True)
CASES: list[tuple[ModelConfig, Deletion]] = [(GATED, "soft"), (GATED, "hard"), (BYT5, "none")]
DRAWN = [0.24348066747188568, 0.07555253058671951, 0.2621978521347046]
DELETIONS: list[Deletion] = ["soft", "hard"]


def with_gate(params: Any, *, kernel: float, bias: float) -> Any:
    """Parameters with a gate of kernel x `kernel`, and of this bias."""
    gate = {**params["encoder"]["gate"]}
    gate |= {"kernel": kernel * gate["kernel"], "bias": np.full(1, bias)}
    return {**params, "encoder": {**params["encoder"], "gate": gate}}


def without_gate(params: Any) -> Any:
    """The parameters of a plain ByT5: prefix and suffix as one stack."""
    encoder = {**params["encoder"]}
    del encoder["gate"]
    encoder["prefix"] = join(encoder["prefix"], encoder.pop("suffix"))
    return {**params, "encoder": encoder}


def join(first: Any, second: Any) -> Any:
    if isinstance(first, dict):
        return {name: join(first[name], second[name]) for name in first}
    return np.concatenate([first, second])


def crowded_row(params: Any) -> np.ndarray:
    """An input of which more is kept than the lower rung holds."""
    batches = (make_batch(seed, (LENGTH,)) for seed in itertools.count())
    kept = ((batch, oracle.forward(GATED, params, batch, "hard").keep.sum()) for batch in batches)
    return next(batch["encoder_input_tokens"][0] for batch, count in kept if count > LENGTH // 2)


def test_a_seed_means_the_same_initial_parameters_in_every_version() -> None:
    """The last number of a kernel of each stack: what is drawn follows from the seed and the names alone."""
    tokens = jnp.ones((1, 4), jnp.int32)
    params = nn.unbox(jax.jit(MrT5(make_config()).init)(jax.random.key(0), tokens, tokens)["params"])
    stacks = params["encoder"]["prefix"], params["encoder"]["suffix"], params["decoder"]["layers"]
    drawn = [float(stack["mlp"]["wo"]["kernel"].ravel()[-1]) for stack in stacks]
    assert drawn == pytest.approx(DRAWN, rel=1e-5)


@pytest.mark.parametrize(("config", "deletion"), CASES)
def test_logits_and_gate_are_the_formulas(config: ModelConfig, deletion: Deletion) -> None:
    """Layers in a scan, compaction at either rung, original positions: all equal to a plain loop with masks."""
    rungs = set()
    for seed in range(4):
        params, batch = make_params(config, seed), make_batch(seed)
        ours, theirs = run_forward(config, params, batch, deletion), oracle.forward(config, params, batch, deletion)
        targets = batch["decoder_loss_weights"] > 0
        np.testing.assert_allclose(ours.logits[targets], theirs.logits[targets], rtol=1e-10, atol=1e-10)
        np.testing.assert_array_equal(ours.at_gate.keep, theirs.keep)
        if ours.at_gate.selection is not None:
            np.testing.assert_allclose(ours.at_gate.selection.signals.key_bias, theirs.gate_values, rtol=1e-10)
        rungs |= set(ours.rungs.tolist())
    assert rungs == ({LENGTH // 2, LENGTH} if deletion == "hard" else {LENGTH})


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_other_precisions_stay_near(dtype: Any, tolerance: float) -> None:
    """softmax1 included; root mean square of the error against that of the logits, the median of five models.

    In single models of this size, with attention scores of 20 and more, bfloat16's error is anything from 0.02 to 0.2.
    """
    config = dataclasses.replace(SINK, dtype=dtype)
    errors = []
    for seed in range(5):
        params, batch = make_params(config, seed), make_batch(seed)
        ours, theirs = run_forward(config, params, batch, "soft"), oracle.forward(config, params, batch, "soft")
        assert ours.logits.dtype == dtype
        assert ours.at_gate.selection.signals.key_bias.dtype == np.float32
        targets = batch["decoder_loss_weights"] > 0
        difference = ours.logits.astype(np.float64)[targets] - theirs.logits[targets]
        errors.append(np.sqrt(np.mean(difference**2) / np.mean(theirs.logits[targets] ** 2)))
    assert np.median(errors) < tolerance


@pytest.mark.parametrize("config", [GATED, in_double(SINK), BYT5])
def test_the_model_called_directly_deletes_hard(config: ModelConfig) -> None:
    """Its gate is honoured, by masking at full length: what compaction computes, and neither softly nor not at all."""
    params, batch = make_params(config, 1), make_batch(1)
    with jax.enable_x64(True):
        ids = [jnp.asarray(batch[name]) for name in ("encoder_input_tokens", "decoder_input_tokens")]
        called: Any = jax.jit(MrT5(config).apply)({"params": params}, *ids)
    targets = batch["decoder_loss_weights"] > 0
    logits = np.asarray(called.logits)[targets]
    hard, soft, none = (run_forward(config, params, batch, of).logits[targets] for of in ("hard", "soft", "none"))
    np.testing.assert_allclose(logits, hard, rtol=1e-10, atol=1e-10)
    for other in (soft, none):
        assert (np.abs(logits - other).max() > 0.1) == (config.gate is not None)


def test_a_gate_value_that_is_nan_shows_in_a_direct_call() -> None:
    params, batch = with_gate(make_params(GATED), kernel=np.nan, bias=0.0), make_batch()
    with jax.enable_x64(True):
        ids = [jnp.asarray(batch[name]) for name in ("encoder_input_tokens", "decoder_input_tokens")]
        called: Any = jax.jit(MrT5(GATED).apply)({"params": params}, *ids)
    assert np.isnan(np.asarray(called.logits)[batch["encoder_input_tokens"][:, 0] > 0]).all()


@pytest.mark.parametrize("deletion", DELETIONS)
def test_a_row_is_as_if_it_were_alone_and_unpadded(deletion: Deletion) -> None:
    """Padding, filler slots, filler rows and neighbours change nothing; the row alone is computed in NumPy."""
    params, batch = make_params(GATED, 1), make_batch(1)
    logits = run_forward(GATED, params, batch, deletion).logits
    for row, length in enumerate(LENGTHS):
        if length:
            lonely = {
                name: array[row : row + 1, : length if "encoder" in name else length // 2]
                for name, array in batch.items()
            }
            expected = oracle.forward(GATED, params, lonely, deletion).logits[0]
            np.testing.assert_allclose(logits[row, : length // 2], expected, rtol=1e-10, atol=1e-10)
    assert np.isfinite(logits).all(), "pads and filler must be harmless too"


@pytest.mark.parametrize("deletion", DELETIONS)
def test_a_rows_place_and_the_rung_its_neighbours_force_do_not_matter(deletion: Deletion) -> None:
    """The same rows in another order, beside a row that keeps everything."""
    params, batch = make_params(GATED, 1), make_batch(1, (6, 5, 0, 4))
    order = [3, 0, 1, 2]
    other = {name: array[order] for name, array in batch.items()}
    other["encoder_input_tokens"][3] = crowded_row(params)
    here, there = run_forward(GATED, params, batch, deletion), run_forward(GATED, params, other, deletion)
    if deletion == "hard":
        assert set(here.rungs.tolist()) == {LENGTH // 2}
        assert set(there.rungs.tolist()) == {LENGTH}
    np.testing.assert_allclose(there.logits[:3], here.logits[order[:3]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("deletion", DELETIONS)
def test_a_gate_that_keeps_everything_leaves_plain_byt5(deletion: Deletion) -> None:
    params, batch = with_gate(make_params(GATED), kernel=1, bias=1e4), make_batch()
    gated = run_forward(GATED, params, batch, deletion)
    plain = run_forward(BYT5, without_gate(params), batch, "none")
    np.testing.assert_array_equal(gated.at_gate.keep, plain.at_gate.mask)
    targets = batch["decoder_loss_weights"] > 0
    np.testing.assert_allclose(gated.logits[targets], plain.logits[targets], rtol=1e-12, atol=1e-12)


def test_soft_deletion_is_hard_deletion_where_the_gate_is_saturated() -> None:
    """Gate values of 0 and -30 and small scores: what attention still sees of the deleted is e^-30, 1e-13.

    Not in a row that is deleted as a whole: softly, all its positions are as good as each other.
    """
    params = with_gate(make_params(GATED), kernel=1e4, bias=0.0)
    for path, leaf in by_path(params).items():
        if "query" in path:
            leaf *= 0.1
    compared = 0
    for seed in range(3):
        batch = make_batch(seed)
        soft, hard = (run_forward(GATED, params, batch, deletion) for deletion in DELETIONS)
        assert set(soft.at_gate.selection.signals.key_bias[soft.at_gate.mask]) == {-30.0, 0.0}
        targets = (batch["decoder_loss_weights"] > 0) & ~(hard.at_gate.selection.statistics["rescued"] > 0)[:, None]
        np.testing.assert_allclose(soft.logits[targets], hard.logits[targets], rtol=1e-9, atol=1e-9)
        compared += targets.any(1).sum()
    assert compared >= 4


@pytest.mark.parametrize("deletion", DELETIONS)
def test_a_row_whose_tokens_are_all_deleted_keeps_its_best(deletion: Deletion) -> None:
    """One position each, counted; the oracle keeps the same. A filler row keeps none."""
    params, batch = with_gate(make_params(GATED), kernel=0.1, bias=-50.0), make_batch()
    ours, theirs = run_forward(GATED, params, batch, deletion), oracle.forward(GATED, params, batch, deletion)
    np.testing.assert_array_equal(ours.at_gate.keep, theirs.keep)
    np.testing.assert_array_equal(ours.at_gate.keep.sum(1), [1, 1, 0, 1])
    np.testing.assert_array_equal(ours.at_gate.selection.statistics["rescued"], [True, True, False, True])
    targets = batch["decoder_loss_weights"] > 0
    np.testing.assert_allclose(ours.logits[targets], theirs.logits[targets], rtol=1e-10, atol=1e-10)


def test_a_batch_of_filler_is_finite() -> None:
    for config, deletion in CASES:
        outputs = run_forward(config, make_params(config), make_batch(0, (0, 0, 0, 0)), deletion)
        assert np.isfinite(outputs.logits).all()
        assert not outputs.at_gate.keep.any()

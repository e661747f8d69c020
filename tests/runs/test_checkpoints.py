"""A checkpoint gives back exactly what was saved, or says in one line why it cannot."""

import copy
import logging
import math
import resource
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mrt5_jax.config import CheckpointConfig, ModelConfig, OptimizerConfig
from mrt5_jax.errors import UserError
from mrt5_jax.objectives.kept_lengths import BINS, no_kept_lengths
from mrt5_jax.runs import integrity
from mrt5_jax.runs.checkpoints import Checkpoints, save_model
from mrt5_jax.runs.model_dir import read_model_config
from mrt5_jax.runs.restoring import best_step, restore_params
from mrt5_jax.training.optimizers import make_optimizer
from mrt5_jax.training.state import TrainState

MODEL = ModelConfig(
    emb_dim=4, num_heads=1, head_dim=4, mlp_dim=8, num_encoder_layers=2, num_decoder_layers=1, vocab_size=384
)
OPTIMIZER = make_optimizer(OptimizerConfig(name="adafactor", weight_decay=0.1), 10)
DATA_STATE = {"next_example": 17, "order": [3, 1, 2]}


def make_state(step: int = 0, dtype: str = "float32") -> TrainState:
    """Awkward numbers: denormals, negative zero and the like must come back bit for bit.

    One parameter: where reading one of several arrays fails, Orbax drops the others half read, which Python reports.
    """
    rng = np.random.default_rng(step)
    kernel = rng.normal(size=(3, 2048)).astype(dtype)
    kernel[0, :3] = [-0.0, 1e-42, 1 / 3]
    params = {"encoder": {"gate": {"kernel": jnp.asarray(kernel)}}}
    opt_state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.integers(0, 99, leaf.shape), leaf.dtype), jax.eval_shape(OPTIMIZER.init, params)
    )
    controller = {"integral": jnp.float32(1 / 3), "alpha": jnp.float32(step)}
    return TrainState(jnp.int32(step), params, opt_state, controller)


def abstract(state: TrainState) -> TrainState:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)


def save(model_dir: Path, *steps: int, keep: int = 3) -> None:
    with Checkpoints(model_dir, CheckpointConfig(keep=keep), seed=7) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step), DATA_STATE)


def restore(model_dir: Path, state: TrainState | None = None, seed: int = 7):
    with Checkpoints(model_dir, CheckpointConfig(), seed) as checkpoints:
        return checkpoints.restore_or_init(abstract(state or make_state()), lambda: make_state(0))


def assert_same_bits(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        other = dict(jax.tree_util.tree_leaves_with_path(actual))[path]
        assert leaf.dtype == other.dtype
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes(), path


def steps_of(model_dir: Path) -> list[int]:
    return sorted(int(path.name) for path in (model_dir / "checkpoints").iterdir())


def data_files(model_dir: Path, step: int, item: str) -> list[Path]:
    """Files with array data, the largest first."""
    files = (model_dir / "checkpoints" / str(step) / item).rglob("d/*")
    return sorted(files, key=lambda path: -path.stat().st_size)


def test_restore_gives_back_every_bit(tmp_path):
    save(tmp_path, 1, 2)
    restored = restore(tmp_path)
    assert_same_bits(restored.state, make_state(2))
    assert (restored.step, restored.data_state) == (2, DATA_STATE)


def test_without_checkpoints_training_begins(tmp_path):
    restored = restore(tmp_path)
    assert_same_bits(restored.state, make_state(0))
    assert (restored.step, restored.data_state) == (None, None)


def test_oldest_checkpoints_go_first(tmp_path):
    save(tmp_path, 1, 2, 3, 4, keep=2)
    assert steps_of(tmp_path) == [3, 4]


def test_the_best_and_every_kth_stay_also_over_a_restart(tmp_path):
    config = CheckpointConfig(keep=1, keep_period=4, keep_best=1)
    losses = {1: 0.9, 2: 0.3, 3: math.nan, 4: 0.5, 5: None, 6: 0.4}
    for steps in ((1, 2, 3), (4, 5, 6)):
        with Checkpoints(tmp_path, config, seed=7) as checkpoints:
            for step in steps:
                checkpoints.save(make_state(step), DATA_STATE, losses[step])
    assert steps_of(tmp_path) == [2, 4, 6]
    assert best_step(tmp_path) == 2
    save(tmp_path / "unmeasured", 1)
    assert best_step(tmp_path / "unmeasured") is None


def test_saving_a_step_twice_is_no_error(tmp_path):
    """The last step is often a multiple of the interval too."""
    save(tmp_path, 1, 1)
    assert restore(tmp_path).step == 1


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "missing", "description", "everything"])
def test_damaged_newest_checkpoint_is_passed_over_by_name(tmp_path, caplog, damage):
    save(tmp_path, 1, 2)
    largest = data_files(tmp_path, 2, "params")[0]
    if damage == "flipped bit":  # in the middle of numbers, where nothing else notices
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    if damage == "truncated":
        largest.write_bytes(largest.read_bytes()[:100])
    if damage == "missing":
        largest.unlink()
    if damage == "description":
        (tmp_path / "checkpoints" / "2" / "run" / "metadata").write_text('{"arrays"')
    if damage == "everything":
        for path in (tmp_path / "checkpoints" / "2").rglob("*"):
            if path.is_file():
                path.write_bytes(b"\0" * 10)
    with caplog.at_level(logging.WARNING, logger="mrt5_jax"):
        restored = restore(tmp_path)
    assert_same_bits(restored.state, make_state(1))
    assert f"{tmp_path}/checkpoints/2 is damaged" in caplog.text
    save(tmp_path, 2)  # the resumed run reaches the step again
    assert restore(tmp_path).step == 2


def test_only_damaged_checkpoints_are_refused_and_kept(tmp_path):
    save(tmp_path, 1, 2)
    for step in (1, 2):
        data_files(tmp_path, step, "params")[0].unlink()
    for _ in range(2):
        with pytest.raises(UserError, match=r"every checkpoint \(2, 1\) is damaged, and nothing was changed"):
            restore(tmp_path)
        assert steps_of(tmp_path) == [1, 2]
        assert {path.name for path in tmp_path.iterdir()} == {"checkpoints"}
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n')
    with Checkpoints(tmp_path, CheckpointConfig(), 7, start_over=True) as checkpoints:
        assert checkpoints.restore_or_init(abstract(make_state()), lambda: make_state(0)).step is None
        checkpoints.save(make_state(1), DATA_STATE)
    (aside,) = (tmp_path / "set_aside").iterdir()
    assert steps_of(aside) == [1, 2]
    assert (aside / "metrics.jsonl").read_text() == '{"step": 2}\n'
    assert steps_of(tmp_path) == [1]


def test_imported_weights_do_not_stand_in_for_damaged_checkpoints_of_training(tmp_path):
    save_model(tmp_path, make_state(3).params, MODEL)
    save(tmp_path, 1)
    data_files(tmp_path, 1, "params")[0].unlink()
    with pytest.raises(UserError, match=r"every checkpoint of training \(1\) is damaged"):
        restore(tmp_path)
    with Checkpoints(tmp_path, CheckpointConfig(), 7, start_over=True) as checkpoints:
        restored = checkpoints.restore_or_init(abstract(make_state()), lambda: make_state(0))
    assert_same_bits(restored.state.params, make_state(3).params)


def test_what_cannot_be_read_now_is_not_damage(tmp_path):
    """A folder in a file's place fails to be read as a bad disk does, also for root."""
    save(tmp_path, 1, 2)
    file = tmp_path / "checkpoints" / "2" / "run" / "metadata"
    content = file.read_bytes()
    file.unlink()
    file.mkdir()
    for read in (restore, restore_params):
        with pytest.raises(UserError, match=r"checkpoints/2 cannot be read .*that is no damage") as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)
    assert steps_of(tmp_path) == [1, 2]
    assert not (tmp_path / "damaged_checkpoints").exists()
    file.rmdir()
    file.write_bytes(content)
    assert restore(tmp_path).step == 2


def test_weights_that_are_not_finite_are_kept_only_when_told_to_and_not_trained(tmp_path):
    params = poisoned_state(1).params
    save_model(tmp_path, params, MODEL, allow_non_finite=True)
    assert_same_bits(restore_params(tmp_path).params, params)
    with pytest.raises(UserError, match="imported with --allow_non_finite"):
        restore(tmp_path)


def test_a_full_disk_is_one_line_and_older_checkpoints_stay_good(tmp_path):
    """The limit of a file's size stands for the disk's."""
    big = make_state(2)
    big.params["encoder"]["gate"]["kernel"] = jax.random.normal(jax.random.key(0), (10**6,))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_too_much() -> None:
        with Checkpoints(tmp_path, CheckpointConfig(), seed=7) as checkpoints:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
            try:
                checkpoints.save(big, DATA_STATE)
                checkpoints.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    save(tmp_path, 1)
    with pytest.raises(UserError, match=r"could not be written .*File too large.* steps 1 are whole") as error:
        save_too_much()
    assert "\n" not in str(error.value)
    assert_same_bits(restore_params(tmp_path).params, make_state(1).params)


def poisoned_state(step: int) -> TrainState:
    state = make_state(step)
    state.params["encoder"]["gate"]["kernel"] = state.params["encoder"]["gate"]["kernel"].at[1, 5].set(jnp.nan)
    return state


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    """Neither by training nor as imported weights; the last good checkpoint stays the newest."""
    save(tmp_path, 1)
    with (
        Checkpoints(tmp_path, CheckpointConfig(), seed=7) as checkpoints,
        pytest.raises(UserError, match=r"after step 2 params/encoder/gate/kernel is not finite.* that of step 1"),
    ):
        checkpoints.save(poisoned_state(2), DATA_STATE)
    assert steps_of(tmp_path) == [1]
    with pytest.raises(UserError, match="params/encoder/gate/kernel is not finite: nothing is written"):
        save_model(tmp_path / "imported", poisoned_state(0).params, MODEL)
    assert not (tmp_path / "imported").exists()


def test_a_poisoned_checkpoint_of_an_older_version_is_passed_over(tmp_path, caplog, monkeypatch):
    """It was saved as a good one; training and evaluation take the one before it."""
    save(tmp_path, 1)
    with monkeypatch.context() as patch, Checkpoints(tmp_path, CheckpointConfig(), seed=7) as checkpoints:
        patch.setattr("mrt5_jax.runs.checkpoints.not_finite", lambda _: "")
        checkpoints.save(poisoned_state(2), DATA_STATE)
    assert restore_params(tmp_path).step == 1
    with caplog.at_level(logging.WARNING, logger="mrt5_jax"):
        assert restore(tmp_path).step == 1
    assert "checkpoints/2 is damaged (params/encoder/gate/kernel is not finite)" in caplog.text
    save(tmp_path, 2)
    assert restore(tmp_path).step == 2


def test_a_float32_controller_of_a_float64_run_is_widened(tmp_path, capsys):
    """With one line, and to the very same numbers; nothing else is."""
    with jax.enable_x64(True):
        state = make_state(1, "float64")
        with Checkpoints(tmp_path, CheckpointConfig(), seed=7) as checkpoints:
            checkpoints.save(state, DATA_STATE)
        wide = state._replace(controller=jax.tree.map(lambda leaf: leaf.astype("float64"), state.controller))
        assert_same_bits(restore(tmp_path, wide).state, wide)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith("checkpoints/1: controller and monitor are float32 there, and float64 from here on")
        assert_same_bits(restore(tmp_path, state).state, state)
        assert not capsys.readouterr().err
        narrow = make_state(1)
        with pytest.raises(UserError, match="is float64, not float32"):
            restore(tmp_path, narrow)


def test_restore_never_casts(tmp_path):
    save(tmp_path, 1)
    other = make_state(0)
    other.params["encoder"]["gate"]["kernel"] = jnp.zeros((3, 2048), jnp.bfloat16)
    with pytest.raises(UserError, match="params/encoder/gate/kernel is float32, not bfloat16"):
        restore(tmp_path, other)
    assert restore(tmp_path).step == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda params: params["encoder"]["gate"].update(kernel=jnp.zeros((3, 65))),
            r"shape \[3, 2048\], not \[3, 65\]",
        ),
        (lambda params: params["encoder"].update(bias=jnp.zeros(2)), "params/encoder/bias is missing"),
        (lambda params: params.pop("encoder"), "params/encoder/gate/kernel has no place"),
    ],
)
def test_another_model_is_refused_by_the_name_of_what_differs(tmp_path, change, message):
    save(tmp_path, 1)
    other = make_state(0)
    change(other.params)
    with pytest.raises(UserError, match=message):
        restore(tmp_path, other)


def test_another_optimizer_or_seed_is_refused(tmp_path):
    save(tmp_path, 1)
    other = make_state(0)
    other = other._replace(opt_state=optax.sgd(1e-3, momentum=0.9).init(other.params))
    with pytest.raises(UserError, match="rest/opt_state"):
        restore(tmp_path, other)
    with pytest.raises(UserError, match="seed 7, not 8"):
        restore(tmp_path, seed=8)


def test_evaluation_reads_parameters_without_the_optimizer(tmp_path):
    save(tmp_path, 1, 2)
    restored = restore_params(tmp_path)
    assert restored.step == 2
    assert_same_bits(restored.params, make_state(2).params)
    assert_same_bits(restore_params(tmp_path, step=1).params, make_state(1).params)
    assert [restore_params(tmp_path, step).digest == restored.digest for step in (1, 2)] == [False, True]
    with pytest.raises(UserError, match="no step 5; it has 1, 2"):
        restore_params(tmp_path, step=5)


def test_evaluation_passes_over_damage_and_moves_nothing(tmp_path):
    save(tmp_path, 1, 2)
    data_files(tmp_path, 2, "params")[0].unlink()
    assert restore_params(tmp_path).step == 1
    assert (tmp_path / "checkpoints" / "2").is_dir()
    with pytest.raises(UserError, match="whole at step 2"):
        restore_params(tmp_path, step=2)


def test_imported_weights_are_a_model_dir_that_evaluation_reads_and_training_starts_from(tmp_path):
    params = make_state(3).params
    save_model(tmp_path, jax.tree.map(np.asarray, params), MODEL)
    assert read_model_config(tmp_path) == MODEL
    assert restore_params(tmp_path).step == 0
    assert_same_bits(restore_params(tmp_path).params, params)
    restored = restore(tmp_path)
    assert_same_bits(restored.state.params, params)
    assert_same_bits(restored.state.opt_state, make_state(0).opt_state)
    assert (restored.step, restored.data_state) == (None, None)
    with pytest.raises(UserError, match="has checkpoints already"):
        save_model(tmp_path, params, MODEL)


def test_imported_weights_are_not_copied_to_be_saved(tmp_path, monkeypatch):
    """Neither to a device, for their checksums, nor before they are written: a model may take most of the memory."""
    params = jax.tree.map(np.asarray, make_state(3).params)
    copied, deepcopy = [], copy.deepcopy

    def noting(value, memo=None):
        result = deepcopy(value, memo)
        if isinstance(value, np.ndarray) and not np.shares_memory(value, result):
            copied.append(value.shape)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(copy, "deepcopy", noting)
        patch.setattr(integrity, "_checksums", None)
        patch.setattr(integrity, "_all_finite", None)
        save_model(tmp_path, params, MODEL)
    assert copied == []
    assert_same_bits(restore_params(tmp_path).params, params)


def test_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(UserError, match="has no checkpoint"):
        restore_params(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def with_histograms(state: TrainState) -> TrainState:
    kept = no_kept_lengths(2)._replace(counts=jnp.ones((2, BINS)), num_chunks=jnp.asarray([4, 1], jnp.int32))
    return state._replace(kept={"hard": kept, "saturated": kept})


def test_histograms_are_saved_and_begin_empty_where_a_checkpoint_has_none(tmp_path: Path) -> None:
    """As those of earlier versions do; all else is as it was."""
    save(tmp_path, 1)
    expected = make_state(1)
    restored = restore(tmp_path, with_histograms(make_state())).state
    assert_same_bits(restored._replace(kept=None), expected)
    nothing = no_kept_lengths(2)
    assert_same_bits(restored.kept, {"hard": nothing, "saturated": nothing})
    with Checkpoints(tmp_path, CheckpointConfig(), seed=7) as checkpoints:
        checkpoints.save(with_histograms(make_state(2)), DATA_STATE)
    assert_same_bits(restore(tmp_path, with_histograms(make_state())).state, with_histograms(make_state(2)))

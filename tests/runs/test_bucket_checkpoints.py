"""Checkpoints in buckets that cannot be read now are neither taken for damaged nor moved."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from mrt5_jax.config import CheckpointConfig
from mrt5_jax.errors import UserError
from mrt5_jax.runs.bucket_checkpoints import COMMIT, SIZES, committed_steps
from mrt5_jax.runs.buckets import PATIENCE
from mrt5_jax.runs.checkpoints import Checkpoints
from mrt5_jax.runs.files import as_path, files_for
from mrt5_jax.runs.restoring import restore_params
from mrt5_jax.training.state import TrainState


@pytest.fixture
def model_dir(bucket_server: Any, tmp_path: Path) -> Any:
    """A MODEL_DIR with two steps that were committed, and one that was not."""
    folder = as_path(bucket_server.url(f"{tmp_path.name}/run"))
    for name in (f"3/{SIZES}", f"3/{COMMIT}", f"6/{SIZES}", f"6/{COMMIT}", f"9/{SIZES}"):
        files_for(folder).write(folder / "checkpoints" / name, b"{}")
    return folder


@pytest.mark.parametrize("status", [403, 503])
def test_a_storage_that_refuses_is_no_damage(
    bucket_server: Any, model_dir: Any, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    state = TrainState(jnp.zeros((), jnp.int32), {}, (), ())
    with Checkpoints(model_dir, CheckpointConfig(), seed=0) as checkpoints:
        assert committed_steps(model_dir / "checkpoints") == {3: True, 6: True}, "what was not committed is removed"
        bucket_server.refuse(status)
        try:
            with pytest.raises(UserError, match=r"checkpoints/6 cannot be read \(.*nothing was moved"):
                checkpoints.restore_or_init(state, lambda: state)
            with pytest.raises(UserError, match=rf"^{model_dir}/checkpoints: (there are no cred|the storage does not)"):
                restore_params(model_dir)
        finally:
            bucket_server.refuse(None)
    assert committed_steps(model_dir / "checkpoints") == {3: True, 6: True}


def test_a_step_whose_objects_are_not_what_was_sent_is_damaged_and_passed_over(model_dir: Any) -> None:
    with pytest.raises(UserError, match=f"{model_dir}/checkpoints has no checkpoint that is whole"):
        restore_params(model_dir)

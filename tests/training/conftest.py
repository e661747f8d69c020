"""What several files of these tests train on, and keep."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import pytest


@pytest.fixture(scope="module")
def task() -> str:
    from mrt5_jax.tasks.diagnostics import diagnostic_task

    return diagnostic_task("copy", length=8, num_train=100, num_validation=6)


@pytest.fixture(scope="module")
def kept_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The starts of a run compile once what they share, as they do in `mrt5 train`."""
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    yield
    jax.config.update("jax_compilation_cache_dir", folder)


@pytest.fixture(scope="module")
def shared_programs(kept_programs: None) -> Iterator[None]:
    """Equal runs share their programs, which a restarted process would trace and compile again."""
    from mrt5_jax.training import programs
    from mrt5_jax.training.step import make_train_step

    made: dict[Any, Any] = {}

    def shared_train_step(model: Any, run: Any, learning: Any, ladder: Any, shards: Any) -> Any:
        key = dataclasses.replace(run, model_dir="")
        return made.setdefault(key, make_train_step(model, run, learning, ladder, shards))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "make_train_step", shared_train_step)
        patch.setattr(programs, "evaluation_program", functools.cache(programs.evaluation_program))
        yield

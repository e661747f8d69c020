"""The best checkpoint is kept whole, whatever becomes of the run's own; only by the measure that it was asked for."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mrt5_jax.config import MeshConfig
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.best_checkpoint import BEST_FILE, BestCheckpoint, Measure, better_end
from mrt5_jax.evaluation.comparison import compare
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.model_dirs import LoadedModel
from mrt5_jax.evaluation.records import Record, of_deletion
from mrt5_jax.parallel.mesh import make_mesh
from mrt5_jax.runs.model_dir import read_model_config, write_model_config
from mrt5_jax.runs.restoring import restore_params, saved_steps

from .many_records import random_evaluation

LOSS = Measure("loss", "min", "tasks", "test", "hard", None)


def evaluation_of(factor: float) -> Evaluation:
    """Whose losses are so many times those of any other."""
    records = [record._replace(nll=record.nll * factor) for record in random_evaluation(10, ("hard",))]
    return Evaluation(records, {})


def at_step(tiny: Any, step: int) -> LoadedModel:
    """A model of that step, whose weights differ from those of others."""
    params = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf) + np.float32(step), tiny.params)
    return LoadedModel(tiny.model, params, step, make_mesh(MeshConfig()), digest=f"weights{step}")


def table_loss(records: list[Record]) -> float:
    (comparison,) = compare(of_deletion(records, "hard"), 2)
    return comparison.systems[0].total["loss"].value


def test_the_best_is_kept_and_nothing_else(tiny, tmp_path: Path) -> None:
    """Better ones take its place, worse and equal ones do not, in another call either."""
    write_model_config(tmp_path, tiny.model.config)
    best = BestCheckpoint(tmp_path, LOSS)
    assert best.folder == tmp_path / "best_loss"
    assert "step 100 is the best so far" in best.offer(evaluation_of(2.0), at_step(tiny, 100))
    assert "at step 200: the best is step 100" in best.offer(evaluation_of(2.0), at_step(tiny, 200))
    assert "step 300 is the best so far" in best.offer(evaluation_of(1.0), at_step(tiny, 300))
    again = BestCheckpoint(tmp_path, LOSS)
    assert "the best is step 300" in again.offer(evaluation_of(1.5), at_step(tiny, 400))
    kept = json.loads((best.folder / BEST_FILE).read_text())
    assert (kept["step"], kept["weights"]) == (300, "weights300")
    assert kept["value"] == pytest.approx(table_loss(evaluation_of(1.0).records))
    assert saved_steps(best.folder) == [300]
    assert {path.name for path in best.folder.iterdir()} == {"best.json", "checkpoints", "model_config.json"}
    assert read_model_config(best.folder) == tiny.model.config
    restored = restore_params(best.folder)
    assert restored.step == 300
    for leaf, other in zip(jax.tree.leaves(restored.params), jax.tree.leaves(at_step(tiny, 300).params), strict=True):
        np.testing.assert_array_equal(leaf, other)


def test_another_measure_is_refused_with_what_differs(tiny, tmp_path: Path) -> None:
    write_model_config(tmp_path, tiny.model.config)
    BestCheckpoint(tmp_path, LOSS).offer(evaluation_of(1.0), at_step(tiny, 1))
    other = Measure("loss", "min", "tasks", "validation", "hard", 10)
    with pytest.raises(UserError, match=r"split 'test' -> 'validation'; num_examples None -> 10\): move it away"):
        BestCheckpoint(tmp_path, other)


def test_what_was_not_measured_is_not_compared(tiny, tmp_path: Path) -> None:
    """A task's own metric that is no mean is found beside the records, if there is one of that name."""
    write_model_config(tmp_path, tiny.model.config)
    best = BestCheckpoint(tmp_path, Measure("metrics/bleu", "max", "tasks", "test", "hard", None))
    assert best.offer(evaluation_of(1.0), at_step(tiny, 1)) == "step 1 has no metrics/bleu: not compared"
    assert not best.folder.exists()
    found = evaluation_of(1.0)._replace(task_metrics={"hard": {"t": {"bleu": 31.5}}})
    assert best.offer(found, at_step(tiny, 2)).startswith("metrics/bleu 31.5 at step 2 is the best")


def test_which_end_is_better_is_known_of_what_a_model_predicts() -> None:
    ends = {name: better_end(name) for name in ("loss", "sequence_accuracy", "metrics/f1", "deletion_rate")}
    assert ends == {"loss": "min", "sequence_accuracy": "max", "metrics/f1": "max", "deletion_rate": None}

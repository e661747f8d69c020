"""Classification by labels: the engine's own scores, and the most probable label against the target."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mrt5_jax.config import DataConfig, MeshConfig, RunConfig, TrainingConfig
from mrt5_jax.data import registry
from mrt5_jax.data.sources import Example, IndexedSource, one_by_one
from mrt5_jax.data.streams import eval_examples
from mrt5_jax.data.task_specs import TaskSpec
from mrt5_jax.data.vocabulary import EOS_ID, encode
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.comparison import compare
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.label_scores import check_labels, read_labels, score_labels, with_labels
from mrt5_jax.evaluation.model_dirs import LoadedModel
from mrt5_jax.evaluation.records import Record
from mrt5_jax.inference.engine import Engine
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.mesh import make_mesh
from mrt5_jax.tasks import xnli

from ..inference.models import random_params, small_config

TASK, SPLIT, LENGTH, TARGET = "test.labels", "test", 16, 6
LABELS = ("yes", "no", "é")
CONFIG = small_config(vocab_size=384)
RUN = RunConfig("", CONFIG, DataConfig(TASK, (TASK,), LENGTH, TARGET, 4, 4), TrainingConfig(num_steps=1))


def example(split: str, index: int) -> Example:
    return {"inputs": f"is it {index}?", "targets": LABELS[index % 3]}


def add_made_task(patch: pytest.MonkeyPatch, labels: tuple[str, ...] = LABELS, size: int = 7) -> None:
    source = IndexedSource(one_by_one(example), {SPLIT: size})
    patch.setitem(registry._tasks, TASK, TaskSpec(TASK, source, labels=labels))


@pytest.fixture
def loaded() -> LoadedModel:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return LoadedModel(MrT5(CONFIG), random_params(CONFIG), 7, mesh, name="small")


def padded(rows: list[np.ndarray], length: int) -> np.ndarray:
    found = np.zeros((len(rows), length), np.int32)
    for to, row in zip(found, rows, strict=True):
        to[: len(row)] = row
    return found


def test_scores_are_the_engines_and_the_most_probable_label_is_chosen(loaded, tmp_path: Path, monkeypatch) -> None:
    """Of every label with its end, in one batch of the test's own; files are resumed as those of generation are."""
    add_made_task(monkeypatch)
    path = score_labels(loaded, RUN, TASK, SPLIT, "soft", tmp_path)
    found = read_labels(path, RUN, TASK, SPLIT)
    examples = [(info.index, row) for info, row in eval_examples(TASK, RUN.data, split=SPLIT, num_examples=None)]
    targets = padded([np.append(encode(label), EOS_ID) for _ in examples for label in LABELS], TARGET)
    batch = {
        "encoder_input_tokens": padded([row["inputs"] for _, row in examples for _ in LABELS], LENGTH),
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets > 0).astype(np.int32),
    }
    scores = np.asarray(Engine(CONFIG, loaded.params, "soft").score(batch).score).reshape(-1, len(LABELS))
    assert len(found) == len(examples)
    for (index, _), own in zip(examples, scores, strict=True):
        chosen = found[TASK, index]
        assert list(chosen.label_scores) == list(LABELS)
        assert list(chosen.label_scores.values()) == pytest.approx(own.tolist(), rel=1e-5)
        assert chosen.label_correct == (int(own.argmax()) == index % 3)


def test_accuracy_is_the_share_of_right_labels(loaded, tmp_path: Path, monkeypatch) -> None:
    """Of a made model to which the second label is always the most probable."""
    add_made_task(monkeypatch, size=9)

    def answers(job: Any, requests: Any, num_done: int = 0) -> Any:
        favoured = [*encode("no").tolist(), EOS_ID]
        yield [{**one.fields, "score": -1.0 if one.fields["target"] == favoured else -2.0} for one in requests]

    monkeypatch.setattr("mrt5_jax.inference.answers.Job.answers_to", answers)
    labelled = read_labels(score_labels(loaded, RUN, TASK, SPLIT, "soft", tmp_path), RUN, TASK, SPLIT)
    assert all(chosen.label_scores == {"yes": -2.0, "no": -1.0, "é": -2.0} for chosen in labelled.values())
    assert {index for (_, index), chosen in labelled.items() if chosen.label_correct} == {1, 4, 7}
    records = [
        Record(TASK, "", index, deletion, 1.0, 2, 2, True, 9, 9, 9, False, "")
        for index in range(9)
        for deletion in ("soft", "hard")
    ]
    found = with_labels(Evaluation(records, {}), {"soft": labelled}).records
    assert [record.label_scores is None for record in found] == [False, True] * 9
    soft, hard = compare(found, 20)[0].systems
    assert soft.total["label_accuracy"].value == pytest.approx(1 / 3)
    assert np.isnan(hard.total["label_accuracy"].value)


def test_what_cannot_be_compared_is_refused(loaded, tmp_path: Path, monkeypatch) -> None:
    add_made_task(monkeypatch, ())
    with pytest.raises(UserError, match=r"--labels: task test\.labels has no labels"):
        check_labels(TASK, TARGET)
    add_made_task(monkeypatch, (*LABELS, "certainly"))
    with pytest.raises(UserError, match="the label 'certainly' has 10 ids, more than 6"):
        check_labels(TASK, TARGET)
    check_labels(TASK, 10)

    def answers(job: Any, requests: Any, num_done: int = 0) -> Any:
        yield [{**one.fields, "score": -1.0} for one in requests]

    monkeypatch.setattr("mrt5_jax.inference.answers.Job.answers_to", answers)
    add_made_task(monkeypatch, LABELS[:2])
    path = score_labels(loaded, RUN, TASK, SPLIT, "soft", tmp_path)
    with pytest.raises(UserError, match="its target 'é' is none of the labels yes, no"):
        read_labels(path, RUN, TASK, SPLIT)
    add_made_task(monkeypatch, LABELS)
    with pytest.raises(UserError, match="answers another example"):
        read_labels(path, RUN, TASK, SPLIT)


def test_the_labels_of_xnli_are_its_targets() -> None:
    spec = registry.registered()["xnli.de"]
    texts = {"premise": "a", "hypothesis": "b", "index": 0}
    assert isinstance(spec, TaskSpec)
    assert spec.labels == tuple(spec.preprocess({**texts, "label": label})["targets"] for label in xnli.LABELS)

"""Evaluation by generation: the engine's own answers, resumed to the same bytes; known predictors come out as known."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from mrt5_jax.config import DataConfig, MeshConfig, RunConfig, TrainingConfig
from mrt5_jax.data import answers, registry
from mrt5_jax.data.mixing import Shard
from mrt5_jax.data.sources import Example, IndexedSource, one_by_one
from mrt5_jax.data.streams import eval_examples
from mrt5_jax.data.task_specs import TaskSpec
from mrt5_jax.data.vocabulary import EOS_ID, decode, encode
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.answer_files import check_answered
from mrt5_jax.evaluation.comparison import compare
from mrt5_jax.evaluation.evaluate import Evaluation
from mrt5_jax.evaluation.generation import (
    generate_answers,
    read_answers,
    search_name,
    with_generation,
)
from mrt5_jax.evaluation.model_dirs import LoadedModel
from mrt5_jax.evaluation.records import Record
from mrt5_jax.inference.answers import NOT_FINITE, Job
from mrt5_jax.inference.beam import Beam
from mrt5_jax.inference.decoding import Greedy
from mrt5_jax.inference.engine import Engine
from mrt5_jax.inference.shards import number_of
from mrt5_jax.model.encoder_decoder import MrT5
from mrt5_jax.parallel.mesh import make_mesh

from ..inference.models import random_params, small_config

TASK, SPLIT, LENGTH, TARGET = "test.generation", "test", 48, 6
CONFIG = small_config(vocab_size=384)
RUN = RunConfig("", CONFIG, DataConfig(TASK, (TASK,), LENGTH, TARGET, 4, 4), TrainingConfig(num_steps=1))
LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
EACH = 20
"""Examples of a language."""


class Model(NamedTuple):
    loaded: LoadedModel
    engine: Engine


@pytest.fixture(scope="module")
def model() -> Model:
    params = random_params(CONFIG)
    loaded = LoadedModel(MrT5(CONFIG), params, 7, make_mesh(MeshConfig(), jax.devices()[:1]), name="small")
    return Model(loaded, Engine(CONFIG, params, "soft"))


def label(index: int) -> str:
    return str(index // len(LANGUAGES) % 3)


def premise_and_hypothesis(split: str, index: int) -> Example:
    text = f"Premise: it is {7919 * index % 100_000:05}. Hypothesis: is it {label(index)}?"
    return {"inputs": text, "targets": label(index), "language": LANGUAGES[index % len(LANGUAGES)]}


def add_made_task(patch: pytest.MonkeyPatch, size: int, example: Any = premise_and_hypothesis) -> None:
    source = IndexedSource(one_by_one(example), {SPLIT: size})
    patch.setitem(registry._tasks, TASK, TaskSpec(TASK, source, metrics=(answers.accuracy,), languages=LANGUAGES))


def is_right(index: int) -> bool:
    """Of the language at place k, 5 + k of 20."""
    return index // len(LANGUAGES) < 5 + index % len(LANGUAGES)


def predict(job: Job, requests: Iterator[Any], num_done: int = 0) -> Iterator[list[dict[str, Any]]]:
    """Answers a job's share in the place of a model, three at a time."""
    todo = itertools.islice(requests, number_of(num_done, job.shard), None, job.shard.count)
    while some := list(itertools.islice(todo, 3)):
        found = []
        for request in some:
            index = request.fields["index"]
            text = label(index) if is_right(index) else "9"
            ids = [*encode(text).tolist(), EOS_ID]
            found.append({**request.fields, "prediction": text, "prediction_ids": ids, "score": -0.25})
        yield found


def answers_file(model: Model, folder: Path, **changes: Any) -> Path:
    run = dataclasses.replace(RUN, data=dataclasses.replace(RUN.data, **changes))
    path = generate_answers(model.loaded, run, TASK, SPLIT, "soft", Greedy(), folder)
    assert isinstance(path, Path)
    return path


def test_answers_are_the_engines_and_a_stopped_file_becomes_the_same(model: Model, tmp_path: Path, monkeypatch) -> None:
    """Half a line is cut off; a finished file needs no model; other settings or weights have a file of their own."""
    add_made_task(monkeypatch, 10)
    path = answers_file(model, tmp_path)
    examples = [example for _, example in eval_examples(TASK, RUN.data, split=SPLIT, num_examples=None)]
    tokens = np.zeros((len(examples), LENGTH), np.int32)
    for row, example in zip(tokens, examples, strict=True):
        row[: len(example["inputs"])] = example["inputs"]
    found = model.engine.generate(tokens, TARGET)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    ids = [row[:count].tolist() for row, count in zip(np.asarray(found.tokens), found.num_tokens, strict=True)]
    assert [line["prediction_ids"] for line in lines] == ids
    assert [line["prediction"] for line in lines] == [decode(row).decode(errors="ignore") for row in ids]
    assert len({tuple(row) for row in ids}) > 1

    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"\n", len(whole) // 2) + 9])
    assert answers_file(model, tmp_path) == path
    assert path.read_bytes() == whole

    def refuse(*args: Any) -> None:
        raise AssertionError("everything has been answered")

    monkeypatch.setattr(Engine, "generate_window", refuse)
    assert answers_file(model, tmp_path) == path
    monkeypatch.setattr(Job, "answers_to", predict)
    assert answers_file(model, tmp_path, eval_batch_size=5) != path
    trained_again = model._replace(loaded=dataclasses.replace(model.loaded, digest="0123456789ab"))
    assert answers_file(trained_again, tmp_path) != path


def test_several_processes_make_the_file_of_one(model: Model, tmp_path: Path, monkeypatch) -> None:
    """From files of their own, which are gone on with and then removed; a finished file is answered by nobody again."""
    add_made_task(monkeypatch, 10)
    monkeypatch.setattr(Job, "answers_to", predict)
    whole, folder = answers_file(model, tmp_path / "one"), tmp_path / "three"

    def answer(index: int) -> Path:
        shard = Shard(index, 3)
        path = generate_answers(model.loaded, RUN, TASK, SPLIT, "soft", Greedy(), folder, shard=shard)
        assert isinstance(path, Path)
        return path

    for index in (2, 1):
        with pytest.raises(UserError, match=r"the answers of 0/3.* are not beside it: MODEL_DIR has to lie in"):
            answer(index)
    share = folder / f"{whole.name}-00001-of-00003"
    assert share.read_bytes().splitlines() == whole.read_bytes().splitlines()[1::3]
    share.write_bytes(share.read_bytes()[:-9])
    with pytest.raises(UserError, match="the answers of 1/3 are not beside it"):
        answer(0)
    assert not (folder / whole.name).exists(), "nothing is put together while a line is missing"
    assert answer(1).read_bytes() == whole.read_bytes()
    names = {whole.name, f"{whole.name}.settings.json"}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: (whole.parent / name).read_bytes() for name in names
    }

    def refuse(*args: Any) -> None:
        raise AssertionError("everything has been answered")

    monkeypatch.setattr(Job, "answers_to", refuse)
    assert answer(0).read_bytes() == whole.read_bytes()
    assert {path.name for path in folder.iterdir()} == names


def test_the_table_of_a_known_predictor_has_its_shares(model: Model, tmp_path: Path, monkeypatch) -> None:
    """15 languages of XNLI's shape: 5 to 19 of 20 are right, with the errors of such shares."""
    add_made_task(monkeypatch, EACH * len(LANGUAGES))
    monkeypatch.setattr(Job, "answers_to", predict)
    generation = read_answers(answers_file(model, tmp_path), RUN, TASK, SPLIT)
    records = [
        Record(info.task, info.language, info.index, "soft", 1.0, 2, 2, True, 9, 9, 9, False, "", split=SPLIT)
        for info, _ in eval_examples(TASK, RUN.data, split=SPLIT, num_examples=None)
    ]
    other = records[0]._replace(deletion="hard")
    evaluation = with_generation(Evaluation([*records, other], {}), {"soft": generation}, Greedy())
    assert evaluation.records[-1] == other, "nothing was generated under its deletion"
    first = evaluation.records[0]
    assert (first.search, first.generated_correct) == ("greedy", is_right(first.index))
    assert first.metrics == {"accuracy": 100.0 * is_right(first.index)}
    (comparison,) = compare(evaluation.records[:-1])
    (system,) = comparison.systems
    for place, language in enumerate(LANGUAGES):
        share = (5 + place) / EACH
        for name, scale in (("metrics/accuracy", 100), ("generated_accuracy", 1)):
            estimate = system.languages[language][name]
            assert estimate.value == pytest.approx(scale * share)
            assert estimate.error == pytest.approx(scale * math.sqrt(share * (1 - share) / EACH), rel=0.15)
    assert system.total["metrics/accuracy"].value == pytest.approx(60.0)
    assert evaluation.task_metrics == {"soft": {TASK: {"accuracy": pytest.approx(60.0)}}}
    assert generation.notes == []


def test_a_target_that_was_cut_is_never_written_exactly(model: Model, tmp_path: Path, monkeypatch) -> None:
    """One id is all that the run has room for: metrics still see the whole target."""
    add_made_task(monkeypatch, 15)
    monkeypatch.setattr(Job, "answers_to", predict)
    data = dataclasses.replace(RUN.data, target_length=1)
    generation = read_answers(
        answers_file(model, tmp_path, target_length=1), dataclasses.replace(RUN, data=data), TASK, SPLIT
    )
    assert not any(written.generated_correct for written in generation.written.values())
    assert generation.together == {TASK: {"accuracy": 100.0}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "has not as many lines as test.generation asks for now: remove it"),
        (lambda lines: [*lines, lines[0]], "has not as many lines"),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "line 3 answers another example"),
        (lambda lines: [lines[0][:-5], *lines[1:]], "line 1 is not JSON"),
        (lambda lines: ["[]", *lines[1:]], "line 1 answers another example"),
        (lambda lines: [lines[0].replace("-0.25", '"-0.25"'), *lines[1:]], "line 1 is no answer"),
        (
            lambda lines: [json.dumps(json.loads(lines[0]) | {"error": NOT_FINITE}), *lines[1:]],
            "line 1: the model's numbers are not finite for its example",
        ),
    ],
)
def test_a_file_of_something_else_is_refused(model, tmp_path: Path, monkeypatch, change: Any, message: str) -> None:
    add_made_task(monkeypatch, 6)
    monkeypatch.setattr(Job, "answers_to", predict)
    path = answers_file(model, tmp_path)
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(UserError) as caught:
        read_answers(path, RUN, TASK, SPLIT)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_task_that_has_changed_is_not_measured_by_old_answers(model: Model, tmp_path: Path, monkeypatch) -> None:
    add_made_task(monkeypatch, 6)
    monkeypatch.setattr(Job, "answers_to", predict)
    path = answers_file(model, tmp_path)
    add_made_task(monkeypatch, 6, lambda split, index: premise_and_hypothesis(split, index) | {"inputs": "new"})
    with pytest.raises(UserError, match="line 1 answers another example than the task has now: remove the file"):
        read_answers(path, RUN, TASK, SPLIT)


def test_two_examples_of_one_index_are_refused(model: Model, tmp_path: Path, monkeypatch) -> None:
    """Records tell examples apart by their indices."""
    source = IndexedSource(one_by_one(premise_and_hypothesis), {SPLIT: 3})
    spec = TaskSpec(TASK, source, preprocess=lambda example: {**example, "index": 1})
    monkeypatch.setitem(registry._tasks, TASK, spec)
    monkeypatch.setattr(Job, "answers_to", predict)
    path = answers_file(model, tmp_path)
    with pytest.raises(UserError, match=r"task test\.generation: two examples have the index 1"):
        read_answers(path, RUN, TASK, SPLIT)


def test_names_of_searches() -> None:
    assert [search_name(one) for one in (Greedy(), Beam(4), Beam(2, 0.6))] == ["greedy", "beam4", "beam2-penalty0.6"]


def test_random_deletion_generates_nothing() -> None:
    check_answered(("hard", "soft", "none"), "--generate")
    with pytest.raises(UserError, match="--generate: nothing is answered under random deletion"):
        check_answered(("hard", "random"), "--generate")

"""Suites of noise: a task beside its noisy copies, text of one's own, and what is refused."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax.config import DataConfig
from mrt5_jax.data import noise_kinds
from mrt5_jax.data.batches import eval_batches
from mrt5_jax.data.registry import add_task, tasks_of
from mrt5_jax.data.task_names import label_of
from mrt5_jax.data.task_specs import TaskSpec
from mrt5_jax.data.vocabulary import decode
from mrt5_jax.errors import UserError
from mrt5_jax.tasks import characters, noise


@pytest.fixture
def task(tmp_path: Path) -> str:
    """Five pairs a split."""
    for split in ("train", "validation"):
        rows = [f"an input of {split} with the number {number}\t{number}\n" for number in range(5)]
        (tmp_path / f"{split}.tsv").write_text("".join(rows))
    return characters.pair_task("pairs", f"{tmp_path}/train.tsv", f"{tmp_path}/validation.tsv", language="en")


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    for language, word in (("en", "word"), ("de", "Wört")):
        (tmp_path / f"{language}.txt").write_text("".join(f"{word} {number}\n" for number in range(1000)))
    return f"{tmp_path}/*.txt"


def specs_of(suite: str) -> dict[str, TaskSpec]:
    return {label_of(spec.name): spec for spec in tasks_of(suite)}


def rows(spec: TaskSpec, split: str = "validation") -> list[tuple[int, bytes, bytes]]:
    found = spec.read_once(split)
    return [(example["index"], decode(example["inputs"]), decode(example["targets"])) for example in found]


def test_a_suite_is_the_task_and_a_copy_for_each_kind_and_rate(task: str) -> None:
    specs = specs_of(noise.noise_suite(task, ("swap", "repeat_bytes"), (0.05, 1)))
    noisy = {f"characters.pairs.{kind}_{rate}" for kind in ("swap", "repeat_bytes") for rate in ("0.05", "1")}
    assert set(specs) == {"characters.pairs", *noisy}
    (base,) = tasks_of(task)
    assert specs["characters.pairs"] == base
    clean = rows(base)
    assert len(clean) == 5
    for label in noisy:
        spec = specs[label]
        assert (spec.metrics, spec.languages, spec.splits) == (base.metrics, ("en",), base.splits)
        assert [(index, target) for index, _, target in rows(spec)] == [(index, target) for index, _, target in clean]
        assert rows(spec) == rows(spec)
    twice = [bytes(byte for byte in inputs for _ in range(2)) for _, inputs, _ in clean]
    assert [inputs for _, inputs, _ in rows(specs["characters.pairs.repeat_bytes_1"])] == twice


def test_all_kinds_are_the_default_and_every_task_is_evaluated(task: str) -> None:
    suite = noise.noise_suite(task, rates=(0.3,))
    data = DataConfig(suite, (suite,), 128, 8, 4, 4)
    infos = [info for batch in eval_batches(suite, data) for info in batch.examples]
    assert dict(Counter(info.task for info in infos)) == dict.fromkeys((spec.name for spec in tasks_of(suite)), 5)
    assert len(tasks_of(suite)) == 1 + len(noise_kinds.NOISES)
    assert {info.language for info in infos} == {"en"}


def test_the_same_arguments_give_the_same_suite_and_others_another(task: str) -> None:
    first = noise.noise_suite(task, "drop", (0.5,))
    assert first == noise.noise_suite(task, ["drop"], [0.5])
    other = noise.noise_suite(task, "drop", (0.5,), seed=1)
    assert first != other
    drop = "characters.pairs.drop_0.5"
    assert rows(specs_of(first)[drop]) != rows(specs_of(other)[drop])


def test_text_is_copied_whole_in_chunks_that_leave_room_for_noise(corpus: str) -> None:
    task = noise.copied_text(corpus, input_length=48)
    assert task == noise.copied_text([corpus], input_length=48)
    assert label_of(task) == "copied_text.de_en"
    (spec,) = tasks_of(task)
    assert list(spec.splits) == ["test"]
    found = list(spec.read_once("test"))
    assert all(example["inputs"].tolist() == example["targets"].tolist() for example in found)
    assert {len(example["inputs"]) for example in found} == {33}
    assert len(found) == sum(-(-path.stat().st_size // 32) for path in Path(corpus).parent.glob("*.txt"))
    assert any(b"word 999\n" in decode(example["targets"]) for example in found if example["language"] == "en")
    noisy = specs_of(noise.noise_suite(task, "repeat_bytes", (0.2,)))["copied_text.de_en.repeat_bytes_0.2"]
    longer = list(noisy.read_once("test", {"inputs": 48, "targets": 48}))
    assert sum(example["inputs_cut"] for example in longer) <= 0.01 * len(longer)
    assert not any(example["targets_cut"] for example in longer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ("swap", "swop")}, r"noise_suite\.kinds: no noise is called 'swop': there are swap, drop, case"),
        ({"kinds": ()}, r"noise_suite\.kinds: name at least one"),
        ({"rates": ()}, r"noise_suite\.rates: name at least one"),
        ({"rates": (0.1, 1.5)}, r"noise_suite\.rates: 1\.5 should be a share, from 0 to 1"),
        ({"rates": (-0.1,)}, r"noise_suite\.rates: -0\.1 should be a share"),
        ({"rates": (float("nan"),)}, r"noise_suite\.rates: nan should be a share"),
        ({"seed": -1}, r"noise_suite\.seed = -1: should be at least 0"),
        ({"task": "characters.pears"}, r"no task or mixture is called 'characters\.pears'"),
    ],
)
def test_what_is_no_noise_is_refused(task: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        noise.noise_suite(**{"task": task, **arguments})


def test_tasks_that_cannot_be_noised_are_refused(task: str) -> None:
    suite = noise.noise_suite(task, "drop", (0.5,))
    with pytest.raises(UserError, match=r"characters\.pairs\.noise': a mixture of characters\.pairs.*name one of them"):
        noise.noise_suite(suite)
    (base,) = tasks_of(task)
    own = dataclasses.replace(base, name="noise_test.own_rows", make_rows=lambda example, lengths: example)
    with pytest.raises(UserError, match=r"noise_test\.own_rows': makes its rows itself.*give a TaskSpec"):
        noise.noise_suite(add_task(own))


def test_text_that_is_too_short_or_not_there_is_refused(tmp_path: Path, corpus: str) -> None:
    with pytest.raises(UserError, match=r"copied_text\.input_length = 7: should be at least 8"):
        noise.copied_text(corpus, input_length=7)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match=r"all 1 files that match .* are empty"):
        noise.copied_text(f"{tmp_path}/empty.txt")

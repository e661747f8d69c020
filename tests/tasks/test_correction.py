"""Correction of noisy text: examples of every language that fit, tasks that differ where they should, bad input."""

from pathlib import Path

import pytest

from mrt5_jax.config import DataConfig
from mrt5_jax.data.batches import eval_batches
from mrt5_jax.data.registry import tasks_of
from mrt5_jax.data.vocabulary import decode
from mrt5_jax.errors import UserError
from mrt5_jax.tasks import correction


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    for language, word in (("en", "word"), ("de", "Wört")):
        (tmp_path / f"{language}.txt").write_text("".join(f"{word} {number}\n" for number in range(3000)))
    return f"{tmp_path}/*.txt"


def test_targets_are_the_text_and_nearly_all_inputs_fit(corpus: str) -> None:
    task = correction.noisy_text_task(corpus)
    (spec,) = tasks_of(task)
    found = list(spec.read_once("validation", {"inputs": 64, "targets": 64}))
    assert {example["language"] for example in found} == {"de", "en"}
    assert not any(example["targets_cut"] for example in found)
    assert sum(example["inputs_cut"] for example in found) < 0.1 * len(found)
    assert any(decode(example["inputs"]) != decode(example["targets"]) for example in found)
    assert all(b"word" in decode(example["targets"]) for example in found if example["language"] == "en")
    batch = next(iter(eval_batches(task, DataConfig(task, (task,), 64, 64, 4, 4), split="validation")))
    assert batch.arrays["language_ids"].shape == (4,)


def test_the_same_arguments_give_the_same_task_and_others_another(corpus: str) -> None:
    first = correction.noisy_text_task(corpus)
    assert first == correction.noisy_text_task([corpus])
    assert first.startswith("correction.de_en:")
    others = correction.noisy_text_task(corpus, noise=0.2), correction.noisy_text_task(corpus, input_length=48)
    assert len({first, *others}) == 3


def test_bad_settings_are_refused(corpus: str) -> None:
    with pytest.raises(UserError, match="input_length = 8: should be at least 16"):
        correction.noisy_text_task(corpus, input_length=8)
    with pytest.raises(UserError, match=r"noise = 1: should be a share"):
        correction.noisy_text_task(corpus, noise=1.0)

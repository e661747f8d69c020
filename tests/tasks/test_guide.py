"""What docs/tasks.md shows does what it says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import seqio

from mrt5_jax.config import DataConfig
from mrt5_jax.data import registry
from mrt5_jax.data.batches import eval_batches, train_batches
from mrt5_jax.data.vocabulary import decode_to_text
from mrt5_jax.tasks import register_with_seqio

_CODE = re.compile(r"```python\n(.*?)```", re.S)


@pytest.fixture(scope="module")
def examples(repository: Path) -> list[str]:
    """The guide's modules: a spec, and a seqio task with its mixture."""
    return _CODE.findall((repository / "docs/tasks.md").read_text(encoding="utf-8"))


@pytest.fixture
def _seqio_as_it_was() -> Iterator[None]:
    yield
    seqio.MixtureRegistry.remove("backwards_and_copies")
    seqio.TaskRegistry.remove("backwards")


def texts(task: str) -> set[tuple[str, str]]:
    """Of one training batch."""
    batch = next(train_batches(DataConfig(task, (task,), 64, 64, 40, 4), seed=0))
    rows = zip(batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True)
    return {(decode_to_text(inputs), decode_to_text(targets)) for inputs, targets in rows}


def test_the_spec_is_trained_on_and_evaluated(
    examples: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": f"text {name}"}) + "\n")
    monkeypatch.chdir(tmp_path)
    module: dict[str, object] = {}
    exec(examples[0], module)
    assert texts("shouting") == {("text a", "TEXT A")}
    (batch,) = eval_batches("shouting", DataConfig("shouting", ("shouting",), 64, 64, 2, 2))
    assert batch.arrays["language_ids"].tolist() == [0, 0]
    (task,) = registry.tasks_of("shouting")
    assert [metric(["A", "B"], ["A", "C"]) for metric in task.metrics] == [{"same": 0.5}]


@pytest.mark.usefixtures("_seqio_as_it_was")
def test_the_seqio_mixture_is_trained_on(examples: list[str]) -> None:
    register_with_seqio()
    exec(examples[1], {})
    found = texts("backwards_and_copies")
    assert {targets for inputs, targets in found if inputs[0] != "#"} == {i[::-1] for i, _ in found if i[0] != "#"}
    assert any(inputs[0] == "#" and inputs == targets for inputs, targets in found)
    assert len(examples) == 2

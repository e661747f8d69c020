"""A task's own metrics: of each example alone, and of all examples together."""

import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mrt5_jax.data.task_names import label_of
from mrt5_jax.data.task_specs import Metric, TaskSpec
from mrt5_jax.data.vocabulary import decode

_SCORES = "scores"
"""What seqio calls the second argument of a metric that takes log-probabilities instead of texts."""


class TaskMetrics(NamedTuple):
    """What a task's metrics say of predictions."""

    by_example: list[dict[str, float]]
    """The values of each example alone, of metrics that are means over examples."""
    together: dict[str, float]
    """The values of all examples together."""
    notes: list[str]
    """Why something is missing, a sentence each."""


def target_text(example: Mapping[str, Any]) -> str:
    """Returns the whole target of a row as text: as its task wrote it, or else its ids decoded."""
    written = example.get("targets_pretokenized")
    data = decode(example["targets"].tolist()) if written is None else written
    return data.decode(errors="ignore") if isinstance(data, bytes) else str(data)


def measure_texts(spec: TaskSpec, examples: Sequence[tuple[str, Mapping[str, Any]]]) -> TaskMetrics:
    """Computes a task's metrics of generated texts, after its postprocessing.

    A metric is called with all examples, and with each example alone. Where the mean of the values alone is the value
    of all (accuracy, exact match, F1), tables can be made of them with standard errors; of others (BLEU) only the value
    together is known. What raises is noted, and the others go on.

    Args:
        spec: the task.
        examples: generated texts with the rows that they answer.
    """
    found = TaskMetrics([{} for _ in examples], {}, [])
    name = f"task {label_of(spec.name)}"
    try:
        targets = [_processed(spec, target_text(example), example, is_target=True) for _, example in examples]
        predictions = [_processed(spec, text, example, is_target=False) for text, example in examples]
    except Exception as error:  # a user's function
        return found._replace(notes=[f"{name}: its postprocess {_raised(error)}: it has no metrics"])
    for metric in spec.metrics:
        called = f"{name}: its metric {_name_of(metric)}"
        if _takes_scores(metric):
            found.notes.append(f"{called} takes scores, not texts: left out")
            continue
        try:
            together = _numbers(metric(targets, predictions))
        except Exception as error:  # a user's function
            found.notes.append(f"{called} {_raised(error)}: left out")
            continue
        alone = _of_each(metric, targets, predictions)
        for key, value in together.items():
            found.together[key] = value
            values = [one[key] for one in alone if key in one]
            mean = math.fsum(values) / len(values) if values else math.nan
            if not math.isclose(mean, value, rel_tol=1e-5, abs_tol=1e-9):
                found.notes.append(f"{called}: {key} is no mean over examples: it is in summary.json alone")
                continue
            for values_of_one, one in zip(found.by_example, alone, strict=True):
                values_of_one.update({key: one[key]} if key in one else {})
    return found


def _of_each(metric: Metric, targets: Sequence[Any], predictions: Sequence[Any]) -> list[dict[str, float]]:
    """Nothing where a metric cannot measure one example."""
    try:
        return [_numbers(metric([one], [other])) for one, other in zip(targets, predictions, strict=True)]
    except Exception:  # a user's function, which did well with all examples
        return [{} for _ in targets]


def _processed(spec: TaskSpec, text: str, example: Mapping[str, Any], *, is_target: bool) -> Any:
    return text if spec.postprocess is None else spec.postprocess(text, example=example, is_target=is_target)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among a metric's values; seqio's Scalar holds one as `value`."""
    found = {}
    for name, value in values.items():
        value = getattr(value, "value", value)
        if isinstance(value, str | bytes):
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            found[str(name)] = number
    return found


def _takes_scores(metric: Metric) -> bool:
    try:
        return list(inspect.signature(metric).parameters)[1:2] == [_SCORES]
    except (TypeError, ValueError):  # what is not written in Python
        return False


def _name_of(metric: Metric) -> str:
    function = metric.func if isinstance(metric, functools.partial) else metric
    return getattr(function, "__name__", type(function).__name__)


def _raised(error: Exception) -> str:
    reason = (str(error).strip() or "nothing said").splitlines()[0]
    return f"raised {type(error).__name__} ({reason})"

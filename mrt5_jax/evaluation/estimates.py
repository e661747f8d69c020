"""Figures of records with their standard errors: of a language, and of all languages together."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mrt5_jax.evaluation.bootstrap import RESAMPLES, bootstrap_errors, sum_ratios
from mrt5_jax.evaluation.records import Record

OWN_METRIC = "metrics/"
"""Begins the names of figures that are a task's own metrics."""


class Estimate(NamedTuple):
    """A figure; NaN where nothing was counted."""

    value: float
    error: float = math.nan
    """Its standard error; NaN where none is known."""


SumParts = tuple[float | int, float | int]
"""What an example adds to a numerator, and to its denominator."""

Estimates = dict[str, Estimate]
"""By name, see `RATIOS` and `describe_figure`."""


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A figure that is a sum over examples divided by another sum."""

    parts: Callable[[Record], SumParts]
    meaning: str


def _bits(record: Record) -> float:
    return record.nll / math.log(2)


def _bits_of_text(record: Record) -> SumParts:
    known = record.num_text_bytes >= 0
    return (_bits(record), record.num_text_bytes) if known else (0, 0)


def _deleted(record: Record) -> int:
    return record.num_input_tokens - record.num_kept_tokens - record.num_dropped_tokens


def _of_sequences(record: Record) -> SumParts:
    has_target = record.num_target_tokens > 0
    return record.sequence_correct and has_target, has_target


RATIOS: Mapping[str, Ratio] = {
    "loss": Ratio(lambda record: (record.nll, record.num_target_tokens), "nats per target token, end included"),
    "bits_per_target_token": Ratio(
        lambda record: (_bits(record), record.num_target_tokens),
        "the same in bits; the MrT5 authors call it bits per byte",
    ),
    "bits_per_text_byte": Ratio(
        _bits_of_text,
        "bits of whole targets per byte of text in them, which neither ends nor sentinels are",
    ),
    "token_accuracy": Ratio(
        lambda record: (record.num_correct_tokens, record.num_target_tokens),
        "share of target tokens that are most probable, given those before them",
    ),
    "sequence_accuracy": Ratio(_of_sequences, "share of targets all of whose tokens are"),
    "generated_accuracy": Ratio(
        lambda record: (record.generated_correct, record.generated is not None),
        "share of examples for which the model writes exactly the target",
    ),
    "label_accuracy": Ratio(
        lambda record: (record.label_correct, record.label_scores is not None),
        "share of examples whose target is the most probable label",
    ),
    "deletion_rate": Ratio(
        lambda record: (_deleted(record), record.num_input_tokens), "share of input tokens that the gate deletes"
    ),
    "dropped_share": Ratio(
        lambda record: (record.num_dropped_tokens, record.num_input_tokens),
        "share of input tokens that a capacity had no slot for",
    ),
    "kept_length": Ratio(
        lambda record: (record.num_kept_tokens, record.num_input_tokens > 0), "input tokens that a row keeps, mean"
    ),
}
"""Figures that have standard errors."""

_OF_ALL = {
    "kept_length_p95": "the length that 95 % of the rows do not exceed",
    "kept_length_max": "the longest",
    "loss_increase_correlation": "Pearson's r, over examples, of the deleted share and the relative increase of the "
    "loss over that of deletion none",
    "runtime": "milliseconds of a teacher-forced forward pass, of which an example takes its share of its window's: "
    "median over examples, in brackets the least and the most",
    "runtime_min": "the least",
    "runtime_max": "the most",
    "speedup": "runtime without deletion, clocked in turn on the same batches, over runtime",
    "multiply_adds": "of a forward pass at the slots that ran, mean over examples",
    "ideal_speedup": "multiply-adds without deletion over those with exactly the slots that are needed",
}


_SPLITTING = (
    " (of question answering SQuAD's; each letter of Thai, Lao, Burmese, Khmer, Japanese and Han counts as a word)"
)


def describe_figure(name: str) -> str:
    """Says what a figure is."""
    if name.startswith(OWN_METRIC):
        splitting = _SPLITTING if name.removeprefix(OWN_METRIC) in ("exact_match", "f1") else ""
        return f"the task's own metric of generated text, in the task's units{splitting}"
    return RATIOS[name].meaning if name in RATIOS else _OF_ALL[name]


def estimate(
    records: Sequence[Record],
    undeleted: Sequence[Record] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimates:
    """Computes the figures of some records, of one deletion of one model, in float64.

    Args:
        records: of one language, where there are languages.
        undeleted: of the same model and examples under deletion "none", in any order, or none.
        resamples: see `bootstrap_errors`.
        seed: the same.

    Returns:
        all figures by name; NaN where nothing was counted.
    """
    ratios = {name: ratio.parts for name, ratio in RATIOS.items()}
    ratios |= {f"{OWN_METRIC}{name}": _own_metric(name) for name in own_metrics(records)}
    shape = len(records), len(ratios)
    parts = [[ratio(record) for ratio in ratios.values()] for record in records]
    totals, weights = np.ascontiguousarray(np.moveaxis(np.array(parts, np.float64).reshape(*shape, 2), 2, 0))
    values = sum_ratios(totals.sum(axis=0), weights.sum(axis=0))
    errors = bootstrap_errors(totals, weights, resamples, seed)
    found = {
        name: Estimate(float(value), float(error)) for name, value, error in zip(ratios, values, errors, strict=True)
    }
    return found | _order_statistics(records) | {"loss_increase_correlation": _correlation(records, undeleted)}


def combine_languages(
    groups: Sequence[tuple[Sequence[Record], Estimates]], undeleted: Sequence[Record] = ()
) -> Estimates:
    """Computes the figures of all languages together.

    Means and shares are those of the languages, weighted by their numbers of examples, as in the MrT5 paper's totals;
    languages of which nothing was counted are left out. Their errors are independent: err^2 = sum (w err_language)^2.
    Lengths and the correlation are of all examples.

    Args:
        groups: of each language, its records and their `estimate`.
        undeleted: as in `estimate`, of all languages.
    """
    records = [record for own, _ in groups for record in own]
    names = dict.fromkeys(name for _, own in groups for name in own if name in RATIOS or name.startswith(OWN_METRIC))
    found: Estimates = {}
    for name in names:
        known = [(len(of), own[name]) for of, own in groups if name in own and not math.isnan(own[name].value)]
        total = sum(count for count, _ in known)
        value = sum(count * one.value for count, one in known) / total if total else math.nan
        error = math.sqrt(sum((count * one.error) ** 2 for count, one in known)) / total if total else math.nan
        found[name] = Estimate(value, error)
    return found | _order_statistics(records) | {"loss_increase_correlation": _correlation(records, undeleted)}


def own_metrics(records: Sequence[Record]) -> list[str]:
    """Returns the names of the tasks' metrics that records have values of, in order of appearance."""
    return list(dict.fromkeys(name for record in records for name in record.metrics or ()))


def _own_metric(name: str) -> Callable[[Record], SumParts]:
    def parts(record: Record) -> SumParts:
        value = (record.metrics or {}).get(name)
        return (0, 0) if value is None else (value, 1)

    return parts


def _order_statistics(records: Sequence[Record]) -> Estimates:
    lengths = [record.num_kept_tokens for record in records if record.num_input_tokens]
    return {
        "kept_length_p95": Estimate(float(np.percentile(lengths, 95)) if lengths else math.nan),
        "kept_length_max": Estimate(float(max(lengths)) if lengths else math.nan),
    }


def _correlation(records: Sequence[Record], undeleted: Sequence[Record]) -> Estimate:
    """NaN where fewer than two examples are in both, or where nothing varies."""
    before = {(record.task, record.index): record.nll for record in undeleted}
    pairs = [
        (_deleted(record) / record.num_input_tokens, record.nll / nll - 1)
        for record in records
        if record.num_input_tokens and (nll := before.get((record.task, record.index), 0.0)) > 0
    ]
    if len(pairs) < 2:
        return Estimate(math.nan)
    shares, increases = np.array(pairs, np.float64).T
    shares, increases = shares - shares.mean(), increases - increases.mean()
    spread = math.sqrt(float(shares @ shares) * float(increases @ increases))
    return Estimate(float(shares @ increases) / spread if spread else math.nan)

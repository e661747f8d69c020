"""How much of the saving that exact lengths would give is left on many devices, with rows dealt and without.

Batches are drawn from rows whose kept lengths are known; nothing is computed but the lengths that their chunks would
run at.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from mrt5_jax.data.byte_classes import BYTE_CLASSES
from mrt5_jax.data.dealing import deal
from mrt5_jax.data.expectation import UNITS, Expectation, expected, feature_names, row_features
from mrt5_jax.errors import UserError

BATCHES = 200
"""That a share is the mean of."""

_DRAWN = 4096


class KeptRows(NamedTuple):
    """Rows of a trained model."""

    languages: list[str]
    num_inputs: Int[np.ndarray, " rows"]
    num_kept: Int[np.ndarray, " rows"]
    class_counts: Int[np.ndarray, "rows classes"] | None
    """Bytes of each class; None where only languages are known."""

    @property
    def shares(self) -> Float[np.ndarray, " rows"]:
        """What is kept of each row."""
        return self.num_kept / self.num_inputs


class Sample(NamedTuple):
    """Rows to draw batches from."""

    kept: Float[np.ndarray, " rows"]
    """As shares of a row's length."""
    expected: Float[np.ndarray, " rows"]
    """What they are dealt by, in any unit."""


def read_kept_rows(path: str | Path) -> KeptRows:
    """Reads a file of kept lengths: lines `language<TAB>inputs<TAB>kept`, maybe followed by counts of byte classes.

    Lines that begin with # and the line of headings are left out.

    Raises:
        UserError: it cannot be read, or a line has something else; with the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}): give a file of kept lengths") from None
    languages, numbers = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith(("#", "script\t")):
            continue
        language, *fields = line.split("\t")
        try:
            values = [int(field) for field in fields]
        except ValueError:
            values = []
        if len(values) not in (2, 2 + len(BYTE_CLASSES)) or not 0 <= values[1] <= values[0] or values[0] == 0:
            raise UserError(
                f"{path}, line {number}: not language, inputs and kept positions"
                f" (or these and {len(BYTE_CLASSES)} counts), separated by tabs"
            )
        languages.append(language)
        numbers.append(values)
    if len(numbers) < 2 or len({len(values) for values in numbers}) > 1:
        raise UserError(f"{path}: should have at least two rows, all with counts of byte classes or all without")
    table = np.array(numbers)
    return KeptRows(languages, table[:, 0], table[:, 1], table[:, 2:] if table.shape[1] > 2 else None)


def features_of_kept(rows: KeptRows) -> tuple[tuple[str, ...], UInt8[np.ndarray, "rows features"]]:
    """Returns what rows can be dealt by, and its names; rows count as full."""
    names = sorted(set(rows.languages))
    of_rows = np.array([names.index(language) for language in rows.languages])
    scale = 1000 / rows.num_inputs
    tokens = np.where(of_rows[:, None] == np.arange(len(names)), 1000, 0)
    if rows.class_counts is None:
        counts = np.zeros((len(of_rows), len(BYTE_CLASSES)), np.int64)
        counts[:, 0] = 1000  # any class: all rows are alike in it
    else:
        counts = np.round(rows.class_counts * scale[:, None]).astype(np.int64)
    return feature_names(names), row_features(counts, tokens, 1000)


def held_out_sample(rows: KeptRows, seed: int = 0) -> Sample:
    """Returns one half of the rows, with what the predictor of training expects of them after it has seen the other."""
    names, features = features_of_kept(rows)
    order = np.random.default_rng(seed).permutation(len(features))
    seen, own = np.array_split(order, 2)
    kept = np.round(UNITS * rows.shares[seen])
    values = np.column_stack([features[seen].astype(np.float64), kept, np.ones(len(seen))])
    expectation = Expectation(names)
    expectation.add(values.T @ values)
    return Sample(rows.shares[own], expected(features[own], expectation.fit()))


def sample_of_run(saved: Mapping[str, Any], seed: int = 0) -> Sample:
    """Returns rows that are like those that a run has seen lately, by what it learned to expect of them.

    Their kept shares have the mean and the variance of the run's rows (a beta distribution), and what is expected of
    them explains the share of the variance that it explained there.

    Args:
        saved: `Expectation.state`, of at least one step with rows.
    """
    expectation = Expectation(saved["features"])
    expectation.restore(saved)
    moments, kept = np.array(saved["moments"]), len(saved["features"])
    count = moments[kept + 1, kept + 1]
    mean = float(np.clip(moments[kept, kept + 1] / count / UNITS, 1e-3, 1 - 1e-3))
    variance = float(np.clip(moments[kept, kept] / count / UNITS**2 - mean**2, 1e-6, 0.99 * mean * (1 - mean)))
    random, weight = np.random.default_rng(seed), mean * (1 - mean) / variance - 1
    shares = random.beta(mean * weight, (1 - mean) * weight, _DRAWN)
    explained = expectation.explained()
    noise = random.normal(0, np.std(shares), _DRAWN)
    return Sample(shares, explained**0.5 * (shares - mean) + (1 - explained) ** 0.5 * noise)


def share_saved(
    sample: Sample,
    devices: int,
    rows: int,
    chunks: int,
    rungs: Sequence[float],
    *,
    dealt: bool,
    body: Callable[[np.ndarray], np.ndarray] = np.asarray,
    batches: int = BATCHES,
) -> float:
    """Returns the mean saving as a share of what exact lengths would save; NaN where these save nothing.

    Args:
        rows: of a device, each of which sorts its own and cuts them into chunks; a chunk's rung is that of the fullest
            row on all devices.
        rungs: as shares of the length, increasing to 1.
        body: work of a row's body by its share of the slots.
    """
    saved = exact = 0.0
    for ran, kept in lengths_run(sample, devices, rows, chunks, rungs, dealt=dealt, batches=batches):
        saved += 1 - float(np.mean(body(ran)))
        exact += 1 - float(np.mean(body(kept)))
    return saved / exact if exact > 0 else float("nan")


class LengthsRun(NamedTuple):
    """Of a batch, as shares of the length."""

    ran: Float[np.ndarray, " chunks"]
    kept: Float[np.ndarray, "devices chunks rows"]


def lengths_run(
    sample: Sample, devices: int, rows: int, chunks: int, rungs: Sequence[float], *, dealt: bool, batches: int = BATCHES
) -> Iterator[LengthsRun]:
    """Yields the lengths that the chunks of some batches run at, and what their rows keep; see `share_saved`."""
    random, lengths = np.random.default_rng(0), np.asarray(rungs)
    for _ in range(batches):
        drawn = random.integers(0, len(sample.kept), devices * rows)
        at = deal(sample.expected[drawn], devices) if dealt else np.arange(len(drawn)).reshape(devices, rows)
        kept = np.sort(sample.kept[drawn][at], axis=1).reshape(devices, chunks, rows // chunks)
        fullest = kept.max(axis=(0, 2))
        ran = lengths[np.minimum(np.searchsorted(lengths, fullest - 1e-9), len(lengths) - 1)]
        yield LengthsRun(ran, kept)

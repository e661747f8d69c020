"""Attention and its gradients are the formula's, in NumPy's float64, in both ways over a batch and cut into blocks."""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mrt5_jax.kernels.xla
from mrt5_jax.kernels.attention import Attended, attention
from mrt5_jax.kernels.position_bias import relative_bias

from ..model import oracle

BATCH, QUERIES, SLOTS, HEADS, WIDTH, BUCKETS, FARTHEST = 3, 6, 9, 2, 4, 8, 16
STEP = 1e-7
"""Of central differences: a score so near 5 that a step takes it across, where the excess has a kink, is rare."""
Arrays = dict[str, np.ndarray]


def make_arrays(seed: int) -> Arrays:
    """Gate values of all sizes, masked keys among them; the last row has no key at all."""
    random = np.random.default_rng(seed)
    mask = random.random((BATCH, SLOTS)) < 0.7
    mask[-1] = False

    def positions(length: int) -> np.ndarray:
        return np.sort(random.integers(0, 60, (BATCH, length)), axis=1).astype(np.int32)

    return {
        "query": random.normal(0, 2, (BATCH, QUERIES, HEADS, WIDTH)),
        "key": random.normal(0, 2, (BATCH, SLOTS, HEADS, WIDTH)),
        "value": random.normal(0, 2, (BATCH, SLOTS, HEADS, WIDTH)),
        "gate": -30 * random.random((BATCH, SLOTS)) * (random.random((BATCH, SLOTS)) < 0.5),
        "embedding": random.normal(0, 1, (HEADS, BUCKETS)),
        "mask": mask,
        "counted": random.random((BATCH, QUERIES)) < 0.8,
        "query_positions": positions(QUERIES),
        "key_positions": positions(SLOTS),
    }


FLOATS = ("query", "key", "value", "gate", "embedding")


def ours(arrays: Any, *, rows: Any, causal: bool, sink: bool) -> Attended:
    places = {name: arrays[name] for name in ("query_positions", "key_positions")}
    bias_table = arrays["embedding"]
    if rows == "one_by_one, bias at once":
        bias_table = relative_bias(bias_table, *places.values(), bidirectional=not causal, max_distance=FARTHEST)
    return attention(
        arrays["query"],
        arrays["key"],
        arrays["value"],
        **places,
        bias_table=bias_table,
        max_distance=FARTHEST,
        key_bias=arrays["gate"],
        key_mask=arrays["mask"],
        query_mask=arrays["counted"],
        excess=True,
        causal=causal,
        sink=sink,
        rows="batched" if rows == "batched" else "one_by_one",
    )


def bucket(distance: int, bidirectional: bool) -> int:
    return oracle.bucket(int(distance), bidirectional=bidirectional, num_buckets=BUCKETS, max_distance=FARTHEST)


def formula(arrays: Arrays, *, causal: bool, sink: bool) -> tuple[np.ndarray, np.ndarray]:
    distance = arrays["key_positions"][:, None, :] - arrays["query_positions"][:, :, None]
    bias = np.moveaxis(arrays["embedding"][:, np.vectorize(bucket)(distance, not causal)], 0, 1)
    scores = np.einsum("bqhd,bkhd->bhqk", arrays["query"], arrays["key"]) + bias
    visible = arrays["mask"][:, None, None, :]
    visible = visible & ((distance[:, None] <= 0) | (not causal))
    counted = np.broadcast_to(visible & arrays["counted"][:, None, :, None], scores.shape)
    excess = (np.maximum(scores - 5, 0) * counted).sum((1, 2, 3)) / np.maximum(counted.sum((1, 2, 3)), 1)
    powers = np.where(visible, np.exp(scores + arrays["gate"][:, None, None, :]), 0)
    total = powers.sum(-1, keepdims=True) + sink
    return np.einsum("bhqk,bkhd->bqhd", powers / np.where(total == 0, 1, total), arrays["value"]), excess


def weighed(values: Any, excess: Any, bar: np.ndarray) -> Any:
    return (values * bar).sum() + (excess * np.arange(1, BATCH + 1)).sum()


@pytest.mark.parametrize(
    ("rows", "causal", "sink", "blocks"),
    [
        ("batched", True, False, 1),
        ("batched", False, True, 3),
        ("one_by_one", False, False, 3),
        ("one_by_one, bias at once", False, True, 1),
        ("one_by_one, bias at once", True, False, 3),
    ],
)
def test_it_is_the_formula(rows: str, causal: bool, sink: bool, blocks: int, monkeypatch) -> None:
    """Values, excess, and all gradients along random directions, by central differences of the formula."""
    monkeypatch.setattr(mrt5_jax.kernels.xla, "_BLOCK_SCORES", HEADS * QUERIES * SLOTS // blocks)
    bar = np.random.default_rng(1).normal(size=(BATCH, QUERIES, HEADS, WIDTH))

    def total(floats: Any, rest: Any) -> Any:
        attended = ours({**floats, **rest}, rows=rows, causal=causal, sink=sink)
        return weighed(attended.values, attended.score_excess, bar), attended

    compiled = jax.jit(jax.grad(total, has_aux=True))

    @settings(max_examples=10, deadline=None)
    @given(seed=st.integers(0, 2**16))
    def check(seed: int) -> None:
        arrays = make_arrays(seed)
        floats = {name: arrays[name].astype(np.float32) for name in FLOATS}
        rest = {name: array for name, array in arrays.items() if name not in FLOATS}
        gradient, attended = compiled(floats, rest)
        values, excess = formula(arrays, causal=causal, sink=sink)
        np.testing.assert_allclose(attended.values, values, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(attended.score_excess, excess, rtol=1e-4, atol=1e-4)
        assert not np.asarray(attended.values)[-1].any()
        for name in FLOATS:
            direction = np.random.default_rng(seed).normal(size=arrays[name].shape)
            ends = (
                weighed(*formula({**arrays, name: moved}, causal=causal, sink=sink), bar)
                for moved in (arrays[name] + STEP * direction, arrays[name] - STEP * direction)
            )
            upper, lower = ends
            slope = (upper - lower) / (2 * STEP)
            size = np.linalg.norm(gradient[name]) + 1
            assert abs(float((gradient[name] * direction).sum()) - slope) < 1e-3 * size, name

    check()

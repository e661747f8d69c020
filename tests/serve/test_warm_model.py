"""What is compiled ahead answers as the front door does, and nothing compiles afterwards."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrt5_jax.api.loading import with_threshold
from mrt5_jax.api.model import Model
from mrt5_jax.compaction.plan import never_empty
from mrt5_jax.errors import UserError
from mrt5_jax.inference.requests import request_of
from mrt5_jax.serve.warm_model import BatchShape, NotFiniteError, WarmModel, Work, batch_sizes, keep_above

from ..compaction.compilations import compilations
from .conftest import ROWS

OTHER_THRESHOLD = -5.0


@pytest.mark.parametrize(("most", "sizes"), [(1, (1,)), (4, (1, 4)), (5, (1, 2, 5)), (16, (1, 4, 16))])
def test_sizes_of_batches_end_in_the_largest_and_begin_with_one(most: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(most) == sizes


def test_shapes_are_every_endpoint_size_and_length(warm: WarmModel) -> None:
    assert len(set(warm.shapes)) == len(warm.shapes) == 4 * 2 * 2
    assert list(warm.lengths) == [64, 128]


def test_nothing_compiles_afterwards_whatever_is_kept(warm: WarmModel) -> None:
    texts = ["", "a", "e" * 60, "bcd" * 20]
    with compilations() as compiled:
        for shape in warm.shapes:
            requests = [request_of(text, "ab", "text", warm.limits) for text in texts[: shape.rows]]
            for threshold in (None, -1.0, -29.0):
                assert len(warm.answer(shape, [Work(shape.endpoint, one, threshold) for one in requests])) == len(
                    requests
                )
    assert compiled == []


def test_another_threshold_keeps_and_writes_what_a_model_with_it_does(model: Model, warm: WarmModel) -> None:
    """Though the compiled programs hold the model's own, and its gate values do not change."""
    texts = ["#HelloWorld", "some bytes, and more", "é" * 20, "xyz"]
    other = dataclasses.replace(model, config=with_threshold(model.config, OTHER_THRESHOLD, "model"))
    found = {}
    for endpoint in ("generate", "deletions"):
        works = [Work(endpoint, request_of(text, None, "text", warm.limits), OTHER_THRESHOLD) for text in texts]
        found[endpoint] = warm.answer(BatchShape(endpoint, ROWS, 64), works)
    for one, expected in zip(found["generate"], other.generate(texts), strict=True):
        assert (one["ids"], one["kept"]) == (expected.ids, expected.kept)
    for pieces, expected in zip(found["deletions"], other.deletions(texts), strict=True):
        assert [kept for piece in pieces for kept in piece.keep] == expected.keep
        values = [value for piece in pieces for value in piece.values]
        np.testing.assert_allclose(values, expected.values, rtol=1e-5, atol=1e-4)
    own = [sum(one.keep) for one in model.deletions(texts)]
    assert own != [one["kept"] for one in found["generate"]], "the other threshold makes a difference"


@pytest.mark.parametrize("threshold", [-29.0, -10.0, -1.0, 0.5])
def test_what_is_kept_above_a_threshold_is_never_nothing(threshold: float) -> None:
    values = np.random.default_rng(0).uniform(-30, 0, (1, 12)).astype(np.float32)
    real = np.arange(12)[None] < 9
    expected = never_empty(*map(jnp.asarray, (values > threshold, values, real)))
    np.testing.assert_array_equal(keep_above(values[0], real[0], threshold), expected[0])


@pytest.mark.parametrize("threshold", [0.0, -30.0, 1.0, float("nan")])
def test_a_threshold_where_no_gate_values_lie_is_refused(warm: WarmModel, threshold: float) -> None:
    with pytest.raises(UserError, match="threshold"):
        warm.check_threshold("deletions", threshold)


def test_a_threshold_acts_under_hard_deletion_alone(model: Model) -> None:
    soft = WarmModel(dataclasses.replace(model, deletion="soft"), ROWS)
    soft.check_threshold("deletions", -10.0)
    with pytest.raises(UserError, match="under hard deletion alone, not soft"):
        soft.check_threshold("generate", -10.0)


def test_numbers_that_are_not_finite_are_no_answers(model: Model, warm: WarmModel) -> None:
    """The programs are those of the model: other parameters of the same shapes compile nothing."""
    broken = WarmModel(dataclasses.replace(model, params=jax.tree.map(lambda leaf: leaf * np.nan, model.params)), ROWS)
    assert broken.no_deletions is not None
    broken._programs = warm._programs
    for shape in warm.shapes:
        (found,) = broken.answer(shape, [Work(shape.endpoint, request_of("ab", "a", "text", warm.limits))])
        assert isinstance(found, NotFiniteError)

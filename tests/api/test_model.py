"""Texts in, results out: any bytes, every mistake in one line, deletions that can be seen."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from mrt5_jax.api.model import Model
from mrt5_jax.errors import UserError
from mrt5_jax.evaluation.page import COLOURS
from mrt5_jax.inference.beam import Beam
from mrt5_jax.inference.sampling import Sampling

from .models import LENGTH, texts

CALLS = {
    "generate": lambda model, given, **how: model.generate(given, **how),
    "encode": lambda model, given, **how: model.encode(given, **how),
    "deletions": lambda model, given, **how: model.deletions(given, **how),
    "score": lambda model, given, **how: model.score([(text, "a") for text in given], **how),
}
LONG = "b" * LENGTH


@pytest.mark.parametrize("call", ["generate", "encode", "deletions", "score"])
def test_bytes_that_are_no_utf_8_are_taken_as_they_are(call: str, model: Model) -> None:
    found = CALLS[call](model, ["é".encode(), b"\xff\x00a", "é"])
    if call == "encode":
        np.testing.assert_allclose(found.hidden[0], found.hidden[2], rtol=1e-5, atol=1e-6)
        assert found.mask[1].any()
    elif call == "deletions":
        assert found[0].ids == found[2].ids
        assert found[1].ids == [258, 3, 100, 1]
    else:
        assert found[0].log_probability == pytest.approx(found[2].log_probability, rel=1e-5)
        assert found[1].length == 4


@pytest.mark.parametrize("call", ["generate", "encode", "deletions"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a text", 'texts is of type str: give a list, as in ["a text"]'),
        ([], "texts is an empty list: give at least one"),
        ([1], "texts[0] is of type int: give a string, or bytes"),
        (["a", None], "texts[1] is of type NoneType"),
        (["\ud800"], "texts[0]"),
        (7, "texts is of type int: give a list"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(call: str, given: Any, message: str, model: Model) -> None:
    with pytest.raises(UserError) as refused:
        CALLS[call](model, given)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["ab"], 'pairs[0] is no pair: give ("input", "target")'),
        ([("a",)], "pairs[0] is no pair"),
        ([("a", 1)], "pairs[0] is of type int"),
        ([("a", None)], "pairs[0] is no pair"),
        (["ab", "cd"], "pairs[0] is no pair"),
        ([], "pairs is an empty list"),
        ([("a", "b" * 8)], "pairs[0]: the target has 9 ids, more than 8: give a larger --max_target_length (in Python"),
    ],
)
def test_what_is_no_pair_is_refused(pairs: Any, message: str, model: Model) -> None:
    with pytest.raises(UserError) as refused:
        model.score(pairs)
    assert message in str(refused.value)


@pytest.mark.parametrize("call", ["generate", "encode", "score"])
def test_inputs_that_are_too_long_are_refused_or_cut(call: str, model: Model) -> None:
    with pytest.raises(UserError, match=r"\[1\]: the input has 65 ids, more than 64: shorten it, or let it be cut"):
        CALLS[call](model, ["a", LONG])
    cut = CALLS[call](model, [LONG], truncate=True)
    expected = CALLS[call](model, [LONG[:-1]])
    if call == "encode":
        np.testing.assert_array_equal(cut.hidden, expected.hidden)
    else:
        assert cut == expected


def test_a_text_that_is_too_long_is_inspected_in_windows(model: Model) -> None:
    (found,) = model.deletions(["é" * LENGTH])
    assert len(found.windows) == 3
    assert found.ids.count(1) == 3
    assert bytes(token - 3 for token in found.ids if token > 2).decode() == "é" * LENGTH


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"max_length": 0}, "max_length=0: must be"),
        ({"batch_size": 0}, "batch_size=0: must be"),
        ({"batch_size": 1.5}, "batch_size=1.5: must be a whole number"),
        ({"seed": -1}, "seed=-1: should be from 0"),
        ({"seed": 0.5}, "seed=0.5: should be from 0"),
        ({"search": "beam"}, "search='beam': give an object, as in"),
        ({"search": Sampling}, "give an object, as in"),
        ({"search": Beam(2**30)}, f"beam size {2**30}: should be at most"),
    ],
)
def test_numbers_that_cannot_be_are_refused(how: dict, message: str, model: Model) -> None:
    with pytest.raises(UserError, match=message):
        model.generate(["a"], **how)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("generate", "texts[0]: the model's numbers are not finite for it"),
        ("score", "pairs[0]: the model's numbers are not finite for it"),
        ("encode", "the model's numbers are not finite for some of these texts"),
        ("deletions", "gate values of this text are not finite at step 0"),
    ],
)
def test_numbers_that_are_not_finite_are_no_answers(call: str, message: str, model: Model) -> None:
    broken = dataclasses.replace(model, params=jax.tree.map(lambda leaf: leaf * np.nan, model.params))
    with pytest.raises(UserError) as refused:
        CALLS[call](broken, ["abc"])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_sample_follows_from_the_seed_and_the_place(model: Model) -> None:
    search = Sampling(temperature=3.0)
    first, again, other = (model.generate(["abc"] * 4, search=search, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len({tuple(one.ids) for one in first}) > 1


def test_what_is_encoded_is_what_is_kept(model: Model) -> None:
    """Positions are those that `deletions` keeps; a text's states do not depend on the others."""
    given = texts(8)
    encoded, alone = model.encode(given), model.encode(given[5:6])
    for row, found in enumerate(model.deletions(given[1:]), start=1):
        kept = np.flatnonzero(found.keep)
        np.testing.assert_array_equal(encoded.positions[row][encoded.mask[row]], kept)
        assert encoded.mask[row, : len(kept)].all()
        assert not encoded.hidden[row, len(kept) :].any()
    assert encoded.hidden.shape == (*encoded.mask.shape, model.config.emb_dim)
    own = encoded.mask[5]
    np.testing.assert_allclose(encoded.hidden[5][own], alone.hidden[0][alone.mask[0]], rtol=1e-4, atol=1e-5)


def test_deletions_show_themselves(model: Model) -> None:
    found = model.deletions(["<b>a</b> and some of what follows", "דג סקרן", b"\xff\n"])
    page = found._repr_html_()
    assert page.count('class="text" dir="auto"') == 3
    assert "&lt;" in page
    assert "<b>" not in page
    assert "\\xFF" in page
    for loaded in ("<script", "http", "url(", "@import"):
        assert loaded not in page
    assert found[0]._repr_html_().count('class="text"') == 1
    shown = repr(found)
    assert "x deleted" in shown
    assert "<b>a</b>" in shown
    assert len(found[1:]) == 2
    rate = found[0].deletion_rate
    assert 0 < rate < 1
    assert rate == 1 - sum(found[0].keep) / len(found[0].ids)


@pytest.mark.parametrize("backdrop", [(255, 255, 255), (17, 17, 17), (30, 30, 46)])
@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_seen_on_light_and_dark(name: str, backdrop: tuple[int, int, int]) -> None:
    """A contrast of 3, as WCAG 2.2 (1.4.11) asks of what carries meaning; words have the page's own colour."""

    def luminance(colour: tuple[int, int, int]) -> float:
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(colour) / 255]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    darker, lighter = sorted((luminance(COLOURS[name]), luminance(backdrop)))
    assert (lighter + 0.05) / (darker + 0.05) >= 3
